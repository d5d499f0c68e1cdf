"""Two processes on one machine train together: they stop as one, go on as one, and give the losses of one."""

import json
import pathlib
import re
import signal

import pytest
from crew import Ended, crew, ends, wait_for
from runs import records, tiny

from bertjax import train
from bertjax.checkpoint import Checkpoints

pytestmark = pytest.mark.multiprocess

STEPS = 40
# What is written at the stop and at the end is enough.
SETTINGS = (f"train.steps={STEPS}", "train.checkpoint_every=1000")
SPLIT = ("mesh.data=1", "mesh.fsdp=2", "mesh.rules=fsdp")
SLOWLY = """
from bertjax.data.loader import Loader
place = Loader.place
Loader.place = lambda *a: (time.sleep(0.1), place(*a))[1]
"""


def together(
    workdir: pathlib.Path, settings: dict[str, str], *, stop_after: str | None = None
) -> list[Ended]:
    """What became of two processes.

    Once metrics.jsonl holds the text `stop_after`, both get a SIGTERM, as from a scheduler; a pause in every step
    leaves them the time to agree on where to stop.
    """
    before = dict.fromkeys(range(2), SLOWLY) if stop_after else {}
    with crew(workdir, settings, config=(*SETTINGS, *SPLIT), before=before) as processes:
        if stop_after:
            log = workdir / "metrics.jsonl"
            wait_for(lambda: log.exists() and stop_after in log.read_text(), processes, 300)
            for process in processes:
                process.send_signal(signal.SIGTERM)
        return ends(processes, 300)


def test_two_processes_stop_resume_and_finish_as_one(
    tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    both, alone = tmp_path / "both", tmp_path / "alone"
    stopped = set()
    for one in together(both, quick_compiles, stop_after='"step": 4,'):
        assert one.code == train.REQUEUE, one.err
        (said,) = re.findall(rf"stopped at step (\d+) of {STEPS}: the same command goes on", one.err)
        stopped.add(int(said))
        assert not spoken(one.out)
    (step,) = stopped  # the same in both
    assert 4 <= step < STEPS
    assert Checkpoints(both).survey() == (step, [])

    (both / "checkpoints" / "99" / "params").mkdir(parents=True)  # what a kill may leave
    primary, other = together(both, quick_compiles)
    assert [primary.code, other.code] == [0, 0], primary.err + other.err
    assert f"resumes at step {step}" in primary.err and "2 process(es)" in primary.err
    assert "not used    checkpoint step 99 was not written to its end" in primary.err
    assert not spoken(other.out) and "step" not in other.err, "only process 0 speaks"
    result = json.loads(spoken(primary.out)[-1])
    assert result["processes"] == 2 and result["step"] == STEPS

    train.train(tiny(*SETTINGS), str(alone))
    theirs = {line["step"]: line for line in records(alone) if "loss" in line}
    ours = {line["step"]: line for line in records(both) if "loss" in line}
    split = {step, step + step % 2}  # it logs when it stops, too
    assert len(theirs) == STEPS // 2 and theirs.keys() <= ours.keys()
    for number in theirs.keys() - split:
        assert ours[number]["loss"] == pytest.approx(theirs[number]["loss"], rel=1e-4), number
    early = [number for number in theirs if number <= 6 and number not in split]
    assert early
    for number in early:
        assert ours[number]["loss"] == pytest.approx(theirs[number]["loss"], rel=1e-5), number
    wanted = json.loads((alone / "result.json").read_text())["metrics"]
    for name, value in wanted.items():
        assert result["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


def spoken(output: str) -> list[str]:
    """What was printed, but for the greetings of gloo."""
    return [line for line in output.splitlines() if "[Gloo]" not in line]
