"""Where a step's time goes: `--mode=profile` records a few steps and tells it by block and by operation.

Every operation of the compiled step remembers the code that it was made from: the names of the modules around it, and
whether it belongs to the forward or the backward pass. So the recorded times add up to those of embeddings, attention,
feed-forward, norms, dropout, heads, loss and optimizer. A fused operation counts where its result belongs.

WORKDIR/profile gets the trace in the format of XProf and Perfetto, blocks.json and blocks.png. Of a run in phases the
last one is recorded.
"""

import collections
import dataclasses
import gzip
import json
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from bertjax.config import Config
from bertjax.parts import open_run
from bertjax.program import create_state
from bertjax.step import make_train_step

STEPS = 5

# The first that is found in an operation's path names its block; the paths are those of modules and named scopes.
BLOCKS = {
    "dropout": r"dropout|Dropout|bernoulli",
    "norms": r"norm(_\d+)?/",
    "embeddings": r"encoder/(embedder|position)",
    "attention: projections": r"/(attention|cross)\S*/(query|key|value|output)/",
    "attention: mixing": r"/(attention|cross)/",
    "feed-forward": r"/mlp/",
    "residual sums": r"/block_\d+/[^/]+$",
    "pooler": r"encoder/(pooler|tanh)",
    "heads": r"/(heads|rewriters)_",
    "loss": r"[/(]loss[/)]",
    "optimizer": r"/optimizer/",
    "hiding tokens": r"/corrupt/",
}
OTHER = "other"
BACKWARD = re.compile(r"transpose\(")


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation of the compiled step, over all steps that were recorded."""

    name: str
    block: str
    backward: bool
    milliseconds: float  # a step
    calls: float  # a step


def run(config: Config, workdir: str) -> list[Operation]:
    """Records steps, prints both tables, draws the plot; returns the operations, the longest first."""
    part = open_run(config)[0][-1]
    program, loader = part.program, part.loader
    folder = pathlib.Path(workdir) / "profile"
    with program.active():
        batches = [loader.place(i, program.mesh, config.mesh.rules) for i in range(STEPS)]
        shapes = {batch.tokens.shape for batch in batches}
        first = batches[0]
        batches = [batch for batch in batches if batch.tokens.shape == first.tokens.shape]
        state = create_state(program)
        step = make_train_step(program).lower(state, first).compile()
        for batch in batches:  # whatever is slow the first time
            state, metrics = step(state, batch)
        jax.block_until_ready(metrics)
        with jax.profiler.trace(str(folder)):
            for batch in batches:
                state, metrics = step(state, batch)
            jax.block_until_ready(metrics)
    operations = read_trace(folder, origins(step.as_text()), len(batches))
    if len(shapes) > 1:
        print(f"rows of {first.tokens.shape[1]} tokens alone were recorded")
    summary = by_block(operations)
    (folder / "blocks.json").write_text(json.dumps(summary, indent=1) + "\n")
    draw(summary, folder / "blocks.png")
    print(f"{'block':32}{'forward ms':>12}{'backward ms':>13}{'share':>8}")
    whole = sum(sum(times.values()) for times in summary.values())
    for block, times in summary.items():
        share = sum(times.values()) / whole
        print(f"{block:32}{times['forward']:12.2f}{times['backward']:13.2f}{share:8.1%}")
    print(f"\n{'operation':48}{'ms a step':>12}{'calls':>8}")
    for one in merged(operations)[:25]:
        print(f"{one.name[:46]:48}{one.milliseconds:12.2f}{one.calls:8.0f}")
    print(f"\ntrace, blocks.json and blocks.png in {folder}")
    return operations


def origins(text: str) -> dict[str, str]:
    """The path of the code that each operation of a compiled program was made from."""
    found = re.finditer(r"^\s*(?:ROOT )?%?([\w.-]+) = .*?metadata=\{[^}]*op_name=\"([^\"]*)\"", text, re.M)
    return {match[1]: match[2] for match in found}


def block_of(path: str) -> str:
    """The block that an operation belongs to."""
    return next((block for block, pattern in BLOCKS.items() if re.search(pattern, path)), OTHER)


def read_trace(folder: pathlib.Path, paths: Mapping[str, str], steps: int) -> list[Operation]:
    """All operations of the newest trace in a folder, over all threads and devices, the longest first."""
    traces = sorted(folder.rglob("*.trace.json.gz"), key=lambda file: file.stat().st_mtime)
    if not traces:
        raise ValueError(f"the profiler left no trace in {folder}")
    with gzip.open(traces[-1], "rt") as file:
        events: list[dict[str, Any]] = json.load(file)["traceEvents"]
    total: collections.Counter[str] = collections.Counter()
    calls: collections.Counter[str] = collections.Counter()
    for event in events:
        # Operations carry the module they belong to; what Python itself did does not.
        name = event.get("args", {}).get("hlo_op")
        if event.get("ph") == "X" and name:
            total[name] += event["dur"]
            calls[name] += 1
    found = []
    for name, microseconds in total.most_common():
        path = paths.get(name, "")
        backward = BACKWARD.search(path) is not None
        found.append(
            Operation(name, block_of(path), backward, microseconds / 1e3 / steps, calls[name] / steps)
        )
    return found


def merged(operations: Sequence[Operation]) -> list[Operation]:
    """Operations of one kind in one block together: their names but for the number."""
    kinds: dict[tuple[str, str], Operation] = {}
    for one in operations:
        kind = one.name.rstrip("0123456789").rstrip(".")
        old = kinds.get((kind, one.block), Operation(f"{kind} ({one.block})", one.block, False, 0.0, 0.0))
        kinds[kind, one.block] = dataclasses.replace(
            old, milliseconds=old.milliseconds + one.milliseconds, calls=old.calls + one.calls
        )
    return sorted(kinds.values(), key=lambda one: -one.milliseconds)


def by_block(operations: Sequence[Operation]) -> dict[str, dict[str, float]]:
    """Milliseconds a step of every block, forward and backward, in the order of a step."""
    found = {block: {"forward": 0.0, "backward": 0.0} for block in (*BLOCKS, OTHER)}
    for one in operations:
        found[one.block]["backward" if one.backward else "forward"] += one.milliseconds
    return {block: times for block, times in found.items() if sum(times.values())}


def draw(summary: Mapping[str, Mapping[str, float]], path: pathlib.Path) -> None:
    """A bar for every block, the longest above."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    blocks = sorted(summary, key=lambda block: sum(summary[block].values()))
    forward, backward = ([summary[block][way] for block in blocks] for way in ("forward", "backward"))
    figure, axes = pyplot.subplots(figsize=(8, 0.4 * len(blocks) + 1.2), layout="constrained")
    axes.barh(blocks, forward, label="forward", color="tab:blue")
    axes.barh(blocks, backward, left=forward, label="backward", color="tab:orange")
    whole = sum(map(sum, zip(forward, backward, strict=True)))
    for place, (ahead, back) in enumerate(zip(forward, backward, strict=True)):
        axes.text(ahead + back, place, f" {(ahead + back) / whole:.0%}", va="center")
    axes.set_xlabel("ms a step, over all threads")
    axes.margins(x=0.1)
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
