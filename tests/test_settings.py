"""Typed settings: overriding by path, JSON and back, help; and every error a user can make."""

import dataclasses
import json
import re
from typing import Any, Literal

import pytest

from bertjax import settings
from bertjax.settings import Choices, describe, from_arguments, from_dict, override, to_dict


@dataclasses.dataclass(frozen=True)
class Shape:
    """One of several."""

    rate: float = 0.5
    """How much."""


@dataclasses.dataclass(frozen=True)
class Ring(Shape):
    size: int = 8
    """How wide,
    in tokens."""


@dataclasses.dataclass(frozen=True)
class Line(Shape):
    cap: int | None = None
    """None for no cap."""


@dataclasses.dataclass(frozen=True)
class Part:
    """Presets are records of this very class."""

    width: int = 24
    """Its width."""
    order: Literal["post", "pre"] = "post"
    """Where the norm is."""
    level: Literal[1, 2] | None = None
    shape: Shape = Ring()
    """Which shape."""


@dataclasses.dataclass(frozen=True)
class Group:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    """Two numbers."""
    names: tuple[str, ...] = ()
    flag: bool = False
    label: str | None = None
    extra: Shape | None = None
    """An optional shape."""


@dataclasses.dataclass(frozen=True)
class Root:
    part: Part = Part()
    """The part."""
    group: Group = Group()
    shapes: tuple[Shape, ...] = (Ring(), Line(cap=3))
    """All shapes."""


CHOICES: Choices = {Shape: {"ring": Ring(), "line": Line()}, Part: {"small": Part(), "large": Part(width=96)}}


def change(*assignments: str) -> Root:
    return override(Root(), assignments, CHOICES)


@pytest.mark.parametrize(
    ("assignment", "value"),
    [
        ("part.width=48", 48),
        ("part.width = 48 ", 48),
        ("part.width=1e3", 1000),
        ("part.width=-3", -3),
        ("part.order=pre", "pre"),
        ("part.level=2", 2),
        ("part.level=None", None),
        ("part.shape=line", Line()),
        ("part.shape.size=3", 3),
        ("part=large", Part(width=96)),
        ("group.learning_rate=1e-4", 1e-4),
        ("group.learning_rate=2", 2.0),
        ("group.betas=0.8, 0.9", (0.8, 0.9)),
        ("group.names=a,b,", ("a", "b")),
        ("group.names=", ()),
        ("group.flag=True", True),
        ("group.flag=false", False),
        ("group.label=a=b c", "a=b c"),
        ("group.label=none", None),
        ("group.extra=ring", Ring()),
        ("shapes=line", (Line(),)),
        ("shapes.line.cap=7", 7),
        ("shapes.line.cap=none", None),
    ],
)
def test_override(assignment: str, value: Any) -> None:
    path = assignment.partition("=")[0].strip()
    found: Any = change(assignment)
    for name in path.split("."):
        if isinstance(found, tuple):
            found = found[{"ring": 0, "line": 1}[name]]
        else:
            found = getattr(found, name)
    assert found == value
    assert type(found) is type(value)


def test_override_changes_nothing_else_and_goes_in_order() -> None:
    assert change() == Root()
    changed = change("part.shape=line", "part.shape.cap=5", "part.width=1", "part.width=2")
    assert changed == Root(part=Part(width=2, shape=Line(cap=5)))
    assert change("part.width=7", "part=large").part == Part(width=96)


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("part.widht=3", "unknown setting 'part.widht': did you mean 'width'?"),
        ("learning_rate=3", "unknown setting 'learning_rate': did you mean 'group.learning_rate'?"),
        ("part.cap=3", "unknown setting 'part.cap': did you mean 'shapes.line.cap'?"),
        ("part.zzz=3", "unknown setting 'part.zzz': choose from width, order, level, shape"),
        ("shapes.rign.size=3", "unknown setting 'shapes.rign.size': did you mean 'part.shape.size'?"),
        ("shapes.rign=3", "unknown setting 'shapes.rign': did you mean 'ring'?"),
        ("part.width.more=3", "unknown setting 'part.width.more': there is nothing below int 24"),
        ("group.extra.rate=3", "group.extra is off: set group.extra to one of ring|line first"),
        ("group.label.x=3", "unknown setting 'group.label.x': there is nothing below NoneType None"),
        ("part.width=abc", "part.width='abc' is not of type int"),
        ("part.width=1.5", "part.width='1.5' is not of type int"),
        ("part.width=1e-3", "part.width='1e-3' is not of type int"),
        ("part.width=1e999", "part.width='1e999' is not of type int"),
        ("part.width=", "part.width='' is not of type int"),
        ("part.width=none", "part.width='none' is not of type int"),
        ("group.flag=yes", "group.flag='yes' is not of type bool"),
        ("group.betas=0.9", "group.betas='0.9' has 1 values: write 2, with commas between"),
        ("group.betas=0.9,x", "group.betas='x' is not of type float"),
        ("part.order=pots", "unknown part.order 'pots': did you mean 'post'?"),
        ("part.level=3", "unknown part.level '3': choose from 1, 2"),
        ("part.shape=rinng", "unknown part.shape 'rinng': did you mean 'ring'?"),
        ("shapes=ring,x", "unknown shapes 'x': choose from ring, line"),
        ("group=3", "group is a group of settings: set one of learning_rate, betas, "),
        ("part.width", "--set takes path=value, not 'part.width'"),
        ("=3", "--set takes path=value, not '=3'"),
    ],
)
def test_override_errors(assignment: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        change(assignment)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_json_and_back() -> None:
    config = change("part.shape=line", "group.extra=ring", "shapes.line.cap=9", "group.names=a,b")
    data = to_dict(config, CHOICES)
    assert data["part"]["shape"] == {"kind": "line", "rate": 0.5, "cap": None}
    assert [item["kind"] for item in data["shapes"]] == ["ring", "line"]
    assert from_dict(Root, json.loads(json.dumps(data)), CHOICES) == config


def test_json_from_an_older_or_a_newer_version() -> None:
    data = to_dict(Root(part=Part(width=7)), CHOICES)
    del data["part"]["order"], data["group"]
    data["part"]["shape"]["rate"] = 1  # JSON of other writers knows no difference between 1 and 1.0
    read = from_dict(Root, data, CHOICES)
    assert read == Root(part=Part(width=7, shape=Ring(rate=1.0)))
    assert isinstance(read.part.shape.rate, float)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"part": {"widht": 1}}, "unknown setting config.part.widht: did you mean 'width'?"),
        ({"part": {"shape": {"kind": "rig"}}}, "unknown config.part.shape 'rig': did you mean 'ring'?"),
        ({"part": {"shape": {"rate": 1}}}, "config.part.shape names no kind: choose from ring, line"),
        ({"part": 3}, "config.part is a group of settings, not 3"),
    ],
)
def test_json_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_dict(Root, change, CHOICES)
    assert str(caught.value) == message


def test_digest_and_differences() -> None:
    ours, theirs = {"a": {"b": 1, "c": 2}}, {"a": {"c": 2, "b": 1}}
    assert settings.digest(ours) == settings.digest(theirs)
    assert list(settings.differences(ours, theirs)) == []
    theirs = {"a": {"b": 1, "c": 3, "d": [4]}}
    assert settings.digest(ours) != settings.digest(theirs)
    assert list(settings.differences(ours, theirs)) == ["a.c: 3 there, 2 here", "a.d: [4] there, None here"]


def test_describe() -> None:
    lines = {path: (value, doc) for path, value, doc in describe(Root(), CHOICES)}
    assert lines["part"] == ("small", "The part. [small|large]")
    assert lines["part.width"] == (24, "Its width.")
    assert lines["part.order"] == ("post", "Where the norm is. [post|pre]")
    assert lines["part.level"] == (None, " [1|2]")
    assert lines["part.shape"] == ("ring", "Which shape. [ring|line]")
    assert lines["part.shape.rate"] == (0.5, "How much.")
    assert lines["part.shape.size"] == (8, "How wide, in tokens.")
    assert lines["group.betas"] == ("0.9,0.999", "Two numbers.")
    assert lines["group.extra"] == (None, "An optional shape. [ring|line]")
    assert lines["shapes"] == ("ring,line", "All shapes. [ring|line]")
    assert lines["shapes.line.cap"] == (3, "None for no cap.")
    assert (
        dict((path, value) for path, value, _ in describe(change("part.width=1"), CHOICES))["part"]
        == "custom"
    )


def set_all(config: Any, start: Any, choices: Choices) -> Any:
    lines = [f"{path}={value}" for path, value, _ in describe(config, choices) if value != "custom"]
    return override(start, lines, choices)


def test_what_is_described_can_be_set() -> None:
    config = change(
        "part.shape=line", "part.shape.cap=5", "group.names=a,b", "group.extra=line", "shapes=line"
    )
    assert set_all(config, Root(), CHOICES) == config


def test_a_kind_without_a_name_is_a_mistake_of_ours() -> None:
    class Stray(Shape):
        pass

    @dataclasses.dataclass(frozen=True)
    class Hidden:
        kind: str = "x"

    with pytest.raises(AssertionError, match="would hide"):
        to_dict(Hidden(), CHOICES)
    with pytest.raises(AssertionError, match="Stray is a Shape that cannot be chosen"):
        to_dict(Root(part=Part(shape=Stray())), CHOICES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--learning_rate=0.1", "--label=--x", "--flag=true"],
        ["--learning_rate", "0.1", "--label=--x", "--flag", "true"],
    ],
)
def test_command_line(arguments: list[str]) -> None:
    found = from_arguments(Group(), arguments, CHOICES, "usage: it")
    assert found == Group(learning_rate=0.1, label="--x", flag=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lable=x"], "unknown option '--lable': did you mean 'label'?"),
        (["--label"], "--label needs a value"),
        (["--label", "--flag=true"], "--label needs a value"),
        (["label=3"], "unexpected argument 'label=3': options are written --name=value"),
        (["--flag=3"], "flag='3' is not of type bool"),
    ],
)
def test_command_line_errors(arguments: list[str], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        from_arguments(Group(), arguments, CHOICES, "usage: it")
    assert str(caught.value) == message


def test_command_line_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        from_arguments(Group(), ["--flag=true", "--help"], CHOICES, "usage: it")
    assert caught.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("usage: it\n")
    assert "  --betas=0.9,0.999\n        Two numbers.\n" in shown


# ------------------------------------------------------------------------ the config of this project


def test_every_setting_of_a_run_is_documented_and_can_be_set() -> None:
    from bertjax.config import CHOICES, Config

    lines = list(describe(Config(), CHOICES))
    assert [path for path, _, doc in lines if not doc.strip()] == []
    assert set_all(Config(), Config(), CHOICES) == Config()


def test_every_choice_of_a_run_survives_json() -> None:
    from bertjax.config import CHOICES

    for base, prototypes in CHOICES.items():
        for name, prototype in prototypes.items():
            data = json.loads(json.dumps(to_dict(prototype, CHOICES)))
            assert from_dict(base, data, CHOICES) == prototype, name
            assert [path for path, _, doc in describe(prototype, CHOICES) if not doc.strip()] == [], name


@dataclasses.dataclass(frozen=True)
class Leg:
    """A record that is no chosen kind."""

    until: int
    """Where it ends."""
    name: str = "plain"
    """What it is called."""


@dataclasses.dataclass(frozen=True)
class Trip:
    """A record with a tuple of records."""

    legs: tuple[Leg, ...] = ()
    """The way."""


def test_a_tuple_of_records_is_written_with_colons():
    trip = settings.override(Trip(), ["legs=3:first", "legs.0.until=4"], {})
    assert trip == Trip((Leg(4, "first"),))
    trip = settings.override(Trip(), ["legs=3:first,5:second"], {})
    assert trip == Trip((Leg(3, "first"), Leg(5, "second")))
    written = {path: value for path, value, _ in settings.describe(trip, {})}
    assert written == {
        "legs": "3:first,5:second",
        "legs.0.until": 3,
        "legs.0.name": "first",
        "legs.1.until": 5,
        "legs.1.name": "second",
    }
    assert settings.from_dict(Trip, settings.to_dict(trip, {}), {}) == trip
    assert settings.override(trip, ["legs="], {}) == Trip()


@pytest.mark.parametrize(
    "text, message",
    [
        ("legs=3:a:b", "has 3 values: write until:name"),
        ("legs=x:a", "legs.until='x' is not of type int"),
        ("legs=3", "is a group of settings"),
        ("legs.7.until=3", "unknown setting 'legs.7.until'"),
    ],
)
def test_a_record_that_cannot_be_read_is_one_line(text, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        settings.override(Trip((Leg(1),)), [text], {})
    assert "\n" not in str(error.value)
