"""A law of growth: what should hold of a price, what was measured, and whether it held.

Each law is a function of the options that gives a `Seen`: points, one number made of them, and its bounds. Points are
the least of some rounds in turns: what else the machine does can only add to a time.

Some minutes go by until all are measured, so a list is written after each law, and goes on from there (`known`).
"""

import dataclasses
import json
import pathlib
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, Protocol

import jax
import numpy as np

from bertjax.bench import known
from bertjax.bench.machine import processor
from bertjax.bench.table import MISSING, number, table
from bertjax.data.files import replace_file
from bertjax.data.workers import available_cores
from bertjax.layers.config import EncoderConfig
from bertjax.settings import suggest

HEAD = ("law", "measured", "fit", "seen", "bound", "met")
# What decides a point: steps, how they are compiled and planned, and the laws themselves.
CODE = (
    *(
        "attention",
        "layers",
        "models",
        "tasks",
        "plan",
        "adversarial.py",
        "config.py",
        "metrics.py",
        "optim.py",
    ),
    *("program.py", "sharding.py", "step.py", "bench/compile.py", "bench/growth.py", "bench/law.py"),
    *("bench/machine.py", "bench/memory.py", "bench/row.py", "bench/scale.py"),
)
NOTHING = (-np.inf, np.inf)


@dataclasses.dataclass(frozen=True)
class Laws:
    """What is measured, and how."""

    only: tuple[str, ...] = ()
    """Names of laws; none means all."""
    model: EncoderConfig = EncoderConfig(
        layers=2, width=128, heads=2, vocab=4096, dropout=0.0, attention_dropout=0.0
    )
    """The encoder; each law sets what it is about (attention, vocabulary, depth) and leaves the rest."""
    tokens: int = 8192
    """Tokens in a batch, about."""
    rounds: int = 5
    """Rounds in turns, of which the fastest counts."""
    topologies: tuple[str, ...] = ()
    """Machines to compile for that are not here, as v5e:4x4,v5e:16x16 (needs libtpu); none leaves that law out."""
    out: str = "runs/bench"
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        for name, least in (("tokens", 8192), ("rounds", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name}={getattr(self, name)} must be at least {least}")
        if len(self.topologies) == 1:
            raise ValueError(
                f"topologies={self.topologies[0]}: two or more are compared, as v5e:4x4,v5e:16x16"
            )


@dataclasses.dataclass(frozen=True)
class Seen:
    """What was measured of a law."""

    law: str  # what should hold, in a few words
    points: Mapping[str, float]
    unit: str
    fit: str  # how `seen` follows from the points
    seen: float
    bounds: tuple[float, float]  # (-inf, inf): told, and held to nothing

    @property
    def met(self) -> bool | None:
        """None where nothing is asked for."""
        if np.isinf(self.bounds).all():
            return None
        return self.bounds[0] <= self.seen <= self.bounds[1]

    @property
    def row(self) -> tuple[str, ...]:
        """Its line of the table."""
        low, high = self.bounds
        bound = MISSING if self.met is None else f"{low:g} to {high:g}" if low > 0 else f"at most {high:g}"
        points = ", ".join(f"{name} {number(value)}" for name, value in self.points.items())
        met = MISSING if self.met is None else "yes" if self.met else "NO"
        return self.law, f"{points} {self.unit}", self.fit, f"{self.seen:.3f}", bound, met

    def as_json(self) -> dict[str, Any]:
        """All of it, and whether it was met; JSON has no infinite numbers."""
        return {
            **dataclasses.asdict(self),
            "bounds": None if self.met is None else self.bounds,
            "met": self.met,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Seen":
        """What was written."""
        fields = {field.name: data[field.name] for field in dataclasses.fields(cls)}
        return cls(**{**fields, "bounds": tuple(data["bounds"] or NOTHING)})


class Asked(Protocol):
    """Options of any list of laws, a dataclass."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def only(self) -> tuple[str, ...]:
        """Names of laws; none means all."""

    @property
    def out(self) -> str:
        """Folder for the results."""


def fastest(runs: Mapping[Any, Callable[[], Any]], rounds: int) -> dict[Any, float]:
    """Seconds of each run, the least of some rounds in which all have their turns.

    In a turn it runs twice, and the second counts: the memory of a step is given back to the system when its results
    are there already, while the next one runs, and who comes after the largest of a list would pay for that.
    """
    times: dict[Hashable, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            for counts in (False, True):
                began = time.perf_counter()
                jax.block_until_ready(run())
                if counts:
                    times[name].append(time.perf_counter() - began)
    return {name: min(found) for name, found in times.items()}


def spread(values: Sequence[float]) -> float:
    """The most over the least."""
    return max(values) / min(values)


def measure(
    laws: Mapping[str, Callable[[Any], Sequence[Seen]]],
    options: Asked,
    name: str,
    *,
    code: Sequence[str] = (),
) -> list[Seen]:
    """Measures laws one after the other; prints each and writes NAME.md and NAME.json into a folder after it.

    With `code`, the files that decide what is seen, laws that the folder holds for just this stay as they are; without,
    all are measured anew.
    """
    for wanted in options.only:
        if wanted not in laws:
            raise ValueError(f"only={wanted} is no law of bench {name}: {suggest(wanted, list(laws))}")
    folder = pathlib.Path(options.out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={options.out} cannot be a folder: {error.strerror}; name another") from None
    about, numbers = header(options, code), folder / f"{name}.json"
    kept = known.read(numbers, about, "laws") if code else []
    found = {entry["name"]: [Seen.from_json(one) for one in entry["seen"]] for entry in kept}
    for key in options.only or laws:
        if key in found:
            print(f"{key}: known, in {numbers}", flush=True)
            continue
        found[key] = [*laws[key](options)]
        for one in found[key]:
            print(" | ".join(one.row), flush=True)
        found = {each: found[each] for each in laws if each in found}
        entries = [{"name": each, "seen": [one.as_json() for one in seen]} for each, seen in found.items()]
        replace_file(str(numbers), (json.dumps({"about": about, "laws": entries}, indent=1) + "\n").encode())
        replace_file(str(folder / f"{name}.md"), markdown([*chain(*found.values())]).encode())
    seen = [*chain(*found.values())]
    plot(seen, folder / f"{name}.png")
    print(f"written to {folder}/{name}.md, .json and .png")
    return seen


def header(options: Asked, code: Sequence[str]) -> dict[str, Any]:
    """What a measurement holds for: all that was asked, but for which laws and where to write them."""
    names = [field.name for field in dataclasses.fields(options)]
    asked = {name: str(getattr(options, name)) for name in names if name not in ("only", "out")}
    where = f"{jax.default_backend()}, {processor()}, {available_cores()} cores"
    digest = known.digest_of_code(code) if code else None
    return {**asked, "machine": where, "jax": jax.__version__, "code": digest}


def markdown(found: Sequence[Seen]) -> str:
    """The table, and what it was measured with."""
    device = jax.devices()[0]
    where = f"{processor()}, {available_cores()} cores" if device.platform == "cpu" else device.device_kind
    return f"{table(HEAD, [one.row for one in found])}\n\nMeasured on {where}, with jax {jax.__version__}.\n"


def plot(found: Sequence[Seen], path: pathlib.Path) -> None:
    """What was measured of each law, as bars; left out where matplotlib is not installed."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        print("no plot: matplotlib is not installed")
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(
        len(found), figsize=(8, 1.7 * len(found)), layout="constrained", squeeze=False
    )
    for axis, seen in zip(axes[:, 0], found, strict=True):
        names = [*seen.points]
        axis.barh(
            range(len(names)), [*seen.points.values()], color="tab:red" if seen.met is False else "tab:blue"
        )
        axis.set_yticks(range(len(names)), names, fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel(seen.unit, fontsize=8)
        axis.set_title(f"{seen.law}: {seen.seen:.3f}", fontsize=9)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
