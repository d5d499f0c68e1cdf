"""The config of a run: JSON and back, what a resumed run may change, and combinations that are refused."""

import dataclasses
import json
import pathlib
import typing
from typing import Any

import jax
import pytest
from runs import tiny

from bertjax import config as config_lib
from bertjax import settings
from bertjax.config import CHOICES, Config, Phase, check, claim, fingerprint, from_dict, read_workdir, to_dict
from bertjax.layers.config import EncoderConfig
from bertjax.tasks import TASKS

# Where and how a run is computed, how often it speaks, and where the same text lies.
FREE = {
    "model.scan",
    "model.remat",
    "data.corpus",
    "data.cache",
    "data.threads",
    "data.ahead",
    "train.microbatches",
    "train.phases.0.microbatches",
    "train.log_every",
    "train.eval_every",
    "train.evals_per_epoch",
    "train.eval_batches",
    "train.checkpoint_every",
    "train.keep",
    "train.compiled",
    *(f"train.watchdog.{name}" for name in ("steps", "seconds", "start", "pause", "silence")),
}


def leaves(config: Any, path: str = "") -> dict[str, Any]:
    """Every value of a config by its path; the items of a tuple by their number."""
    found = {}
    for field in dataclasses.fields(config):
        value, here = getattr(config, field.name), f"{path}{field.name}"
        if dataclasses.is_dataclass(value):
            found |= leaves(value, f"{here}.")
        elif isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            for number, item in enumerate(value):
                found |= leaves(item, f"{here}.{number}.")
        else:
            found[here] = value
    return found


def changed(config: Any, path: list[str], value: Any) -> Any:
    """The config with one value exchanged, whatever anybody thinks of it."""
    if isinstance(config, tuple):
        number = int(path[0])
        return config[:number] + (changed(config[number], path[1:], value),) + config[number + 1 :]
    copy = object.__new__(type(config))
    copy.__dict__.update(config.__dict__)
    name, rest = path[0], path[1:]
    copy.__dict__[name] = changed(getattr(config, name), rest, value) if rest else value
    return copy


def through_json(config: Config) -> Config:
    return from_dict(json.loads(json.dumps(to_dict(config))))


# ---------------------------------------------------------------------------------------------- JSON

KINDS = [(base, name) for base, prototypes in CHOICES.items() for name in prototypes]


def holding(base: type, choice: Any) -> Config:
    """A config that holds one prototype where its kind belongs."""
    config = Config()
    if isinstance(choice, EncoderConfig):
        return dataclasses.replace(config, model=choice)
    for path in ("model", "data", "optim", "train"):
        owner = getattr(config, path)
        for name in fields_of(owner, base):
            return dataclasses.replace(config, **{path: changed(owner, [name], choice)})
    if isinstance(choice, config_lib.Task):
        return dataclasses.replace(config, tasks=(choice,))
    if isinstance(choice, config_lib.HeadOptions):
        return dataclasses.replace(config, heads=(choice,))
    tasks = (*config.tasks, *TASKS.values())
    # A pooled token is made of the last layer alone, and a task that reads it takes no other features.
    task = next(one for one in tasks if fields_of(one, base) and getattr(one, "pooling", None) != "pooled")
    (name, *_) = fields_of(task, base)
    return dataclasses.replace(config, tasks=(dataclasses.replace(task, **{name: choice}),))


def fields_of(owner: Any, base: type) -> list[str]:
    """The fields that hold a choice of one kind, or of that or nothing."""
    kinds = settings.field_types(type(owner))
    return [name for name, kind in kinds.items() if kind is base or base in typing.get_args(kind)]


@pytest.mark.parametrize(("base", "name"), KINDS, ids=lambda value: getattr(value, "__name__", value))
def test_every_choice_survives_json(base: type, name: str) -> None:
    config = holding(base, CHOICES[base][name])
    assert through_json(config) == config
    assert config != Config() or CHOICES[base][name] in [
        *vars(Config().model).values(),
        *vars(Config().data).values(),
        *vars(Config().optim).values(),
        *Config().tasks,
        *(value for task in Config().tasks for value in vars(task).values()),
        Config().model,
    ]


def test_json_keeps_every_value_and_type() -> None:
    config = tiny(
        "optim.clip_norm=none", "optim.learning_rate=2", "train.eval_every=none", "tasks.mlm.rate=0.4"
    )
    back = through_json(config)
    assert back == config
    assert {path: type(value) for path, value in leaves(back).items()} == {
        path: type(value) for path, value in leaves(config).items()
    }


def test_json_with_a_setting_nobody_knows_is_refused() -> None:
    data = to_dict(tiny())
    data["train"]["stepps"] = 3
    with pytest.raises(ValueError, match=r"unknown setting config.train.stepps: did you mean 'steps'\?"):
        from_dict(data)


# ---------------------------------------------------------------------------------------------- fingerprint


def other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if value is None:
        return 7
    if isinstance(value, (int, float)):
        return value + 1
    return f"{value}x" if isinstance(value, str) else (*value, Phase(until=3, length=9, batch_size=8))


PHASED = tiny("train.phases=4:10:8")


@pytest.mark.parametrize("path", leaves(PHASED))
def test_a_resumed_run_may_change_where_it_runs_and_nothing_that_it_computes(path: str) -> None:
    config = PHASED
    value = other(leaves(config)[path])
    after = changed(config, path.split("."), value)
    assert leaves(after) != leaves(config)
    same = fingerprint(after, "corpus") == fingerprint(config, "corpus")
    assert same == (path in FREE or path.startswith("mesh."))


def test_the_text_counts_by_its_content() -> None:
    assert fingerprint(tiny(), "one text") != fingerprint(tiny(), "another")


# ---------------------------------------------------------------------------------------------- workdir


def test_a_workdir_belongs_to_one_run(tmp_path: pathlib.Path) -> None:
    workdir = str(tmp_path / "runs" / "one")
    claim(workdir, tiny(), "text")
    assert read_workdir(workdir) == (tiny(), fingerprint(tiny(), "text"))
    moved = tiny("mesh.data=4", "train.log_every=9")
    claim(workdir, moved, "text")
    assert read_workdir(workdir)[0] == moved
    before = (tmp_path / "runs" / "one" / "config.json").read_bytes()
    others = (
        "model.layers=3",
        "train.seed=1",
        "optim.optimizer=lion",
        "tasks.mlm.rate=0.2",
        "data.length=13",
    )
    with pytest.raises(ValueError) as caught:
        claim(workdir, tiny(*others), "text")
    text = str(caught.value)
    assert text.startswith(
        f"{workdir} holds another run: data.length: 14 there, 13 here; model.layers: 2 there, 3 here"
    )
    assert text.endswith("choose another --workdir or delete it") and "\n" not in text and "more)" in text
    with pytest.raises(ValueError, match="holds another run: data.corpus: 'text' there, 'other' here"):
        claim(workdir, tiny(), "other")
    assert (tmp_path / "runs" / "one" / "config.json").read_bytes() == before


def test_only_the_first_process_writes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    claim(str(tmp_path / "run"), tiny(), "text")
    assert not (tmp_path / "run").exists()


def test_the_tokenizer_moves_in(tmp_path: pathlib.Path) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "tokenizer").mkdir(parents=True)
    (corpus / "tokenizer" / "vocab.txt").write_text("[PAD]\n")
    claim(str(tmp_path / "run"), tiny(f"data.corpus={corpus}"), "text")
    assert (tmp_path / "run" / "tokenizer" / "vocab.txt").read_text() == "[PAD]\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "holds no run: .*config.json is missing; train there first"),
        ("", "cannot be read"),
        ('{"config": {"train": {"ste', "cannot be read"),
        ("{}", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"config": {"train": {"speed": 3}}, "fingerprint": {}}', "unknown setting config.train.speed"),
        ('{"config": {"train": 3}, "fingerprint": {}}', "cannot be read"),
    ],
)
def test_a_workdir_that_holds_no_config_is_one_line(
    content: str | None, message: str, tmp_path: pathlib.Path
) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_workdir(str(tmp_path))
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------- combinations


def test_settings_that_fit_only_together_may_come_in_any_order() -> None:
    pair = ("model.width=100", "model.heads=10")
    for assignments in (pair, pair[::-1]):
        model = tiny(*assignments).model
        assert (model.width, model.heads) == (100, 10)
    with pytest.raises(ValueError, match="model.heads=10 does not divide model.width=24: heads=8 would"):
        tiny("model.heads=10")


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        *(
            (f"train.{name}=0", f"train.{name}=0 must be at least 1$")
            for name in ("steps", "keep", "microbatches")
        ),
        ("data.corpus=", "data.corpus is empty: name a folder"),
        ("data.corpus=a,b,a", "data.corpus=a,b,a names one twice: give it a greater share by data.weights"),
        ("data.weights=1,2", "data.weights has 2 values and data.corpus 1: give each corpus one, or none"),
        ("data.weights=-1", "data.weights=-1.0 and data.temperature=1.0 must be above 0"),
        ("data.temperature=0", "data.weights= and data.temperature=0.0 must be above 0"),
        ("train.batch_size=-8", "train.batch_size=-8 must be at least 1$"),
        ("train.log_every=0", "train.log_every=0 must be at least 1$"),
        ("train.eval_batches=0", "train.eval_batches=0 must be at least 1$"),
        ("train.checkpoint_every=0", "train.checkpoint_every=0 must be at least 1$"),
        ("train.eval_every=0", "train.eval_every=0 must be at least 1, or none for never"),
        ("optim.learning_rate=-1e-3", "optim.learning_rate=-0.001 .* must not be negative; BERT has 1e-4"),
        ("optim.learning_rate=nan", "optim.learning_rate=nan"),
        ("optim.learning_rate=inf", "optim.learning_rate=inf"),
        ("optim.warmup_steps=-1", "optim.warmup_steps=-1 must not be negative"),
        ("optim.clip_norm=0", "optim.clip_norm=0.0 must be above 0, or none for no clipping"),
        ("tasks=", "tasks is empty: choose from mlm, "),
        ("data.format=padded", "nsp"),
    ],
)
def test_what_no_part_can_see_alone_is_refused(assignment: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        check(tiny(assignment))
    assert "\n" not in str(caught.value)


def test_the_defaults_and_the_tiny_run_are_fine() -> None:
    check(Config())
    check(tiny("train.eval_every=none", "optim.clip_norm=none", "optim.warmup_steps=0", "train.seed=0"))
