"""What tests with several processes share: a crew of processes that train together, and what became of each.

Every process has one CPU device, and speaks to the others through gloo.
"""

import contextlib
import dataclasses
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence

CHILD = """
import sys, time
from bertjax import experiment
from runs import tiny

{before}
experiment.main(tiny("mesh.data=-1", "data.threads=0", *{settings!r}))
"""


@dataclasses.dataclass
class Ended:
    """One process at its end."""

    code: int
    out: str
    err: str


def free_port() -> int:
    """A port that nobody uses now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def environment(settings: dict[str, str]) -> dict[str, str]:
    """Of a process with one device that finds this checkout and these tests."""
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    paths = os.pathsep.join([os.getcwd(), os.path.dirname(__file__), *sys.path])
    return {**os.environ, **settings, "XLA_FLAGS": flags, "PYTHONPATH": paths}


@contextlib.contextmanager
def crew(
    workdir: pathlib.Path,
    settings: dict[str, str],
    *,
    count: int = 2,
    present: Sequence[int] | None = None,
    config: Sequence[str] = (),
    child: str = CHILD,
    before: dict[int, str] | None = None,
    flags: dict[int, list[str]] | None = None,
) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts those of `count` processes that are `present`; none is left behind.

    `child` is what all run, `before` code that a process runs first, `flags` are what it is given beyond the others.
    """
    address = f"127.0.0.1:{free_port()}"
    processes = []
    try:
        for index in present or range(count):
            code = child.format(before=(before or {}).get(index, ""), settings=list(config))
            command = [sys.executable, "-c", code, f"--workdir={workdir}", f"--coordinator={address}"]
            command += [f"--processes={count}", f"--process={index}", *(flags or {}).get(index, [])]
            processes.append(
                subprocess.Popen(
                    command,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                    env=environment(settings),
                    start_new_session=True,
                )
            )
        yield processes
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def ends(processes: Sequence[subprocess.Popen[str]], seconds: float = 120) -> list[Ended]:
    """Waits for all."""
    found = []
    for process in processes:
        out, err = process.communicate(timeout=seconds)
        found.append(Ended(process.returncode, out, err))
    return found


def wait_for(
    condition: Callable[[], bool], processes: Sequence[subprocess.Popen[str]], seconds: float = 120
) -> None:
    """Until something holds, as long as all processes run."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.05)


def errors(ended: Sequence[Ended]) -> list[str]:
    """Every line of an error, of all processes."""
    return [line for one in ended for line in one.err.splitlines() if line.startswith("error:")]
