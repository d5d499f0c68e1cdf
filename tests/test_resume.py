"""A run that was interrupted, however and wherever, ends as the one that was not."""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from runs import Killed, assert_equal, assert_near, ending, final_state, kill, records, terminate, tiny

from bertjax import train
from bertjax.bundle import load
from bertjax.checkpoint import Checkpoints
from bertjax.config import Config, open_rows
from bertjax.data import open as opening
from bertjax.data.loader import Loader
from bertjax.predict import fill_mask

pytestmark = pytest.mark.usefixtures("quick_compiles", "small_corpus")

LAST = 12
WET = ("data.threads=0", "model.dropout=0.1", "model.attention_dropout=0.1", "train.eval_every=6")


@pytest.fixture(scope="module")
def small_corpus() -> Iterator[None]:
    """Few documents, so that twelve steps go through them more than twice."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(opening, "_DOCUMENTS", {"train": 5, "heldout": 5})
        yield


def run(workdir: pathlib.Path, *settings: str) -> Config:
    config = tiny(*WET, *settings)
    assert train.train(config, str(workdir))
    return config


def interrupted(workdir: pathlib.Path, at: int, *settings: str) -> None:
    """A run that is killed when it asks for the batch of step `at`."""
    with ending(at, kill), pytest.raises(Killed):
        run(workdir, *settings)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, small_corpus: None, quick_compiles: Any) -> pathlib.Path:
    """The run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    config = run(folder)
    rows = open_rows(config, "train")
    assert 2 <= LAST * 16 / len(rows) <= 6, "the run should take several epochs"
    return folder


def banner(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err


def test_three_interruptions_change_not_one_bit(
    whole: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(tmp_path, 3)  # before any checkpoint
    assert "start       from scratch" in banner(capsys)
    with ending(5, terminate), pytest.raises(train.Interrupted, match="stopped at step 6 of 12"):
        run(tmp_path)
    assert "start       from scratch" in banner(capsys)
    interrupted(tmp_path, 11)  # in a later epoch, three steps after a checkpoint
    assert "resumes at step 6" in banner(capsys)
    run(tmp_path)
    assert "resumes at step 8" in banner(capsys)

    assert_equal(final_state(tmp_path, *WET), final_state(whole, *WET))
    assert records(tmp_path) == records(whole)
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (tmp_path, whole))
    assert ours["metrics"] == theirs["metrics"] and ours["step"] == LAST
    assert {"loss", "mlm_accuracy", "nsp_accuracy", "gradient_norm", "learning_rate"} <= records(whole)[
        0
    ].keys()
    assert not train.train(tiny(*WET), str(tmp_path)), "it is finished"


def test_a_damaged_checkpoint_is_passed_over_and_said_so(
    whole: pathlib.Path, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    interrupted(tmp_path, 10)
    assert Checkpoints(tmp_path).latest() == 8
    largest = max((tmp_path / "checkpoints" / "8").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 3] ^= 16
    largest.write_bytes(content)
    banner(capsys)
    run(tmp_path)
    said = banner(capsys)
    assert "resumes at step 4" in said
    assert re.search(r"not used +checkpoint step 8 is damaged \(.* has changed\)", said)
    assert_equal(final_state(tmp_path, *WET), final_state(whole, *WET))
    assert records(tmp_path) == records(whole)


def test_a_stop_between_two_lines_adds_one_and_changes_no_other(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    with ending(6, terminate), pytest.raises(train.Interrupted, match="stopped at step 7 of 12"):
        run(tmp_path)
    run(tmp_path)
    assert_equal(final_state(tmp_path, *WET), final_state(whole, *WET))
    extra = [line for line in records(tmp_path) if line not in records(whole)]
    assert [line["step"] for line in extra] == [7, 8]  # of the steps 6..8, in two parts
    assert [line for line in records(whole) if line["step"] != 8] == [
        line for line in records(tmp_path) if line["step"] not in (7, 8)
    ]


def test_a_run_that_was_killed_before_its_result_writes_it(
    whole: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    def crash(values: dict[str, float]) -> dict[str, float]:
        raise Killed

    with pytest.raises(Killed):
        train.train(tiny(*WET), str(tmp_path), crash)
    assert not (tmp_path / "result.json").exists()
    run(tmp_path)
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (tmp_path, whole))
    assert ours["metrics"] == theirs["metrics"]
    assert records(tmp_path) == records(whole)


@pytest.mark.parametrize(
    "elsewhere",
    [
        pytest.param(("mesh.data=8", "train.microbatches=2"), marks=pytest.mark.slow),
        ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "mesh.rules=fsdp_tensor", "model.scan=True"),
    ],
    ids=["data 8, microbatches", "data 2, fsdp 2, tensor 2, scan"],
)
def test_on_another_mesh_the_same_batches_and_losses(
    elsewhere: tuple[str, ...], tmp_path: pathlib.Path
) -> None:
    """There and back: eight steps on one device, then on eight, against one device all the way."""
    dry = ("data.threads=0", "train.eval_every=6")
    seen: dict[str, list[tuple[int, str]]] = {"one": [], "other": []}
    for name, folder in (("one", tmp_path / "one"), ("other", tmp_path / "other")):
        with watching(seen[name]):
            if name == "one":
                train.train(tiny(*dry), str(folder))
            else:
                with ending(9, kill), pytest.raises(Killed):
                    train.train(tiny(*dry), str(folder))
                train.train(tiny(*dry, *elsewhere), str(folder))
    assert [step for step, _ in seen["other"]] == [*range(9), *range(8, LAST)]
    assert dict(seen["other"]) == dict(seen["one"]) and len(set(seen["one"])) == LAST
    ours, theirs = records(tmp_path / "other"), records(tmp_path / "one")
    assert len(ours) == len(theirs) > 6
    for left, right in zip(ours, theirs, strict=True):
        assert left.keys() == right.keys() and left["step"] == right["step"]
        for metric, value in right.items():
            np.testing.assert_allclose(left[metric], value, rtol=1e-4, err_msg=f"{metric} at {left['step']}")
    # Loosely: what Adam makes of the bias of all keys, whose gradient is rounding alone, has digits of its own.
    left, right = (final_state(tmp_path / name, *dry).params for name in ("other", "one"))
    assert_near(left, right, 1e-2)


def watching(seen: list[tuple[int, str]]) -> Any:
    """Notes a checksum of the tokens of every training batch that is made."""
    place = Loader.place

    def place_and_note(loader: Loader, step: int, *where: Any) -> Any:
        batch = place(loader, step, *where)
        if loader.shuffle:
            parts = [np.asarray(x) for x in jax.tree.leaves(batch)]
            seen.append((step, hashlib.sha256(b"".join(part.tobytes() for part in parts)).hexdigest()))
        return batch

    patch = pytest.MonkeyPatch.context()

    class Watching:
        def __enter__(self) -> None:
            patch.__enter__().setattr(Loader, "place", place_and_note)

        def __exit__(self, *error: Any) -> None:
            patch.__exit__(*error)

    return Watching()


# ---------------------------------------------------------------------------------------------- other ends


def test_a_finished_run_is_left_alone(whole: pathlib.Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert not train.train(tiny(*WET), str(whole))
    changed = {
        path.relative_to(whole).name for path, time in before.items() if path.stat().st_mtime_ns != time
    }
    assert changed <= {"config.json"}


def test_another_run_is_refused_and_leaves_no_trace(whole: pathlib.Path) -> None:
    before = (whole / "config.json").read_text()
    with pytest.raises(
        ValueError, match=r"holds another run: model\.layers: 2 there, 1 here; choose another"
    ):
        train.train(tiny(*WET, "model.layers=1"), str(whole))
    assert (whole / "config.json").read_text() == before


def test_a_model_without_a_tokenizer_says_so(whole: pathlib.Path) -> None:
    bundle = load(str(whole))
    for use in (lambda: bundle.tokenize(["a text"]), lambda: fill_mask(bundle, ["a [MASK]"])):
        with pytest.raises(ValueError, match="this model has no tokenizer"):
            use()


@pytest.mark.parametrize("rate", ["1e30", "1e15"])
def test_a_run_that_diverges_says_so_and_saves_nothing_of_it(rate: str, tmp_path: pathlib.Path) -> None:
    """At 1e30 the first update overflows; at 1e15 a finite state comes first."""
    settings = (
        "train.checkpoint_every=1",
        f"optim.learning_rate={rate}",
        "optim.warmup_steps=0",
        "optim.optimizer=lion",
        "optim.weight_decay=0.9",
    )
    with pytest.raises(train.Diverged, match=r"at step \d+: lower optim.learning_rate=") as caught:
        train.train(tiny(*settings), str(tmp_path))
    assert "\n" not in str(caught.value)
    for line in records(tmp_path) if (tmp_path / "metrics.jsonl").exists() else []:
        assert line["loss"] is not None
    checkpoints = Checkpoints(tmp_path)
    newest, faults = checkpoints.survey()
    assert not faults and (newest is None) == (rate == "1e30")
    if newest is not None:
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(final_state(tmp_path, *settings)))
    assert not (tmp_path / "result.json").exists()
