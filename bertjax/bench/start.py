"""How long a run takes to start: `python -m bertjax bench start`.

    imports     `import bertjax`, and all that a training run imports
    first       from an empty workdir to the end of the first step: data prepared, program built and compiled
    second      the same command again after SIGTERM, in another process: the run goes on at its checkpoint, and finds
                its data and its compiled programs (`train.compiled`)

Seconds from the start of the process, by the clock: compilers and data use as many cores as there are.
"""

import dataclasses
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

from bertjax.bench.law import Seen, measure
from bertjax.exit_codes import REQUEUE

USAGE = """usage: python -m bertjax bench start [--option=value ...]

Measures imports, and the time to the first step of an experiment: at its first start, and at its second after SIGTERM.

    python -m bertjax bench start
    python -m bertjax bench start --experiment=pretrain.bert_base --set=data.corpus=synthetic,model=mini"""


@dataclasses.dataclass(frozen=True)
class Start:
    """What is started."""

    only: tuple[str, ...] = ()
    """Names of measurements, imports or steps; none means both."""
    experiment: str = "quickstart"
    """File of experiments/, with dots for folders."""
    set: tuple[str, ...] = ()
    """Settings of the run, as path=value."""
    rounds: int = 3
    """Imports that count; the middle one does."""
    limit: float = 20.0
    """Seconds to the first step that are allowed."""
    out: str = "runs/bench"
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        if self.rounds < 1 or not self.limit > 0:
            raise ValueError(f"rounds={self.rounds} must be at least 1 and limit={self.limit} above 0")


OPTIONS = Start()


@dataclasses.dataclass(frozen=True)
class Begun:
    """A start, in seconds from that of the process."""

    opened: float  # imports are done and data is there
    compiled: float
    stepped: float

    @property
    def parts(self) -> dict[str, float]:
        """What took how long."""
        return {
            "to open the run": self.opened,
            "to make and compile": self.compiled - self.opened,
            "to the first step": self.stepped - self.compiled,
        }


def imports(options: Start) -> list[Seen]:
    """Importing does no work."""
    found = []
    for module, bounds in (("bertjax", (0.0, 2.0)), ("bertjax.train", (0.0, 2.0))):
        code = (
            f"import time; began = time.perf_counter(); import {module}; print(time.perf_counter() - began)"
        )
        times = [
            float(
                subprocess.run(
                    [sys.executable, "-c", code], capture_output=True, text=True, check=True
                ).stdout
            )
            for _ in range(options.rounds)
        ]
        points = {"least": min(times), "most": max(times)}
        found.append(Seen(f"import {module}", points, "s", "median", statistics.median(times), bounds))
    return found


def steps(options: Start) -> list[Seen]:
    """The first step comes soon, and sooner the second time."""
    with tempfile.TemporaryDirectory(prefix="bertjax-") as folder:
        command = [sys.executable, "-m", f"experiments.{options.experiment}", f"--workdir={folder}/run"]
        command += [f"--set={one}" for one in ("train.log_every=1", *options.set)]
        first, second = begin(command), begin(command)
    ratio = second.stepped / first.stepped
    return [
        Seen(
            f"first start of {options.experiment}", first.parts, "s", "sum", first.stepped, (0, options.limit)
        ),
        Seen(f"second start of {options.experiment}", second.parts, "s", "of the first", ratio, (0, 0.5)),
        Seen(
            "second start, without opening the run",
            {"first": first.stepped - first.opened, "second": second.stepped - second.opened},
            "s",
            "of the first",
            (second.stepped - second.opened) / (first.stepped - first.opened),
            (0, 0.5),
        ),
    ]


def begin(command: Sequence[str]) -> Begun:
    """Starts a run, stops it after its first step, and says when it came to what."""
    times: list[float] = []
    said: list[str] = []
    began = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=dict(os.environ)
    )
    with process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            marks = (r"devices ", r"compiled in ", r"step \d+/")
            if len(times) < len(marks) and re.match(marks[len(times)], line):
                times.append(time.perf_counter() - began)
                if len(times) == len(marks):
                    process.send_signal(signal.SIGTERM)
    if len(times) < 3 or process.returncode != REQUEUE:
        raise ValueError(f"{' '.join(command)} ended with {process.returncode}: {''.join(said[-1:]).strip()}")
    return Begun(*times)


LAWS: dict[str, Callable[[Any], Sequence[Seen]]] = {"imports": imports, "steps": steps}


def run(options: Start) -> None:
    """Measures them."""
    measure(LAWS, options, "start")
