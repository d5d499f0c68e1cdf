"""The experiments on one base: each can be built as it is and shrunk, and the sweep runs, resumes and reports them."""

import dataclasses
import functools
import importlib
import json
import os
import pathlib
import re
import signal
from typing import Any

import jax
import pytest

from bertjax import experiment
from bertjax.attention import ATTENTIONS, name_of, shrink
from bertjax.attention.bigbird import BigBird
from bertjax.attention.grouped_query import GroupedQuery
from bertjax.attention.hybrid import Hybrid
from bertjax.attention.linear import Linear
from bertjax.attention.longformer import Longformer
from bertjax.attention.nystroem import Nystroem
from bertjax.attention.performer import Performer
from bertjax.bench.block import Rows, price
from bertjax.config import CHOICES, Config, DataConfig, check
from bertjax.layers.config import Full
from bertjax.models.encoder import Encoder
from bertjax.settings import describe, kind_of
from experiments.attention import full, sweep
from tests.attention.battery import refusal
from tests.helpers import make_batch


def config_of(name: str) -> Config:
    return importlib.import_module(f"experiments.attention.{name}").config()


def build(config: Config) -> None:
    """Shapes of all parameters: what cannot be built is refused here."""
    check(config)
    batch = make_batch((config.data.length,), vocab=config.model.vocab)
    jax.eval_shape(functools.partial(Encoder(config.model).init, train=False), jax.random.key(0), batch)


def test_positions_are_rotary_where_an_attention_can_be_turned() -> None:
    found = {name: kind_of(config_of(name).model.position, CHOICES) for name in sweep.VARIANTS}
    assert found.pop("disentangled") == "relative"
    turned = {name for name, scheme in found.items() if scheme == "rope"}
    assert {name for name, scheme in found.items() if scheme == "learned"} == found.keys() - turned
    assert {"full", "window", "linear", "performer", "gated_unit"} <= turned
    assert not {"cosformer", "fourier", "hybrid_top", "mixer_linear", "synthesizer_dense"} & turned


@pytest.mark.parametrize("name", sweep.VARIANTS)
def test_every_experiment_can_be_built(name: str) -> None:
    module = importlib.import_module(f"experiments.attention.{name}")
    command = f"python -m experiments.attention.{name} --workdir=runs/attention/{name}\n"
    for part in ("\nPaper: ", f"\nCommand: {command}", "\nCost: ", "\nExpected: "):
        assert part in module.__doc__
    config, base = module.config(), full.config()
    build(config)
    build(experiment.smoke(config))
    # The attention, and the positions that it reads, are all that differs.
    same = dataclasses.replace(config.model, attention=base.model.attention, position=base.model.position)
    assert dataclasses.replace(config, model=same) == base
    assert name == "full" or config != base


def test_every_variant_has_an_experiment_and_no_two_are_one() -> None:
    configs = [config_of(name) for name in sweep.VARIANTS]
    assert {name_of(config.model.attention) for config in configs} == set(ATTENTIONS)
    assert len({config.model.attention for config in configs}) == len(configs)


def test_the_corpus_lies_beside_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path) -> None:
    monkeypatch.setattr(full.quickstart, "prepare", lambda config, folder, **text: (config, folder))
    assert full.prepare(full.config(), str(tmp_path / "run")) == (full.config(), str(tmp_path))
    own = dataclasses.replace(full.config(), data=DataConfig(corpus="mine"))
    assert full.prepare(own, str(tmp_path / "run")) is own


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (GroupedQuery(), GroupedQuery(groups=2)),
        (GroupedQuery(groups=1), GroupedQuery(groups=1)),
        (Full("reference"), Full("reference")),
        (Performer(kernel="relu", redraw=None), Performer(16, kernel="relu", redraw=None)),
        (Nystroem(convolution=None), Nystroem(3, convolution=None)),
        (BigBird(), BigBird(1, 1, plans=1)),
        (
            Hybrid(GroupedQuery(), Longformer()),
            Hybrid(GroupedQuery(groups=2), Longformer(2, slots=2), number=1),
        ),
        (Hybrid(Linear(), place="every"), Hybrid(Linear(), place="every")),  # one in one would be none
    ],
    ids=str,
)
def test_shrinking_keeps_what_an_attention_is(options: Any, expected: Any) -> None:
    assert shrink(options) == expected


# ---------------------------------------------------------------------------------------------- the sweep


def test_a_sweep_from_start_to_end(
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    quick_compiles: dict[str, str],
) -> None:
    """One variant is trained; one fails, since it has no such setting. Then nothing is left to do."""
    one_device = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    for name, value in {**quick_compiles, "XLA_FLAGS": one_device}.items():
        monkeypatch.setenv(name, value)  # for the processes that it starts
    flags = [
        "--smoke=true",
        "--variants=linear,window",
        f"--workdir={tmp_path}",
        "--set=model.attention.size=8",
    ]
    assert sweep.main(flags) == 1
    shown = capsys.readouterr().out
    header, _, first, last, _, note = (tmp_path / "table.md").read_text().splitlines()
    assert header == "| variant | positions | parameters | step (ms) | memory (MB) | held-out MLM accuracy |"
    share = float(re.fullmatch(r"Always the most frequent token: (.*)% of the same hidden words.", note)[1])  # type: ignore[index]
    assert 0 < share < 50 and note in shown
    assert "| linear | failed: unknown setting 'model.attention.size'" in last and last in shown
    plan, result = (
        json.loads((tmp_path / "window" / f"{what}.json").read_text()) for what in ("plan", "result")
    )
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    accuracy = f"{result['metrics']['heldout_mlm_accuracy']:.1%}"
    assert [*cells[:3], cells[5]] == ["window", "rope", f"{plan['parameters']:,}", accuracy]
    assert float(cells[3]) > 0 and float(cells[4]) > 4 * plan["parameters"] / 1e6

    # What is missing of a line is made, and nothing else.
    (tmp_path / "window" / "plan.json").unlink()
    start = sweep.start
    started: list[str] = []

    def once(name: str, folder: pathlib.Path, mode: str, given: list[str]) -> None:
        started.append(mode)
        (folder / "plan.json").write_text(json.dumps(plan))

    monkeypatch.setattr(sweep, "start", once)
    assert sweep.main(flags) == 1 and started == ["plan"]
    assert first in capsys.readouterr().out
    monkeypatch.setattr(sweep, "start", start)

    # A folder that holds another run is a line, too.
    other = [*flags[:-1], "--set=model.attention.size=4,train.seed=3"]
    assert sweep.main(other) == 1
    assert "| window | failed: " in capsys.readouterr().out

    monkeypatch.setattr(sweep, "start", lambda *_: pytest.fail("it was finished"))
    assert sweep.main(flags) == 1
    assert first in capsys.readouterr().out


def test_a_sweep_that_is_stopped_says_so(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: Any) -> None:
        raise sweep.Stopped

    monkeypatch.setattr(sweep, "start", stop)
    assert sweep.main(["--smoke=true", "--variants=window", f"--workdir={tmp_path}"]) == 75
    assert "the same command goes on" in capsys.readouterr().err


def test_a_stop_is_passed_on(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also to a run that has only begun to start, and is no failure there."""
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sweep.subprocess, "Popen", lambda *_, **__: Child())
    with pytest.raises(sweep.Stopped):
        sweep.start("full", tmp_path / "full", "train", [])
    assert Child.ended and signal.getsignal(signal.SIGTERM) == before


class Child:
    """A process that dies of SIGTERM while it is waited for."""

    ended = False

    def terminate(self) -> None:
        Child.ended = True

    def wait(self) -> int:
        signal.raise_signal(signal.SIGTERM)
        return -signal.SIGTERM


def test_mistakes_are_one_line(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = f"--workdir={tmp_path / 'runs'}"
    for wrong, message in {
        "--variants=linformr": "unknown variant 'linformr': did you mean 'linformer'?",
        "--set=train.step=3": "unknown setting 'train.step': did you mean 'steps'?",
        "--equal=time": "unknown equal 'time'",
    }.items():
        assert sweep.main([where, wrong]) == 2
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert not (tmp_path / "runs").exists()
    with pytest.raises(SystemExit):
        sweep.main(["--help"])
    shown = capsys.readouterr().out
    assert all(f"  --{path}=" in shown and doc for path, _, doc in describe(sweep.Sweep(), {}))


def test_models_on_equal_terms() -> None:
    for by in ("parameters", "flops"):
        one, base = (
            sweep.resolve(name, sweep.Sweep(equal=by), []).model  # type: ignore[arg-type]
            for name in ("feedforward_only", "full")
        )
        assert base.hidden == full.config().model.hidden
        ours, theirs = (getattr(price(model, Rows(full.LENGTH), None), by) for model in (one, base))
        assert one.hidden != base.hidden and abs(ours / theirs - 1) < 0.02
    message = refusal(lambda: sweep.resolve("linear", sweep.Sweep(), ["model.attention.size=3"]))
    assert "unknown setting" in message


def test_the_best_comes_first(tmp_path: pathlib.Path) -> None:
    lines = [
        ["a", "rope", "1", "2", "3", "9.5%"],
        ["b", "failed: why"],
        ["c", "rope", "1", "2", "3", "10.0%"],
    ]
    rows = sweep.write(tmp_path / "new", lines).splitlines()[2:]
    assert [row[2] for row in rows] == ["c", "a", "b"]
    assert rows == (tmp_path / "new" / "table.md").read_text().splitlines()[2:]
