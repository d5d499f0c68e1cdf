"""A pool of processes that import only what they need.

`multiprocessing` imports the main module of the program in every process it starts. Here that would be a
training program, so each process would carry JAX, hundreds of megabytes of it, to count subwords, and a
script without a main guard would start itself again. These workers are plain interpreters that are told
over a pipe which callable to build and then apply it to one task after another. They end when the pipe
does, so none outlives a parent that was killed.
"""

import collections
import contextlib
import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

__all__ = ["Pool", "available_cores", "find_callable"]


def available_cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_callable(name: str) -> Any:
    """What `module:name` stands for."""
    module, colon, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"{name!r} cannot be found ({error}): it is written module:function") from None
    if not colon or not callable(found):
        raise ValueError(f"{name!r} is not a callable: it is written module:function")
    return found


class Pool:
    """Processes that apply `factory(*setup)` to tasks; `factory` is written module:name.

    `environment` is what they find in theirs besides that of this process.
    """

    def __init__(
        self, workers: int, factory: str, *setup: Any, environment: Mapping[str, str] | None = None
    ) -> None:
        self._threads = ThreadPoolExecutor(workers)  # as many calls at a time, so as many processes at most
        self._window = 3 * workers
        self._target = (factory, setup)
        self._environment = environment or {}
        self._idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
        self._processes: list[subprocess.Popen[bytes]] = []

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            "TOKENIZERS_PARALLELISM": "false",  # one process, one core
            "OMP_NUM_THREADS": "1",
            **self._environment,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "bertjax.data.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        self._processes.append(process)
        _send(process, self._target)
        return process

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for process in self._processes:
            if kind is not None:
                process.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
            process.wait()

    def map(self, tasks: Iterable[Any]) -> Iterator[Any]:
        """The result of every task, in order; an error is that of the first task that has one."""
        pending: collections.deque[Future[Any]] = collections.deque()
        for task in tasks:
            if len(pending) == self._window:
                yield pending.popleft().result()
            pending.append(self._threads.submit(self._call, task))
        while pending:
            yield pending.popleft().result()

    def _call(self, task: Any) -> Any:
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            process = self._start()
        try:
            _send(process, task)
            assert process.stdout is not None
            error, result = pickle.load(process.stdout)
        except (EOFError, BrokenPipeError, pickle.UnpicklingError):
            code = process.wait()
            ended = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = "if memory ran out, use fewer workers"
            raise RuntimeError(f"a worker process {ended} ({hint})") from None
        self._idle.put(process)
        if error is not None:
            raise error
        return result


def _send(process: subprocess.Popen[bytes], message: Any) -> None:
    assert process.stdin is not None
    pickle.dump(message, process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
    process.stdin.flush()


def _serve() -> None:
    """The life of a worker: what to build, then tasks until the pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is the parent's to handle
    inbox, outbox = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print must not get between the answers
    target: Any = None
    try:
        factory, setup = pickle.load(inbox)
        while True:
            task = pickle.load(inbox)
            answer: tuple[Exception | None, Any]
            try:
                target = target or find_callable(factory)(*setup)
                answer = None, target(task)
            except Exception as error:  # it is raised again where the pool is
                known = type(error) in (ValueError, MemoryError) or isinstance(error, OSError)
                answer = (error if known else RuntimeError(traceback.format_exc())), None
            pickle.dump(answer, outbox, protocol=pickle.HIGHEST_PROTOCOL)
            outbox.flush()
    except (EOFError, BrokenPipeError):
        os._exit(0)


if __name__ == "__main__":
    _serve()
