"""Several processes that do not work together as they should: late, missing, unlike the others, killed, stuck.

However it goes wrong, all end within seconds, with one code and one message.
"""

import os
import pathlib
import re
import signal

import pytest
from cases import slow_but
from crew import crew, ends, errors, wait_for

from bertjax.exit_codes import FAILED, REQUEUE, WRONG_INPUT

pytestmark = pytest.mark.multiprocess

QUICK = ("train.steps=400", "train.watchdog.seconds=4", "train.watchdog.silence=6")
AT_STEP_9 = """
from bertjax.data.loader import Loader
place = Loader.place
def place_or_not(loader, step, *where):
    if step == 9:
        {what}
    return place(loader, step, *where)
Loader.place = place_or_not
"""
STUCK = AT_STEP_9.format(what="time.sleep(1000)")
DEFECT = AT_STEP_9.format(what="raise TypeError('a defect')")
SLOW = AT_STEP_9.format(what="pass") + "Loader.place = lambda *a: (time.sleep(0.05), place(*a))[1]"


def test_a_late_process_is_waited_for_and_a_stuck_one_named(
    tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    late = "time.sleep(1)" + STUCK
    # On a busy machine a heart may miss some beats, which is not what this is about.
    config = (*QUICK, "train.watchdog.seconds=3", "train.watchdog.silence=30")
    with crew(tmp_path, quick_compiles, config=config, before={1: late}) as processes:
        found = ends(processes)
    primary, other = found
    (ready,) = [line for line in primary.err.splitlines() if line.startswith("preflight")]
    assert "2 processes on 1 host(s) with one code, config, jax and mesh" in ready
    assert "all-reduce of 4 MB" in ready and "B/s" in ready
    assert "preflight" not in other.err
    assert not list(tmp_path.glob(".preflight*"))

    assert [one.code for one in found] == [REQUEUE, REQUEUE], found
    (line,) = errors(found)
    assert line in primary.err, "process 0 says it"
    assert re.search(r"no step for \d+ s after step 9 \(the median step takes", line)
    assert re.search(r"process 1 \(\S+\) is behind: at step 9 \(training\), others at 1[01]; stacks in", line)
    assert "place_or_not" in (tmp_path / "stacks" / "1.txt").read_text()
    assert "place_or_not" not in (tmp_path / "stacks" / "0.txt").read_text()
    assert "place_or_not" in other.err


def test_a_missing_process_is_named(tmp_path: pathlib.Path, quick_compiles: dict[str, str]) -> None:
    flags = {i: ["--wait=6", "--hosts=a,b,c"] for i in range(3)}
    with crew(tmp_path / "run", quick_compiles, count=3, present=[0, 2], flags=flags) as processes:
        found = ends(processes)
    assert [one.code for one in found] == [REQUEUE, REQUEUE]
    (line,) = errors(found)
    assert line.startswith("error: process 1 (b) of 3 did not come to 127.0.0.1:")
    assert line in found[0].err, "process 0 says it"
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # quick, among threads: tests/test_preflight.py
def test_process_0_that_is_missing_is_named(tmp_path: pathlib.Path, quick_compiles: dict[str, str]) -> None:
    with crew(tmp_path, quick_compiles, present=[1], flags={1: ["--wait=1"]}) as processes:
        found = ends(processes)
    assert [one.code for one in found] == [REQUEUE]
    assert "process 0 did not answer at 127.0.0.1:" in errors(found)[0]


ODD = {
    "config": ("", ["--set", "train.seed=7"], "has other config than process 0: train.seed: 7 there, 0 here"),
    "code": (
        "from bertjax import preflight\npreflight.code_digest = lambda: 'abc'",
        [],
        "has other code than process 0: abc there, ",
    ),
}


# All that may differ is looked at in tests/test_preflight.py.
@pytest.mark.parametrize(
    "before, flags, message",
    slow_but(ODD.values(), [ODD["config"]]),
    ids=ODD.keys(),
)
def test_a_process_unlike_the_others_is_named(
    before: str, flags: list[str], message: str, tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    where = tmp_path / "run"
    with crew(where, quick_compiles, before={1: before}, flags={1: flags}) as processes:
        found = ends(processes)
    assert [one.code for one in found] == [WRONG_INPUT, WRONG_INPUT], found
    (line,) = errors(found)
    assert message in line and "process 1 (" in line and line in found[0].err
    assert not where.exists()


@pytest.mark.slow
def test_a_process_that_reads_another_corpus_is_named(
    tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    other = "from bertjax.data import synthetic\nmake = synthetic.SyntheticCorpus.__init__\n"
    other += "def init(self, *a, **k):\n    make(self, *a, **k)\n    self.digest = 'f' * 16\n"
    other += "synthetic.SyntheticCorpus.__init__ = init"
    with crew(tmp_path, quick_compiles, before={1: other}) as processes:
        found = ends(processes)
    assert [one.code for one in found] == [WRONG_INPUT, WRONG_INPUT], found
    (line,) = errors(found)
    assert (
        re.search(r"process 1 \(\S+\) has another corpus than process 0: ffff", line) and line in found[0].err
    )
    assert not (tmp_path / "config.json").exists()


def test_a_killed_process_is_named(tmp_path: pathlib.Path, quick_compiles: dict[str, str]) -> None:
    with crew(tmp_path, quick_compiles, config=QUICK, before={0: SLOW, 1: SLOW}) as processes:
        seals = tmp_path / "checkpoints" / "seals"
        wait_for(lambda: len(list(seals.glob("*.json"))) > 0, processes)
        os.killpg(processes[1].pid, signal.SIGKILL)
        found = ends(processes)
    assert [one.code for one in found] == [REQUEUE, -signal.SIGKILL], found[0].err
    (line,) = errors(found)
    assert "no heartbeat of process 1 (" in line


@pytest.mark.slow
def test_a_defect_of_one_process_is_no_reason_to_start_again(
    tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    with crew(tmp_path, quick_compiles, config=QUICK, before={1: DEFECT}) as processes:
        found = ends(processes)
    assert [one.code for one in found] == [FAILED, FAILED], found
    (line,) = errors(found)
    assert line.startswith("error: TypeError: a defect (said by process 1 on ") and line in found[0].err
    assert "Traceback" in found[1].err


@pytest.mark.slow
def test_a_frozen_process_is_named(tmp_path: pathlib.Path, quick_compiles: dict[str, str]) -> None:
    with crew(tmp_path, quick_compiles, config=(*QUICK, "train.watchdog.seconds=60")) as processes:
        wait_for(lambda: (tmp_path / "metrics.jsonl").exists(), processes)
        os.kill(processes[1].pid, signal.SIGSTOP)  # maybe before its heart has beaten once
        found = ends(processes[:1])
    assert found[0].code == REQUEUE
    assert "no heartbeat of process 1" in errors(found)[0]


@pytest.mark.slow
def test_a_killed_coordinator_ends_the_others(tmp_path: pathlib.Path, quick_compiles: dict[str, str]) -> None:
    with crew(tmp_path, quick_compiles, config=QUICK, before={0: SLOW, 1: SLOW}) as processes:
        wait_for(lambda: (tmp_path / "metrics.jsonl").exists(), processes)
        os.killpg(processes[0].pid, signal.SIGKILL)
        found = ends(processes[1:])
    # JAX itself aborts a process whose coordination service is gone.
    assert found[0].code in (-signal.SIGABRT, REQUEUE)


@pytest.mark.slow
@pytest.mark.parametrize(
    "before, codes, message",
    [
        ({2: STUCK}, [REQUEUE] * 4, r"process 2 \(\S+\) is behind: at step 9 \(training\), others at 1[01]"),
        ({1: STUCK, 3: STUCK}, [REQUEUE] * 4, r"process 1 \(\S+\), process 3 \(\S+\) are behind: at step 9"),
        ({3: DEFECT}, [FAILED] * 4, r"TypeError: a defect \(said by process 3 on"),
    ],
    ids=["one stuck", "two stuck", "one fails"],
)
def test_four_processes_end_as_one(
    before: dict[int, str],
    codes: list[int],
    message: str,
    tmp_path: pathlib.Path,
    quick_compiles: dict[str, str],
) -> None:
    config = (*QUICK, "train.watchdog.seconds=8")
    with crew(tmp_path, quick_compiles, count=4, config=config, before=before) as processes:
        found = ends(processes)
    assert [one.code for one in found] == codes, [one.err for one in found]
    (line,) = errors(found)
    assert re.search(message, line) and line in found[0].err


@pytest.mark.slow
def test_of_four_processes_one_is_killed(tmp_path: pathlib.Path, quick_compiles: dict[str, str]) -> None:
    slow = dict.fromkeys(range(4), SLOW)
    with crew(tmp_path, quick_compiles, count=4, config=QUICK, before=slow) as processes:
        wait_for(lambda: (tmp_path / "metrics.jsonl").exists(), processes)
        os.killpg(processes[2].pid, signal.SIGKILL)
        found = ends(processes)
    assert [one.code for one in found] == [REQUEUE, REQUEUE, -signal.SIGKILL, REQUEUE], [
        one.err for one in found
    ]
    assert "no heartbeat of process 2" in errors(found)[0]
