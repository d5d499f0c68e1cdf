"""The rows that a machine is held to, one after the other: `python -m bertjax bench goals --suite=cpu`.

    cpu        two cores: base, small and mini, both precisions, inference, natural lengths, with and without dropout
    cpu-flax   two cores: base beside the Flax models of transformers, in an environment with a version before 5
    h200       one NVIDIA H200: large and base in bfloat16 with rows of 512, packed beside padded, dense beside compiled

Goals are ratios of times, a peer's over ours; beside ourselves without dropout 0.80 is a step that takes 1.25 times as
long with it. On the GPU attention has no dropout on either side, since cuDNN's has none; all other dropout is on.
"""

import dataclasses
from typing import Literal

from bertjax.bench.race import check_peers
from bertjax.bench.row import Peer, Row
from bertjax.bench.speed import measure_rows
from bertjax.layers.config import EncoderConfig
from bertjax.models.presets import PRESETS

USAGE = """usage: python -m bertjax bench goals --suite=cpu|cpu-flax|h200 [--option=value ...]

Measures the rows that a machine is held to, the most important first, and writes goals-SUITE.md, .json and .png after
each, so that a run that is cut short keeps what it has.

Rows that the same code has measured there under the same conditions stay as they are: the same command goes on, and
`--only` adds row by row. Delete goals-SUITE.json to have all measured anew.

    python -m bertjax bench goals --suite=cpu
    python -m bertjax bench goals --suite=cpu --only=mini,small --rounds=5"""


@dataclasses.dataclass(frozen=True)
class Goals:
    """Which rows, and how."""

    suite: Literal["cpu", "cpu-flax", "h200"] = "cpu"
    """The machine."""
    only: tuple[str, ...] = ()
    """Words: rows whose name has one of them; none means all."""
    peer: tuple[Peer, ...] = ()
    """Beside whom, in place of what each row says; none leaves every row its own."""
    rounds: int = 3
    """Rounds that count; in each all sides have a turn."""
    seconds: float = 1.0
    """How long a turn lasts, about; at least one step."""
    out: str = "runs/bench"
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        if self.rounds < 1 or not self.seconds > 0:
            raise ValueError(f"rounds={self.rounds} must be at least 1 and seconds={self.seconds} above 0")


OPTIONS = Goals()

COMPILED: tuple[Peer, ...] = ("transformers-compiled",)


def preset(name: str, dtype: Literal["float32", "bfloat16"] = "float32") -> EncoderConfig:
    """A published size in that precision."""
    return dataclasses.replace(PRESETS[name], dtype=dtype)


def fused(name: str) -> EncoderConfig:
    """A published size for a GPU's fused attention, scanned, so that it compiles in time."""
    return dataclasses.replace(preset(name, "bfloat16"), attention_dropout=0.0, scan=True)


SUITES: dict[str, tuple[Row, ...]] = {
    "cpu": (
        Row("train", preset("mini"), 64, goal=5.5, aim=8),
        Row("train", preset("small"), 32, goal=3.5, aim=5),
        Row("train", preset("base"), goal=1.7, aim=2.2, share=0.65),
        Row("train", preset("base", "bfloat16"), goal=1.3, aim=2.0, share=0.60),
        Row("train", preset("base", "bfloat16"), peers=COMPILED, goal=1.2),
        Row("infer", preset("base"), goal=1.65, aim=1.8),
        Row("infer", preset("base", "bfloat16"), goal=1.2, aim=1.5),
        Row("train", preset("base"), 32, rows="natural", goal=2.5, aim=4),
        Row("train", preset("base"), peers=("without-dropout",), goal=0.80, aim=0.91),
    ),
    "cpu-flax": (Row("train", preset("base"), peers=("transformers-flax",), goal=1.4),),
    "h200": (
        Row("train", fused("large"), 64, 512, peers=COMPILED, goal=1.25, aim=1.5),
        Row("train", fused("large"), 128, 512, rows="natural", goal=4, aim=5),
        Row("train", fused("base"), 128, 512, peers=COMPILED, goal=1.25, aim=1.5),
        Row("infer", fused("base"), 256, 512, peers=COMPILED),
    ),
}


def run(options: Goals) -> None:
    """Measures the rows of a suite."""
    rows = [dataclasses.replace(row, peers=options.peer or row.peers) for row in SUITES[options.suite]]
    chosen = [row for row in rows if not options.only or any(word in row.name for word in options.only)]
    if not chosen:
        known = "; ".join(row.name for row in rows)
        raise ValueError(f"only={','.join(options.only)} is in the name of no row: {known}")
    check_peers(chosen)
    measure_rows(
        chosen,
        rounds=options.rounds,
        seconds=options.seconds,
        out=options.out,
        name=f"goals-{options.suite}",
        suite=rows,
    )
