"""Laws of growth: what is printed is what was measured, and what breaks a law is told."""

import dataclasses
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from runs import tiny

from bertjax.__main__ import main
from bertjax.bench import compile as compilation
from bertjax.bench import law, laws, scale, start
from bertjax.bench.law import Laws, Seen
from bertjax.data.packing import best_fit_decreasing


def seen(value: float, bounds: tuple[float, float]) -> Seen:
    return Seen("a law", {"one": 1.0, "two": 2.0}, "s", "ratio", value, bounds)


@pytest.mark.parametrize(
    ("value", "bounds", "met", "bound", "word"),
    [
        (1.05, (0, 1.1), True, "at most 1.1", "yes"),
        (1.15, (0, 1.1), False, "at most 1.1", "NO"),
        (0.8, (0.85, 1.15), False, "0.85 to 1.15", "NO"),
        (9.0, law.NOTHING, None, "–", "–"),
    ],
)
def test_what_is_held_to_what(
    value: float, bounds: tuple[float, float], met: bool | None, bound: str, word: str
) -> None:
    one = seen(value, bounds)
    assert one.met is met
    assert one.row == ("a law", "one 1, two 2 s", "ratio", f"{value:.3f}", bound, word)
    assert Seen.from_json(json.loads(json.dumps(one.as_json()))) == one


def test_a_list_is_written(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = {"good": lambda options: [seen(1.0, (0, 1.1))], "bad": lambda options: [seen(2.0, (0, 1.1))]}
    law.measure(made, Laws(only=("bad",), out=str(tmp_path)), "laws")
    written = json.loads((tmp_path / "laws.json").read_text())["laws"]
    assert [(entry["name"], one["seen"], one["met"]) for entry in written for one in entry["seen"]] == [
        ("bad", 2.0, False)
    ]
    assert (
        "| a law | one 1, two 2 s | ratio | 2.000 | at most 1.1 | NO |" in (tmp_path / "laws.md").read_text()
    )
    assert (tmp_path / "laws.png").stat().st_size > 1000
    assert "a law | one 1" in capsys.readouterr().out
    with pytest.raises(ValueError, match="only=bat is no law of bench laws: did you mean 'bad'"):
        law.measure(made, Laws(only=("bat",), out=str(tmp_path)), "laws")


def test_a_list_goes_on(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is there is kept, in the order of the list; it is measured anew for other options, and without `code`."""
    asked = []

    def make(value: float, bounds: tuple[float, float]) -> Any:
        return lambda options: asked.append(value) or [seen(value, bounds)]

    made = {"one": make(1.0, (0, 1.1)), "two": make(2.0, law.NOTHING), "three": make(3.0, (0, 1.1))}
    options = Laws(only=("three",), out=str(tmp_path))
    law.measure(made, options, "laws", code=("bench/law.py",))
    found = law.measure(made, dataclasses.replace(options, only=()), "laws", code=("bench/law.py",))
    assert asked == [3.0, 1.0, 2.0] and [one.seen for one in found] == [1.0, 2.0, 3.0]
    assert "three: known, in" in capsys.readouterr().out
    assert (
        law.measure(made, dataclasses.replace(options, only=("two",)), "laws", code=("bench/law.py",))
        == found
    )
    assert len(asked) == 3 and "NaN" not in (tmp_path / "laws.json").read_text()
    assert "Infinity" not in (tmp_path / "laws.json").read_text()
    law.measure(made, dataclasses.replace(options, rounds=4), "laws", code=("bench/law.py",))
    for _ in range(2):
        law.measure(made, options, "laws")
    assert asked[3:] == [3.0, 3.0, 3.0]


def test_the_second_of_two_runs_counts_and_of_those_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a run leaves to be done is paid for by the next of its kind."""
    now, left = [0.0], [0.0]
    monkeypatch.setattr(law.time, "perf_counter", lambda: now[0])

    def make(*seconds: float) -> Any:
        turns = iter([one for each in seconds for one in (each, each)])

        def run() -> None:
            took = next(turns)
            now[0] += took + left[0]
            left[0] = took / 10

        return run

    found = law.fastest({"small": make(1.0, 1.5), "large": make(50.0, 40.0)}, rounds=2)
    assert found == {"small": pytest.approx(1.1), "large": pytest.approx(44.0)}


def test_all_laws_are_in_the_list() -> None:
    assert [*laws.LAWS] == [
        "padding",
        "documents",
        "window",
        "head",
        "memory",
        "scanned",
        "unrolled",
        "machines",
    ]


@pytest.mark.parametrize("share", scale.PADDING)
def test_documents_come_with_the_padding_they_stand_for_and_pack(share: float) -> None:
    lengths = scale.natural(share, 512)
    assert 1 - lengths.mean() / 512 == pytest.approx(share, abs=0.02)
    where = best_fit_decreasing(lengths, 512)
    assert lengths.sum() / (512 * (where.max() + 1)) > 0.97


def test_a_batch_has_rows_of_all_kinds() -> None:
    config = scale.config_of(Laws().model, 16, 512)
    batch = scale.batch_of(config, scale.natural(0.6, 512))
    assert batch.tokens.shape == (16, 512) and 0.95 < np.mean(batch.mask) <= 1
    assert batch.segments is not None and batch.segments.max() > 1
    same = scale.batch_of(scale.config_of(Laws().model, 2, 2048), np.full(8, 512))
    assert same.mask.all() and same.segments is not None and (same.segments.max(1) == 4).all()


class Fake:
    """Stands in for a step."""

    def __init__(self, config: Any, batch: Any) -> None:
        self.batch, self.rate = batch, config.tasks[0].rate

    def place(self, batch: Any) -> Any:
        return batch

    def __call__(self, batch: Any = None) -> Any:
        return {"predicted": (1000 * self.rate, 1.0)}


@pytest.mark.parametrize("exact", [True, False])
def test_laws_of_steps(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Times that follow the laws meet them, and times that do not are found."""

    def fastest(runs: Mapping[Any, Any], rounds: int) -> dict[Any, float]:
        if 0.0 in runs:  # padding
            return {share: 1.0 if exact else 1.0 + share for share in runs}
        if 0.05 in runs:  # rates
            return {rate: 1.0 + rate ** (1 if exact else 2) for rate in runs}
        return {length: 1.0 if exact else length / 512 for length in runs}

    monkeypatch.setattr(scale, "Step", Fake)
    monkeypatch.setattr(scale, "fastest", fastest)
    found = [one for name in ("padding", "documents", "window", "head") for one in scale.LAWS[name](Laws())]
    assert [one.met for one in found] == [exact, exact, None, exact, exact]
    assert found[-1].seen == pytest.approx(1 if exact else 2)
    assert "skips no blocks here" in found[2].law


@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_a_head_over_all_positions_breaks_its_law(noise: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs the same whatever is predicted, and differences of noise do not hide that."""
    random = np.random.default_rng(0)
    monkeypatch.setattr(scale, "Step", Fake)
    monkeypatch.setattr(
        scale, "fastest", lambda runs, _: {rate: 1 + noise * random.random() for rate in runs}
    )
    (found,) = scale.head(Laws())
    assert found.seen == 0 and found.met is False


@pytest.mark.parametrize("exact", [True, False])
def test_laws_of_compilation(exact: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def compile_time(config: Any, vocabulary: Any, layers: int, *, seed: int, scan: bool) -> float:
        return 3.0 + seed if scan and exact else (seed + 1) * (3.0 + (layers if exact else layers**2))

    monkeypatch.setattr(compilation, "compile_time", compile_time)
    found = [one for name in ("scanned", "unrolled") for one in compilation.LAWS[name](Laws())]
    assert [one.met for one in found] == [exact, exact]
    assert found[0].points["12 layers"] == (3 if exact else 147)  # the least
    assert found[1].seen == pytest.approx(1 if exact else 2)
    assert compilation.machines(Laws()) == []


def test_a_step_is_run_on_what_it_is_given(quick_compiles: dict[str, str]) -> None:
    config = scale.config_of(tiny().model, 8, 16, rate=0.25)
    step = scale.Step(config, scale.batch_of(config, np.full(24, 8)))
    metrics = step()
    assert int(metrics["predicted"][0]) == 8 * 4 and int(metrics["tokens"][0]) == 8 * 16
    assert int(step(step.place(scale.batch_of(config, np.full(24, 9))))["tokens"][0]) == 8 * 9
    assert int(step.state.step) == 2


CHILD = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
for line in ("devices     8", "compiled in 1.0 s", "step 1/9  loss 1.0"):
    time.sleep(0.1)
    print(line, file=sys.stderr, flush=True)
time.sleep(30)
"""


def test_a_start_is_watched_and_ended() -> None:
    begun = start.begin([sys.executable, "-c", CHILD])
    assert begun.opened >= 0.1 and begun.stepped < 20
    assert sum(begun.parts.values()) == pytest.approx(begun.stepped)
    assert begun.compiled - begun.opened == pytest.approx(0.1, abs=0.09)
    with pytest.raises(ValueError, match="ended with 3: error: no such corpus"):
        start.begin(
            [sys.executable, "-c", "import sys; print('error: no such corpus', file=sys.stderr); sys.exit(3)"]
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["laws", "--tokens=100"], "tokens=100 must be at least 8192"),
        (["compile", "--topologies=v5e:4x4"], "two or more are compared"),
        (["start", "--limit=0"], "limit=0.0 above 0"),
        (["scale", "--only=heads"], "only=heads is no law of bench scale: did you mean 'head'"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
