"""Side by side: our step and the peer's, turn by turn, in one run on one machine.

Each side is a process of its own and does nothing until it is asked. Two processes, since JAX and PyTorch bring their
own pools of threads, allocators and compilers, and because the memory of each is then its own; one at a time, so that
both have all cores. A round asks every side once: ours, the peers, the ceilings, and one large product of every peer
that is another framework (where theirs are as fast as ours, products leave nothing to gain). So whatever else the
machine does, it does to all of them, and a ratio is made of times that were taken within the same seconds.

Before anything is timed, loss and gradients of every side are held against `transformers` on PyTorch in float32, which
has a process for that alone where it is not among the peers. A row whose sides do not compute the same is void, and
says so in place of a ratio. The peer `without-dropout` is ourselves, and computes something else on purpose: its ratio
is what dropout leaves of our speed.
"""

import contextlib
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from bertjax.bench.machine import ENVIRONMENT
from bertjax.bench.row import FOREIGN, REFERENCE, Row
from bertjax.bench.theirs import TOLERANCE
from bertjax.data.workers import Pool, available_cores

CEILINGS = ("matmul", "skeleton")


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds of each round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """Of the rounds."""
        return statistics.median(self.rounds)

    @property
    def spread(self) -> tuple[float, float]:
        """The shortest and the longest."""
        return min(self.rounds), max(self.rounds)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Times":
        """Of the seconds as they were written."""
        return cls(tuple(data["rounds"]))


@dataclasses.dataclass(frozen=True)
class Side:
    """What one side has shown."""

    times: Times
    memory: int  # bytes at the highest
    errors: dict[str, float]  # relative differences from the reference in float32
    facts: dict[str, Any]
    matmul: Times | None = None  # one large product of another framework; ours is among the ceilings

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> "Side":
        """Of the fields as they were written."""
        product = None if data["matmul"] is None else Times.from_json(data["matmul"])
        return cls(**{**data, "times": Times.from_json(data["times"]), "matmul": product})

    def void(self, dtype: str) -> str | None:
        """Which difference is past its tolerance."""
        bad = [
            f"{name} {value:.0e}"
            for name, value in self.errors.items()
            if not value <= TOLERANCE[dtype][name]
        ]
        return ", ".join(bad) or None


@dataclasses.dataclass(frozen=True)
class Result:
    """A line of the table."""

    row: Row
    ours: Side
    peers: dict[str, Side]
    ceilings: dict[str, Times]

    @classmethod
    def from_json(cls, row: Row, data: dict[str, Any]) -> "Result":
        """Of the numbers as they were written."""
        return cls(
            row,
            Side.from_json(data["ours"]),
            {name: Side.from_json(side) for name, side in data["peers"].items()},
            {name: Times.from_json(times) for name, times in data["ceilings"].items()},
        )

    @property
    def void(self) -> str | None:
        """Why this row counts for nothing, if so."""
        sides = {"ours": self.ours, **self.peers}
        bad = [f"{name}: {why}" for name, side in sides.items() if (why := side.void(self.row.model.dtype))]
        return "; ".join(bad) or None

    def ratios(self, peer: str) -> Times:
        """The peer's time over ours, round by round."""
        pairs = zip(self.peers[peer].times.rounds, self.ours.times.rounds, strict=True)
        return Times(tuple(theirs / ours for theirs, ours in pairs))

    def most(self, peer: str) -> Times:
        """The ratio that our useful operations alone would have at the speed of our large product, round by round."""
        products = self.ours.facts["flops"] / self.ours.facts["matmul_flops"]
        pairs = zip(self.peers[peer].times.rounds, self.ceilings["matmul"].rounds, strict=True)
        return Times(tuple(theirs / (products * product) for theirs, product in pairs))

    def matmul_speed(self, peer: str) -> float | None:
        """The speed of the peer's large product over that of ours; none where the peer is ourselves."""
        side, ours = self.peers[peer], self.ours.facts["matmul_flops"]
        if side.matmul is None:
            return None
        more = float(side.facts["matmul_flops"] / ours)
        pairs = zip(self.ceilings["matmul"].rounds, side.matmul.rounds, strict=True)
        return statistics.median(more * product / theirs for product, theirs in pairs)

    @property
    def tokens_per_second(self) -> float:
        """Real ones."""
        return float(self.ours.facts["tokens"]) / self.ours.times.median

    @property
    def flops_per_second(self) -> float:
        """Useful ones."""
        return float(self.ours.facts["flops"]) / self.ours.times.median

    @property
    def utilization(self) -> float:
        """Of the ceiling of one large product."""
        ceiling = self.ours.facts["matmul_flops"] / self.ceilings["matmul"].median
        return float(self.flops_per_second / ceiling)

    @property
    def of_skeleton(self) -> float:
        """The time of the step's own products over that of the step."""
        return self.ceilings["skeleton"].median / self.ours.times.median

    def as_json(self) -> dict[str, Any]:
        """All numbers."""
        return {
            "name": self.row.name,
            "row": dataclasses.asdict(self.row),
            "void": self.void,
            "ours": dataclasses.asdict(self.ours),
            "peers": {name: dataclasses.asdict(side) for name, side in self.peers.items()},
            "ceilings": {name: dataclasses.asdict(times) for name, times in self.ceilings.items()},
            "ratios": {
                name: {"median": self.ratios(name).median, "rounds": self.ratios(name).rounds}
                for name in self.peers
            },
            "most": {name: self.most(name).median for name in self.peers},
            "matmul_speed": {name: self.matmul_speed(name) for name in self.peers},
            "tokens_per_second": self.tokens_per_second,
            "flops_per_second": self.flops_per_second,
            "utilization": self.utilization,
            "of_skeleton": self.of_skeleton,
        }


def run(row: Row, *, rounds: int, seconds: float) -> Result:
    """Measures a row; each turn of a side lasts `seconds` or one run."""
    peers = [peer for peer in row.peers if peer != "none"]
    foreign = [peer for peer in peers if peer in FOREIGN]
    threads = row.threads or available_cores()
    with tempfile.TemporaryDirectory(prefix="bertjax-") as folder, contextlib.ExitStack() as stack:

        def pool(module: str, row: Row, *setup: Any) -> Pool:
            environment = {**ENVIRONMENT, "OMP_NUM_THREADS": str(threads)}
            return Pool(1, f"bertjax.bench.{module}", row, folder, *setup, environment=environment)

        ours = stack.enter_context(pool("ours:Ours", row))
        told: dict[str, dict[str, float]] = {}
        if foreign:
            ask(ours, "write")
            told["ours"] = ask(ours, "check")
        facts = {"ours": ask(ours, "prepare")}
        here = (facts["ours"]["platform"], threads)
        sides = {"ours": ours}
        for peer in peers:
            side = pool(FOREIGN[peer], row, peer, *here) if peer in FOREIGN else pool("ours:Ours", row.still)
            sides[peer] = stack.enter_context(side)
        errors: dict[str, dict[str, float]] = {}
        if foreign:
            told |= {peer: ask(sides[peer], "check") for peer in foreign if FOREIGN[peer] != REFERENCE}
            able = [sides[peer] for peer in foreign if FOREIGN[peer] == REFERENCE]
            with (
                contextlib.nullcontext(able[0]) if able else pool(REFERENCE, row, "transformers", *here)
            ) as reference:
                found = ask(reference, "check", told)
            # PyTorch's is one module with the same numbers, compiled or not.
            errors = {name: found.get(name, found["theirs"]) for name in ("ours", *foreign)}
        facts |= {peer: ask(sides[peer], "prepare") for peer in peers}
        turns = [(name, "step") for name in sides] + [("ours", ceiling) for ceiling in CEILINGS]
        turns += [(peer, "matmul") for peer in foreign]
        times = measure(sides, turns, rounds, seconds)
        memory = {name: ask(side, "memory") for name, side in sides.items()}
    made = {
        name: Side(
            Times(tuple(times[name, "step"])),
            memory[name],
            errors.get(name, {}),
            facts[name],
            Times(tuple(times[name, "matmul"])) if name in FOREIGN else None,
        )
        for name in sides
    }
    ceilings = {name: Times(tuple(times["ours", name])) for name in CEILINGS}
    return Result(row, made.pop("ours"), made, ceilings)


def measure(
    sides: dict[str, Pool], turns: Sequence[tuple[str, str]], rounds: int, seconds: float
) -> dict[tuple[str, str], list[float]]:
    """Seconds of every turn, round by round; a first round is thrown away and says how often each is run in a turn."""
    once = {turn: ask(sides[turn[0]], "measure", turn[1], 1) for turn in turns}
    times: dict[tuple[str, str], list[float]] = {turn: [] for turn in turns}
    for _ in range(rounds):
        for turn in turns:
            often = max(1, round(seconds / max(once[turn], 1e-6)))
            times[turn].append(ask(sides[turn[0]], "measure", turn[1], often))
            time.sleep(0.05)  # threads that wait for more work by spinning give up
    return times


def ask(side: Pool, method: str, *arguments: Any) -> Any:
    """What the process of a side answers."""
    return next(side.map([(method, *arguments)]))
