"""Where a step's time goes: `--mode=profile` records a few steps and lists the operations that took longest.

Of a run in phases it is the last one that is recorded. The trace lies under WORKDIR/profile in the format of XProf and
Perfetto.
"""

import collections
import gzip
import json
import pathlib
from typing import Any

import jax

from bertjax.config import Config
from bertjax.parts import open_run
from bertjax.program import create_state
from bertjax.step import make_train_step

STEPS = 5


def run(config: Config, workdir: str) -> list[tuple[str, float, int]]:
    """Records steps, prints the table, returns its rows: operation, milliseconds a step, calls a step."""
    part = open_run(config)[0][0]
    program, loader = part.program, part.loader
    folder = pathlib.Path(workdir) / "profile"
    with program.active():
        state, step = create_state(program), make_train_step(program)
        batches = [loader.place(i, program.mesh, config.mesh.rules) for i in range(STEPS)]
        for batch in batches:  # compiles
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        with jax.profiler.trace(str(folder)):
            for batch in batches:
                state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
    rows = top_operations(folder)
    print(f"{'operation':48}{'ms a step':>12}{'calls':>8}")
    for name, milliseconds, calls in rows[:25]:
        print(f"{name[:46]:48}{milliseconds:12.2f}{calls:8d}")
    print(f"trace in {folder}")
    return rows


def top_operations(folder: pathlib.Path) -> list[tuple[str, float, int]]:
    """Time by name of operation over all threads and devices, longest first, from the newest trace in a folder."""
    traces = sorted(folder.rglob("*.trace.json.gz"))
    if not traces:
        raise ValueError(f"the profiler left no trace in {folder}")
    with gzip.open(traces[-1], "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    total: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for event in events:
        # Operations carry the module they belong to; what Python itself did does not.
        if event.get("ph") == "X" and "hlo_op" in event.get("args", {}):
            kind = event["name"].rstrip("0123456789").rstrip(".")
            total[kind] += event["dur"]
            calls[kind] += 1
    return [
        (name, microseconds / 1e3 / STEPS, calls[name] // STEPS) for name, microseconds in total.most_common()
    ]
