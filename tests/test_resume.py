"""A run that is interrupted is the run that is not: bit for bit on one mesh, the same batches on any."""

import json
import pathlib
import signal
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from runs import assert_equal, records, start, tiny

from bertjax import train
from bertjax.bundle import load
from bertjax.checkpoint import Checkpoints
from bertjax.config import Config, open_rows
from bertjax.data.loader import Loader
from bertjax.types import Tree

pytestmark = pytest.mark.usefixtures("quick_compiles")

# 2,000 made-up documents give enough rows for any number of steps; these are cut to 64, so an epoch has four steps.
ROWS = 64


def few(config: Config, split: str) -> Any:
    """The rows of a split, or the first of them."""
    rows = open_rows(config, split)
    rows.size = min(rows.size, ROWS)
    return rows


@pytest.fixture(scope="module", autouse=True)
def short_epochs() -> Iterator[None]:
    """An epoch of four steps, so that a run of twelve sees three of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "open_rows", few)
        yield


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The run gets a SIGTERM while that step is computed."""
    place = Loader.place

    def placed(self: Loader, index: int, *where: Any) -> Any:
        if index == step - 1 and self.shuffle:
            signal.raise_signal(signal.SIGTERM)
        return place(self, index, *where)

    monkeypatch.setattr(Loader, "place", placed)
    return monkeypatch


def final(workdir: pathlib.Path, config: Config) -> Tree:
    program, _ = start(config)
    return jax.device_get(Checkpoints(workdir).restore(config.train.steps, program.state))


@pytest.fixture(scope="module")
def whole(short_epochs: None, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The run that nothing interrupted."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.train(run(), str(workdir))
    return workdir


def run(*settings: str) -> Config:
    """Dropout on, so that its keys are part of what must come back; signals reach the thread that loads."""
    return tiny("model.dropout=0.1", "data.threads=0", "data.ahead=1", *settings)


def test_three_interruptions_change_nothing(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """At steps 2, 5 (in the second epoch) and 9: parameters, moments and every logged number are the same bits."""
    for step in (2, 5, 9):
        with pytest.MonkeyPatch.context() as patch:
            stop_at(step, patch)
            with pytest.raises(train.Interrupted, match=f"step {step} of 12"):
                train.train(run(), str(tmp_path))
        assert Checkpoints(tmp_path).latest() == step
        assert not (tmp_path / "result.json").exists()
    assert train.train(run(), str(tmp_path))
    assert_equal(final(tmp_path, run()), final(whole, run()))
    # It logs when it stops, too, so only lines that cover the same steps on both sides can be compared.
    ours, theirs = ({line["step"]: line for line in records(w) if "loss" in line} for w in (tmp_path, whole))
    assert ours[4] == theirs[4]
    assert ours[8] == theirs[8]
    assert ours[12] == theirs[12]
    assert (
        json.loads((tmp_path / "result.json").read_text())["metrics"]
        == json.loads((whole / "result.json").read_text())["metrics"]
    )


def test_a_finished_run_is_left_alone(whole: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert not train.train(run(), str(whole))
    changed = [
        str(path.relative_to(whole)) for path, time in before.items() if path.stat().st_mtime_ns != time
    ]
    assert changed in ([], ["config.json"])


def test_another_mesh_goes_on_with_the_same_batches(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """From one device to 2 x 2 x 2, and from an unrolled stack to a scanned one, in the middle of the run."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(6, patch)
        with pytest.raises(train.Interrupted):
            train.train(run(), str(tmp_path))
    other = run(
        "mesh.data=2",
        "mesh.fsdp=2",
        "mesh.tensor=2",
        "mesh.rules=fsdp_tensor",
        "model.scan=true",
        "model.dropout=0.1",
    )
    here, there = start(run()), start(other)
    for step in (6, 11):
        one = here[1].place(step, here[0].mesh, "data")
        many = there[1].place(step, there[0].mesh, "fsdp_tensor")
        assert_equal(jax.device_get(many), jax.device_get(one))
    assert train.train(other, str(tmp_path))
    ours, theirs = (json.loads((w / "result.json").read_text())["metrics"] for w in (tmp_path, whole))
    assert ours["heldout_mlm_loss"] == pytest.approx(theirs["heldout_mlm_loss"], rel=2e-2)


def test_a_damaged_checkpoint_is_passed_over(
    whole: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One flipped bit in the newest: the one before is used, and the banner says why."""
    with pytest.MonkeyPatch.context() as patch:
        stop_at(9, patch)
        with pytest.raises(train.Interrupted):
            train.train(run(), str(tmp_path))
    folder = tmp_path / "checkpoints"
    assert sorted(int(p.name) for p in folder.iterdir() if p.name.isdigit()) == [8, 9]
    data = max((p for p in (folder / "9").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    capsys.readouterr()
    assert train.train(run(), str(tmp_path))
    said = capsys.readouterr().err
    assert "resumes at step 8" in said
    assert "step 9 is damaged" in said
    assert_equal(final(tmp_path, run()), final(whole, run()))


def test_a_step_that_was_not_written_to_its_end_is_not_trusted(tmp_path: pathlib.Path) -> None:
    program, _ = start(run())
    state = train.create_state(program)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state)
    checkpoints.close()
    folder = tmp_path / "checkpoints"
    (folder / "7" / "params").mkdir(parents=True)  # what a kill leaves
    (folder / "9.orbax-checkpoint-tmp").mkdir()
    assert checkpoints.verify(0)
    assert not checkpoints.verify(7)
    found, faults = checkpoints.survey()
    assert found is None  # step 0 is the start, not a checkpoint to resume from
    assert faults == ["step 7 was not written to its end"]


def test_another_model_is_refused(whole: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"holds another run: model\.layers: 2 there, 1 here"):
        train.train(run("model.layers=1"), str(whole))
    program, _ = start(run("model.feedforward=48"))
    with pytest.raises(ValueError, match="is of another model: .* arrays differ, the first is"):
        Checkpoints(whole).restore(12, program.state)


def test_nothing_that_diverged_is_saved(tmp_path: pathlib.Path) -> None:
    with pytest.raises(train.Diverged, match=r"at step \d+: lower optim\.learning_rate"):
        train.train(run("optim.learning_rate=1e38", "optim.clip_norm=none"), str(tmp_path))
    newest = Checkpoints(tmp_path).latest()
    if newest is not None:
        program, _ = start(run())
        params = Checkpoints(tmp_path).restore_params(newest, program.state.params)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_full_disk_is_one_line(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    program, _ = start(run())
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(train.create_state(program))
    checkpoints.wait()
    monkeypatch.setattr(checkpoints._writer, "save", full)
    with pytest.raises(
        ValueError, match=r"no space left for a checkpoint in .*: free some, or set train\.keep=1"
    ):
        checkpoints.save(train.create_state(program))
    checkpoints.close()
    assert checkpoints.verify(0)


def test_a_model_without_a_tokenizer_says_so(whole: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        load(str(whole))
