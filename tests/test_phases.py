"""Runs whose rows change on the way: one experiment, one schedule, one set of checkpoints."""

import json
import pathlib
import shutil
import signal
from typing import Any

import jax
import numpy as np
import pytest
from runs import assert_equal, records, start, tiny

from bertjax import evaluate, plan, train
from bertjax.checkpoint import Checkpoints
from bertjax.config import check, from_dict, stages, to_dict
from bertjax.data.loader import Loader
from bertjax.data.open import open_vocabulary
from bertjax.optim import learning_rate
from bertjax.sharding import MeshConfig

pytestmark = pytest.mark.usefixtures("quick_compiles")

TWO = ("train.steps=8", "train.phases=4:10:8", "model.dropout=0.1", "data.threads=0", "data.ahead=1")


def kept(workdir: pathlib.Path, step: int, *settings: str) -> Any:
    program, _ = start(tiny(*settings))
    return jax.device_get(Checkpoints(workdir).restore(step, program.state))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Four steps of 8 rows of 10 tokens, then four of 16 rows of 14."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.train(tiny(*TWO), str(workdir))
    return workdir


def test_a_run_is_cut_where_its_rows_change() -> None:
    config = tiny("train.steps=9", "train.phases=2:5:8,6:7:32:4")
    found = stages(config)
    assert [(stage.first, stage.last) for stage in found] == [(0, 2), (2, 6), (6, 9)]
    shapes = [(s.config.data.length, s.config.train.batch_size, s.config.train.microbatches) for s in found]
    assert shapes == [(5, 8, 1), (7, 32, 4), (14, 16, 1)]
    assert all(stage.config.train.steps == 9 and not stage.config.train.phases for stage in found)
    assert from_dict(to_dict(config)) == config
    assert [(s.first, s.last, s.config) for s in stages(tiny())] == [(0, 12, tiny())]


@pytest.mark.parametrize(
    "phases, message",
    [
        ("4:10:8,4:12:8", "these must ascend"),
        ("12:10:8", "train.phases end at 12 and train.steps=12"),
        ("4:0:8", "train.phases.0.length=0 must be at least 1"),
        ("0:10:8", "train.phases.0.until=0 must be at least 1"),
    ],
)
def test_phases_that_are_none_are_refused(phases: str, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check(tiny(f"train.phases={phases}"))
    assert "\n" not in str(error.value)


def test_a_later_phase_is_checked_before_the_first_begins(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="train.phases, steps 4 to 12: rows of 20 tokens are longer"):
        train.train(tiny("train.phases=4:10:8", "data.length=20"), str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_both_phases_are_one_run(whole: pathlib.Path) -> None:
    result = json.loads((whole / "result.json").read_text())
    assert result["step"] == 8
    lines = [line for line in records(whole) if "loss" in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    rates = [line["learning_rate"] for line in lines]
    schedule = learning_rate(tiny(*TWO).optim, 8)
    wanted = [np.mean([float(schedule(step)) for step in (first, first + 1)]) for first in (0, 2, 4, 6)]
    np.testing.assert_allclose(rates, wanted, rtol=1e-5)
    evaluated = [line["step"] for line in records(whole) if "heldout_loss" in line]
    assert evaluated == [4, 8]
    for line in (whole / "metrics.jsonl").read_text().splitlines():
        assert 0 <= json.loads(line).get("waiting", 0) <= 1
    assert not train.train(tiny(*TWO), str(whole))


def test_a_checkpoint_is_evaluated_on_the_rows_of_its_phase(
    whole: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = evaluate.run(str(whole), MeshConfig(data=1))
    last = records(whole)[-1]
    assert last["step"] == 8 and found["loss"] == pytest.approx(last["heldout_loss"], rel=1e-5)
    shutil.copytree(whole, tmp_path / "half")
    shutil.rmtree(tmp_path / "half" / "checkpoints" / "8")
    found = evaluate.run(str(tmp_path / "half"), MeshConfig(data=1))
    (half,) = (line for line in records(whole) if "heldout_loss" in line and line["step"] == 4)
    assert found["loss"] == pytest.approx(half["heldout_loss"], rel=1e-5)
    longer = evaluate.run(str(tmp_path / "half"), MeshConfig(data=1), ["train.phases="])
    assert longer["loss"] != found["loss"]
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_model_runs_on_rows_four_times_as_long_as_in_training(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Where its positions allow; else a line says what would."""
    assert train.train(tiny(*TWO[:1], "model.position=rope", "model.max_length=14"), str(tmp_path))
    found = [evaluate.run(str(tmp_path), MeshConfig(data=1), more) for more in ([], ["data.length=56"])]
    short, long = (values["loss"] for values in found)
    assert np.isfinite(long) and long != short
    with pytest.raises(ValueError, match="rows of 56 tokens are longer than the table of learned positions"):
        evaluate.run(str(whole), MeshConfig(data=1), ["data.length=56", "train.phases="])


def test_a_plan_tells_of_every_phase(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(*TWO)
    result = plan.run(config, open_vocabulary("synthetic", config.model.vocab), str(tmp_path))
    assert [phase["tokens_per_step"] for phase in result["phases"]] == [8 * 10, 16 * 14]
    assert result["tokens_per_step"] == 16 * 14
    assert json.loads((tmp_path / "plan.json").read_text()) == result
    said = capsys.readouterr().out
    assert "0 to 4: rows of 10 tokens" in said and "4 to 8: rows of 14 tokens" in said


def test_each_phase_sees_the_batches_of_its_own_rows(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, int, tuple[int, ...], int]] = []
    place = Loader.place

    def placed(self: Loader, index: int, *where: Any) -> Any:
        batch = place(self, index, *where)
        if self.shuffle:
            seen.append((index, *batch.tokens.shape, int(np.asarray(batch.tokens).sum())))
        return batch

    monkeypatch.setattr(Loader, "place", placed)
    train.train(tiny(*TWO), str(tmp_path))
    assert [entry[:3] for entry in seen] == [(i, 8, 10) for i in range(4)] + [(i, 16, 14) for i in range(4)]
    for stage, part in zip(stages(tiny(*TWO)), (seen[:4], seen[4:]), strict=True):
        _, loader = start(stage.config)
        for index, *_, total in part:
            rows = loader.rows(index, 0, loader.batch_size)
            assert rows["tokens"].sum() == total


def test_the_first_phase_is_an_ordinary_run_of_its_rows(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """With the schedule of the whole: the run that never changes is bit for bit the same up to there."""
    settings = ("train.steps=8", "data.length=10", "train.batch_size=8", *TWO[2:])
    train.train(tiny(*settings), str(tmp_path))
    assert_equal(kept(whole, 4, *settings), kept(tmp_path, 4, *settings))


def test_interruptions_in_both_phases_change_nothing(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    place = Loader.place
    for step, rows, index in ((2, 8, 1), (6, 16, 1)):

        def placed(self: Loader, number: int, *where: Any, rows: int = rows, index: int = index) -> Any:
            if self.shuffle and self.batch_size == rows and number == index:
                signal.raise_signal(signal.SIGTERM)
            return place(self, number, *where)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Loader, "place", placed)
            with pytest.raises(train.Interrupted, match=f"step {step} of 8"):
                train.train(tiny(*TWO), str(tmp_path))
        assert Checkpoints(tmp_path).latest() == step
    assert train.train(tiny(*TWO), str(tmp_path))
    assert_equal(kept(tmp_path, 8, *TWO), kept(whole, 8, *TWO))
