"""Two processes fine-tune together: the losses, scores and predictions of one."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import pytest
from crew import crew, ends
from finetuning import tiny
from runs import records

from bertjax import train

pytestmark = pytest.mark.multiprocess

CHILD = """
from bertjax import experiment
from finetuning import tiny

{before}
experiment.main(tiny("mesh.data=-1", *{settings!r}, tasks=TASKS))
"""


def together(
    workdir: pathlib.Path, environment: dict[str, str], tasks: Sequence[str], *settings: str
) -> None:
    child = CHILD.replace("TASKS", repr(tuple(tasks)))
    with crew(workdir, environment, config=settings, child=child) as processes:
        ended = ends(processes, 300)
    assert [one.code for one in ended] == [0, 0], ended[0].err + ended[1].err


def results(workdir: pathlib.Path) -> tuple[list[dict[str, Any]], dict[str, float]]:
    metrics = json.loads((workdir / "result.json").read_text())["metrics"]
    return [line for line in records(workdir) if "loss" in line], metrics


@pytest.mark.parametrize(
    "tasks", [("classify",), pytest.param(("tag", "choose"), marks=pytest.mark.slow)], ids="+".join
)
def test_two_processes_learn_what_one_does(
    tasks: tuple[str, ...], tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    settings = ("data.shapes=2", "train.epochs=0.5", "train.checkpoint_every=100", "train.eval_every=5")
    together(tmp_path / "both", quick_compiles, tasks, *settings)
    assert train.train(tiny(*settings, tasks=tasks), str(tmp_path / "one"))
    (ours, mine), (theirs, wanted) = (results(tmp_path / name) for name in ("both", "one"))
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] and ours
    for line, other in zip(ours, theirs, strict=True):
        assert line["loss"] == pytest.approx(other["loss"], rel=2e-4)
    assert mine.keys() == wanted.keys()
    for name, value in wanted.items():
        assert mine[name] == pytest.approx(value, rel=1e-3, abs=1e-3), name
    files = sorted(path.name for path in (tmp_path / "one").glob("predictions*.jsonl"))
    assert files and files == sorted(path.name for path in (tmp_path / "both").glob("predictions*.jsonl"))
    for name in files:
        lines = [(tmp_path / run / name).read_text().splitlines() for run in ("both", "one")]
        said = [[json.loads(line) for line in some] for some in lines]
        key = "tags" if "tags" in said[0][0] else "choice" if "choice" in said[0][0] else "label"
        same = sum(one[key] == other[key] for one, other in zip(*said, strict=True))
        assert same >= 0.98 * len(said[0])  # but for two that are next to equal
