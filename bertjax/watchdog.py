"""Ends a run that stands still, and says why: a thread that waits for steps as the main thread does not.

A step counts when the devices have finished it, which is later than when the loop asked for it. Without one for
`steps` times the median step (and at least `seconds`), every process dumps the stacks of its threads to standard error
and to WORKDIR/stacks/PROCESS.txt, process 0 says which one is behind, and all exit with the code that means "start me
again". Compiling, evaluating and writing checkpoints have limits of their own.

Every process leaves a heartbeat with the step that its loop has begun: the one that is behind has begun fewer, and one
whose heart has stopped is gone, be it killed, frozen or cut off.

Whoever ends takes the others along: collectives fail where one is missing, and JAX aborts those that lose process 0. So
a run that stands still is ended in an order that holds whoever notices first:

    beat      a process finds itself stuck, and says so with its next heartbeat
    alarm     process 0 tells all, be it stuck itself or another one
    stacks    every process, at the alarm or at its own finding, writes its stacks and then says where it is
    verdict   process 0 has heard all of them, or has waited long enough for those that are gone, and says who is behind
    gone      the others read it and end; process 0 goes last
"""

import collections
import contextlib
import dataclasses
import faulthandler
import pathlib
import queue
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, NoReturn

import jax

from bertjax import cluster
from bertjax.exit_codes import REQUEUE

_KEPT = 64  # step times of which the median is taken
_ENOUGH = 3  # step times from which on there is a median
_ROUND = 2.0  # seconds, at most, until a process looks again at what the others say
_STACKS = 6.0  # seconds for all processes to write their stacks: some rounds


@dataclasses.dataclass(frozen=True)
class WatchdogConfig:
    """When a run is given up, to be started again."""

    steps: float = 30.0
    """Median step times without a step after which a run is stuck."""
    seconds: float = 120.0
    """Seconds that must have passed, however short the steps are."""
    start: float = 1800.0
    """Seconds for everything before the first steps: restoring, compiling."""
    pause: float = 1800.0
    """Seconds for one evaluation, or for one checkpoint."""
    silence: float = 60.0
    """Seconds without a heartbeat after which a process is gone."""


class Watchdog:
    """Watches the steps of one run, in a thread. A context manager; does nothing where `config` is None."""

    def __init__(
        self, config: WatchdogConfig | None, workdir: str, *, notes: cluster.Notes | None = None
    ) -> None:
        """`notes` are what the processes of the run tell each other, where there are several."""
        self._config = config
        self._folder = pathlib.Path(workdir) / "stacks"
        self._notes = notes
        self._process = notes.process if notes else 0
        self._lock = threading.Lock()
        self._phase, self._since = "starting", time.monotonic()
        self._begun = self._finished = 0
        self._times: collections.deque[float] = collections.deque(maxlen=_KEPT)
        self._last: float | None = None  # when the last step ended, if nothing has come between
        self._asked: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._ended = self._failing = self._ending = False
        self._wake = threading.Event()
        self._threads: list[threading.Thread] = []
        self._beats = 0
        self._seen: dict[
            int, tuple[Any, float]
        ] = {}  # of every process: its last heartbeat, and when it came

    # ------------------------------------------------------------------------------------------ the loop's side

    def __enter__(self) -> "Watchdog":
        if self._config is not None:
            self._since = time.monotonic()
            for target in (self._follow, self._watch):
                thread = threading.Thread(target=target, name="watchdog", daemon=True)
                thread.start()
                self._threads.append(thread)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A collective fails in the processes that are left when one of them dies: time to find out which it was.
        if self._threads and self._notes and isinstance(error, jax.errors.JaxRuntimeError):
            self._failing = True
            self._wake.set()
            self._threads[1].join(5 * self._period)
            if self._ending:
                self._threads[1].join()  # which ends this process, within a bounded time
        self._ended = True
        self._wake.set()
        self._asked.put(None)
        for thread in self._threads:
            thread.join(self._period)

    def step(self, number: int, result: Any) -> None:
        """The loop has asked for step `number`, of which `result` is an array."""
        if self._config is not None:
            self._begun = number
            self._asked.put((number, result))

    @contextlib.contextmanager
    def pause(self, name: str) -> Iterator[None]:
        """What happens inside is no step."""
        self.enter(name)
        try:
            yield
        finally:
            self.enter("training")

    def enter(self, phase: str) -> None:
        """What follows is no step until `training` is entered again."""
        with self._lock:
            self._phase, self._since, self._last = phase, time.monotonic(), None

    # ------------------------------------------------------------------------------------------ the threads' side

    def _follow(self) -> None:
        """Waits for the devices, step after step."""
        while (asked := self._asked.get()) is not None:
            number, result = asked
            with contextlib.suppress(Exception):  # which the main thread meets, too
                result.block_until_ready()
                now = time.monotonic()
                with self._lock:
                    if self._last is not None:
                        self._times.append(now - self._last)
                    self._finished, self._since, self._last = number, now, now
                    if self._phase == "starting":
                        self._phase = "training"

    @property
    def _period(self) -> float:
        assert self._config is not None
        return min(self._config.silence / 6, self._config.seconds / 4, _ROUND)

    def _watch(self) -> None:
        while not self._ended:
            stuck = self._stuck()
            if self._notes is None:
                if stuck is not None:
                    self._dump(stuck)
                    self._leave(stuck)
            else:
                self._compare(self._notes, stuck)
            self._wake.wait(self._period / 4 if self._failing else self._period)
            self._wake.clear()
        if self._notes is not None:
            with contextlib.suppress(Exception):  # at the end of a run process 0 may be gone already
                self._beat(self._notes, None, done=True)

    def _stuck(self) -> str | None:
        """What has taken too long, if anything."""
        assert (config := self._config) is not None
        with self._lock:
            phase, idle, finished = self._phase, time.monotonic() - self._since, self._finished
            median = statistics.median(self._times) if len(self._times) >= _ENOUGH else None
        if phase == "training":
            limit = config.start if median is None else max(config.seconds, config.steps * median)
            usual = "" if median is None else f" (the median step takes {median:.3g} s)"
            words = f"no step for {idle:.0f} s after step {finished}{usual}"
        else:
            limit = config.start if phase == "starting" else config.pause
            words = f"{phase} for {idle:.0f} s at step {finished}"
        return words if idle > limit else None

    def _beat(self, notes: cluster.Notes, stuck: str | None, *, done: bool = False) -> None:
        self._beats += 1
        notes.write("beat", self._place() | {"beat": self._beats, "stuck": stuck, "done": done})

    def _place(self) -> dict[str, Any]:
        """Where this process is."""
        return {"begun": self._begun, "phase": self._phase, "host": socket.gethostname()}

    def _compare(self, notes: cluster.Notes, stuck: str | None) -> None:
        """One round among several processes: a heartbeat, and what the others say."""
        verdict: Mapping[int, Any] = {}
        try:
            self._beat(notes, stuck)
            if self._process == 0:
                self._judge(notes, stuck)
                return
            stuck = stuck or notes.read("alarm").get(0)
            verdict = notes.read("verdict")
        except Exception as error:
            if stuck is None and not self._failing:
                return  # a moment without process 0; JAX itself ends the process when it stays away
            stuck = f"process 0 does not answer ({' '.join(str(error).split())[:200]})"
        if stuck is not None:
            self._answer(notes, stuck)
        elif verdict:
            cluster.leave(verdict[0]["code"], verdict[0]["text"])

    def _judge(self, notes: cluster.Notes, stuck: str | None) -> None:
        """Process 0: ends the run for all when one has left, is gone, or is stuck."""
        beats, now = notes.read("beat"), time.monotonic()
        for process, left in sorted(notes.read("left").items()):
            # A failed collective is the echo of something else, which shows within a moment.
            cluster.leave(left["code"], f"{left['text']} (said by process {process} on {left['host']})")
        for process in range(1, notes.processes):  # one may be gone before its heart has beaten once
            beat = beats.get(process)
            if process not in self._seen or self._seen[process][0] != beat:
                self._seen[process] = beat, now
        assert self._config is not None
        patience = self._config.silence / 2 if self._failing else self._config.silence
        silent = {
            process: now - came
            for process, (beat, came) in self._seen.items()
            if now - came > patience and not (beat and beat["done"])
        }
        if silent:
            who = ", ".join(named(process, beats) for process in sorted(silent))
            said = f"no heartbeat of {who} for {max(silent.values()):.0f} s: it was killed, or its machine is gone"
            cluster.leave(REQUEUE, f"error: {said}; at step {self._finished}", without=silent)
        others = (f"{beats[i]['stuck']} in {named(i, beats)}" for i in sorted(beats) if beats[i]["stuck"])
        if (words := stuck or next(others, None)) is not None:
            self._conclude(notes, words)

    def _conclude(self, notes: cluster.Notes, words: str) -> None:
        """Process 0 of a run that stands still: the stacks of all, then who is behind."""
        self._ending = True
        with contextlib.suppress(Exception):
            notes.write("alarm", words)
        self._report(notes, words)
        places: dict[int, Any] = {}
        missing: list[int] = []
        for _ in cluster.moments(_STACKS):
            beats, stacks = notes.read("beat"), notes.read("stacks")
            places = beats | stacks  # a heartbeat may be some rounds old
            missing = [i for i in range(notes.processes) if i not in stacks]
            missing = [i for i in missing if not (i in beats and beats[i]["done"])]  # which watch no more
            if not missing:
                break
        late = f"; no stacks of {', '.join(named(i, places) for i in missing)}" if missing else ""
        self._leave(f"{words}; {behind(places)}{late}")

    def _answer(self, notes: cluster.Notes, words: str) -> None:
        """Another process of a run that stands still: its stacks, then the word of process 0, which sees more."""
        self._ending = True
        self._report(notes, words)
        with contextlib.suppress(Exception):
            notes.wait("verdict", 1, 2 * _STACKS)
        self._leave(words)

    def _report(self, notes: cluster.Notes, words: str) -> None:
        """The stacks of this process, and to the others that it has written them."""
        self._dump(words)
        with contextlib.suppress(Exception):
            notes.write("stacks", self._place())

    def _leave(self, words: str) -> NoReturn:
        cluster.leave(REQUEUE, f"error: {words}; stacks in {self._folder}")

    def _dump(self, why: str) -> None:
        """The stacks of all threads, on standard error and in the workdir."""
        title = f"process {self._process} on {socket.gethostname()}: {why}\n"
        sys.stderr.write(title)
        sys.stderr.flush()
        with contextlib.suppress(Exception):  # under a test standard error may be no file
            faulthandler.dump_traceback(sys.stderr)
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with (self._folder / f"{self._process}.txt").open("a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {title}")
                file.flush()
                faulthandler.dump_traceback(file)


def named(process: int, beats: Mapping[int, Mapping[str, Any]]) -> str:
    """A process, for people."""
    return f"process {process} ({beats[process]['host']})" if process in beats else f"process {process}"


def behind(beats: Mapping[int, Mapping[str, Any]]) -> str:
    """Which processes have begun the fewest steps."""
    begun = {process: beat["begun"] for process, beat in beats.items()}
    last, first = min(begun.values()), max(begun.values())
    if last == first:
        return f"all processes have begun step {first}: a device or the network hangs"
    late = [process for process in sorted(begun) if begun[process] == last]
    who = ", ".join(named(process, beats) for process in late)
    verb, phase = "is" if len(late) == 1 else "are", beats[late[0]]["phase"]
    return f"{who} {verb} behind: at step {last} ({phase}), others at {first}"
