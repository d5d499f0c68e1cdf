"""The watchdog of a single process, and what it makes of the heartbeats of several."""

import collections
import concurrent.futures
import contextlib
import pathlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Sequence
from typing import Any, cast

import numpy as np
import pytest
from runs import Killed

from bertjax import cluster
from bertjax import watchdog as watchdog_lib
from bertjax.exit_codes import REQUEUE
from bertjax.watchdog import Watchdog, WatchdogConfig, behind

# A process of its own, as a watchdog ends it.
PROGRAM = """
import sys, time
import jax.numpy as jnp
from bertjax.watchdog import Watchdog, WatchdogConfig

config = WatchdogConfig(steps=30, seconds=0.5, start=1.5, pause=1.0, silence=6)
result = jnp.zeros(())

def a_function_that_hangs():
    time.sleep(60)

with Watchdog(config, sys.argv[1]) as watchdog:
    {body}
"""
STEPS = "for step in range(1, 6): watchdog.step(step, result); time.sleep(0.01)"


def end(body: str, folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    code = PROGRAM.format(body=body.replace("\n", "\n    "))
    return subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=50
    )


NO_REASON = "for step in range(1, 5): watchdog.step(step, result); time.sleep(0.1)\n"
NO_REASON += "with watchdog.pause('evaluating'): time.sleep(0.8)\n"
NO_REASON += "time.sleep(0.3); watchdog.step(5, result); time.sleep(1.0)"  # 30 times 0.1 s are allowed
# What a program does, and why it is ended, if it is.
PROGRAMS: dict[str, tuple[str, str | None]] = {
    "step": (f"{STEPS}\na_function_that_hangs()", "after step 5 (the median step takes 0.01"),
    "start": ("a_function_that_hangs()", "starting for 2 s at step 0"),
    "pause": (
        f"{STEPS}\nwith watchdog.pause('evaluating'): a_function_that_hangs()",
        "evaluating for 1 s at step 5",
    ),
    "end": (
        f"{STEPS}\nwatchdog.enter('finishing')\na_function_that_hangs()",
        "finishing for 1 s at step 5",
    ),
    "no reason": (NO_REASON, None),
}


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[pathlib.Path, Any]]:
    """Folder and end of each program; side by side, since they do little but wait, but for one that takes times."""
    folders = {name: tmp_path_factory.mktemp("watched") for name in PROGRAMS}
    with concurrent.futures.ThreadPoolExecutor(len(PROGRAMS)) as pool:
        ended = {"step": end(PROGRAMS["step"][0], folders["step"])}
        begun = {name: pool.submit(end, PROGRAMS[name][0], folders[name]) for name in PROGRAMS.keys() - ended}
        ended |= {name: process.result() for name, process in begun.items()}
    return {name: (folders[name], ended[name]) for name in PROGRAMS}


@pytest.mark.parametrize("name", [name for name, (_, message) in PROGRAMS.items() if message])
def test_what_takes_too_long_is_ended_with_its_stacks(
    name: str, ends: dict[str, tuple[pathlib.Path, Any]]
) -> None:
    (folder, done), message = ends[name], PROGRAMS[name][1]
    assert message is not None and done.returncode == REQUEUE, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert message in line and str(folder / "stacks") in line
    assert "a_function_that_hangs" in done.stderr
    kept = (folder / "stacks" / "0.txt").read_text()
    assert "a_function_that_hangs" in kept and message in kept


def test_steps_that_become_slower_and_pauses_are_no_reason(
    ends: dict[str, tuple[pathlib.Path, Any]],
) -> None:
    folder, done = ends["no reason"]
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir())


class Slow:
    """An array that a device is still computing."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def block_until_ready(self) -> "Slow":
        time.sleep(self.seconds)
        return self


def test_steps_are_counted_when_the_devices_have_finished_them(tmp_path: pathlib.Path) -> None:
    with Watchdog(WatchdogConfig(), str(tmp_path)) as watchdog:
        for step in range(1, 4):
            watchdog.step(step, Slow(0.2))
        assert watchdog._begun == 3 and watchdog._finished == 0
        time.sleep(1.0)
        assert watchdog._finished == 3
        assert np.allclose(list(watchdog._times), 0.2, atol=0.1)
    assert not any(thread.is_alive() for thread in watchdog._threads)


def test_none_watches_nothing(tmp_path: pathlib.Path) -> None:
    with Watchdog(None, str(tmp_path)) as watchdog:
        watchdog.step(1, None)
        with watchdog.pause("evaluating"):
            pass
    assert not watchdog._threads


def test_the_end_of_a_run_is_not_held_up(tmp_path: pathlib.Path) -> None:
    began = time.monotonic()
    with Watchdog(WatchdogConfig(), str(tmp_path)):
        pass
    assert time.monotonic() - began < 1.0


class Board:
    """The notes of a run of three processes in one, or of process 0 where a test writes those of the others."""

    processes = 3

    def __init__(self, process: int = 0, records: dict[str, dict[int, Any]] | None = None) -> None:
        self.process = process
        self.records = collections.defaultdict(dict) if records is None else records

    def write(self, kind: str, data: Any) -> None:
        self.records[kind][self.process] = data

    def read(self, kind: str) -> dict[int, Any]:
        return dict(self.records[kind])

    def wait(self, kind: str, processes: int, seconds: float) -> dict[int, Any]:
        for _ in cluster.moments(seconds):
            if len(self.records[kind]) >= processes:
                break
        return self.read(kind)


@pytest.mark.parametrize("before", [None, {"beat": 1, "done": False, "host": "c", "stuck": None, "begun": 3}])
def test_a_silent_process_is_gone_even_if_it_was_never_heard(
    before: dict[str, Any] | None, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, str, set[int]]] = []

    def leave(code: int, text: str, *, without: Collection[int]) -> None:
        told.append((code, text, set(without)))

    monkeypatch.setattr(watchdog_lib.cluster, "leave", leave)
    board = Board()
    if before:
        board.records["beat"][2] = before
    config = WatchdogConfig(silence=0.6)
    with Watchdog(config, str(tmp_path), notes=cast(Any, board)):
        deadline = time.monotonic() + 10
        while not told and time.monotonic() < deadline:
            board.records["beat"][1] = {
                "beat": time.monotonic(),
                "done": False,
                "host": "b",
                "stuck": None,
                "begun": 3,
            }
            time.sleep(0.05)
    assert told and told[0][0] == REQUEUE and told[0][2] == {2}, "the others are waited for"
    name = "process 2 (c)" if before else "process 2"
    assert told[0][1].startswith(f"error: no heartbeat of {name} for ")


def test_a_process_that_is_done_is_not_missed(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(watchdog_lib.cluster, "leave", lambda *said: told.append(said))
    board = Board()
    done = {"beat": 9, "done": True, "host": "b", "stuck": None, "begun": 3}
    board.records["beat"] = {1: done, 2: done}
    with Watchdog(WatchdogConfig(silence=0.3), str(tmp_path), notes=cast(Any, board)):
        time.sleep(1.0)
    assert told == []
    assert board.records["beat"][0]["done"]


Told = list[tuple[int, int, str, set[int]]]


@pytest.fixture
def leaving(monkeypatch: pytest.MonkeyPatch) -> Told:
    """Who left, with which code and words, and of whom there were stacks by then; a process is a thread here."""
    told: Told = []

    def leave(code: int, text: str) -> None:
        board = boards[threading.current_thread()]
        told.append((board.process, code, text, set(board.records["stacks"])))
        if board.process == 0:
            board.write("verdict", {"code": code, "text": text})
        raise Killed

    boards: dict[threading.Thread, Board] = {}
    watch = Watchdog._watch

    def follow(watchdog: Watchdog) -> None:
        boards[threading.current_thread()] = cast(Board, watchdog._notes)
        with contextlib.suppress(Killed):
            watch(watchdog)

    monkeypatch.setattr(Watchdog, "_watch", follow)
    monkeypatch.setattr(watchdog_lib.cluster, "leave", leave)
    return told


class Waiting:
    """An array of a collective to which somebody does not come."""

    def __init__(self) -> None:
        self.came = threading.Event()

    def block_until_ready(self) -> "Waiting":
        self.came.wait()
        return self


def still(folder: pathlib.Path, limits: Sequence[float | None]) -> None:
    """Processes that have begun 6, 5 and 6 steps and do no more; each is stuck after so many seconds, or gone."""
    records: dict[str, dict[int, Any]] = collections.defaultdict(dict)
    other = Waiting()
    with contextlib.ExitStack() as stack:
        threads = []
        for process, limit in enumerate(limits):
            if limit is None:
                continue
            board = cast(Any, Board(process, records))
            config = WatchdogConfig(steps=1e-6, seconds=limit, silence=5.0)
            dog = stack.enter_context(Watchdog(config, str(folder), notes=board))
            for step in range(1, 6):
                dog.step(step, Slow(0.01))
            if process != 1:
                dog.step(6, other)
            threads.append(dog._threads[1])
        stack.callback(other.came.set)
        for thread in threads:
            thread.join(10)
        assert not any(thread.is_alive() for thread in threads)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_whoever_notices_first_all_write_their_stacks_before_one_leaves(
    first: int, tmp_path: pathlib.Path, leaving: Told
) -> None:
    still(tmp_path, [0.4 if process == first else 60.0 for process in range(3)])
    assert [told[0] for told in leaving[:1]] == [0] and {told[0] for told in leaving} == {0, 1, 2}
    assert all(code == REQUEUE and stacks == {0, 1, 2} for _, code, _, stacks in leaving), leaving
    where = rf" in process {first} \(\S+\)" if first else ""
    text = leaving[0][2]
    assert re.match(rf"error: no step for \d s after step 5 \(the median step takes 0.\d+ s\){where}; ", text)
    assert re.search(r"; process 1 \(\S+\) is behind: at step 5 \(training\), others at 6; stacks in ", text)
    for process in range(3):
        assert "after step 5" in (tmp_path / "stacks" / f"{process}.txt").read_text()


def test_of_a_process_that_is_gone_the_stacks_are_not_waited_for_long(
    tmp_path: pathlib.Path, leaving: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchdog_lib, "_STACKS", 0.5)
    still(tmp_path, [0.4, 0.4, None])
    assert [told[0] for told in leaving] == [0, 1]
    assert all(code == REQUEUE and stacks == {0, 1} for _, code, _, stacks in leaving), leaving
    assert "others at 6; no stacks of process 2; stacks in " in leaving[0][2]


def test_those_behind_have_begun_the_fewest_steps() -> None:
    def beat(begun: int, host: str, phase: str = "training") -> dict[str, object]:
        return {"begun": begun, "host": host, "phase": phase}

    assert behind({0: beat(7, "a"), 1: beat(5, "b", "evaluating"), 2: beat(7, "c")}) == (
        "process 1 (b) is behind: at step 5 (evaluating), others at 7"
    )
    assert behind({0: beat(5, "a"), 1: beat(5, "b"), 2: beat(7, "c")}) == (
        "process 0 (a), process 1 (b) are behind: at step 5 (training), others at 7"
    )
    assert "all processes have begun step 5" in behind({0: beat(5, "a"), 1: beat(5, "b")})
