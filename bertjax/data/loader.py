"""Batches as a pure function of the step, and their way onto the mesh.

Row r of step s is number g = s * batch_size + r of one stream of rows. A training stream goes through all
examples in another order each epoch, for ever: epoch g // n, position g % n, and a keyed permutation of the
positions (`Examples.order`). An evaluation stream (`shuffle=False`) goes through them once, in their own
order (`Examples.once`), epoch 0, and is filled up with empty rows (mask False throughout, example_id -1), so
it also has a last batch of full size.

Nothing is remembered, so a run that resumes at step s asks for step s, and each process builds only the
rows that its devices hold: the global batch is the same for any number of processes.
"""

import time
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.examples import Examples, Rows
from bertjax.sharding import batch_sharding
from bertjax.types import Batch

__all__ = ["Batches", "Loader", "Speed", "abstract_batch", "measure"]

_INPUTS = ("tokens", "mask", "types", "positions")


class Batches(Protocol):
    """What gives the batch of a step."""

    def place(self, step: int, mesh: Mesh, rules: str) -> Batch:
        """The global batch of that step as arrays laid over the mesh."""


class Loader:
    """The batches of a stream of examples."""

    def __init__(self, examples: Examples, batch_size: int, seed: int, shuffle: bool = True) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: a batch has 1 row or more")
        self.examples, self.batch_size, self.seed, self.shuffle = examples, batch_size, seed, shuffle

    @property
    def steps_per_epoch(self) -> float:
        """Batches in which as many rows go by as there are examples."""
        return len(self.examples) / self.batch_size

    @property
    def steps(self) -> int:
        """Batches in which every example goes by once; the last one of an evaluation may be partly empty."""
        return -(-len(self.examples) // self.batch_size)

    def seen(self, steps: int) -> dict[str, dict[str, float]]:
        """Rows, epochs and tokens that each source of a mixture supplies in so many steps; empty without one."""
        return self.examples.seen(steps * self.batch_size, self.seed)

    def rows(self, step: int, start: int, stop: int) -> Rows:
        """Rows [start, stop) of the global batch of that step."""
        if not 0 <= start <= stop <= self.batch_size or step < 0:
            raise IndexError(f"rows {start} to {stop} of step {step} in batches of {self.batch_size} rows")
        numbers = step * self.batch_size + np.arange(start, stop, dtype=np.int64)
        if self.shuffle:
            epochs, indices = self.examples.order(numbers, self.seed)
        else:
            there = numbers < len(self.examples)
            epochs, indices = np.zeros_like(numbers), np.full_like(numbers, -1)
            indices[there] = self.examples.once(numbers[there])
        return self.examples.rows(epochs, indices)

    def place(self, step: int, mesh: Mesh, rules: str) -> Batch:
        """The global batch of that step as arrays laid over the mesh."""
        built: dict[tuple[int, int], Rows] = {}  # devices that share rows share the work

        def array(name: str, *, length: bool) -> jax.Array:
            shape = (self.batch_size, self.examples.length) if length else (self.batch_size,)

            def part(index: tuple[slice, ...] | None) -> np.ndarray:
                assert index is not None
                start, stop, _ = index[0].indices(self.batch_size)
                if (start, stop) not in built:
                    built[start, stop] = self.rows(step, start, stop)
                return built[start, stop][name][(slice(None), *index[1:])]

            return jax.make_array_from_callback(
                shape, batch_sharding(shape, mesh, rules, length=length), part
            )

        targets: dict[str, dict[str, Any]] = {}
        if self.examples.labelled:
            targets["pair"] = {"label": array("pair_label", length=False)}
        if self.examples.segmented:
            targets["words"] = {"starts": array("starts_word", length=True)}
        inputs = {name: array(name, length=True) for name in _INPUTS}
        return Batch(
            **inputs,
            segments=array("segments", length=True) if self.examples.packed else None,
            targets=targets,
            example_id=array("example_id", length=False),
            epoch=array("epoch", length=False),
        )


def abstract_batch(
    batch_size: int,
    length: int,
    mesh: Mesh,
    rules: str,
    *,
    packed: bool,
    labelled: bool,
    segmented: bool = False,
) -> Batch:
    """Shapes and shardings of a batch, known without any data."""

    def array(*shape: int, dtype: Any = np.int32) -> jax.ShapeDtypeStruct:
        where = batch_sharding(shape, mesh, rules, length=len(shape) == 2)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    whole = array(batch_size, length)
    targets: dict[str, dict[str, Any]] = {"pair": {"label": array(batch_size)}} if labelled else {}
    if segmented:
        targets["words"] = {"starts": array(batch_size, length, dtype=bool)}
    return Batch(
        tokens=whole,
        mask=array(batch_size, length, dtype=bool),
        types=whole,
        positions=whole,
        segments=whole if packed else None,
        targets=targets,
        example_id=array(batch_size),
        epoch=array(batch_size),
    )


class Speed(NamedTuple):
    """What threads have done."""

    tokens: int  # real ones
    seconds: float
    core_seconds: float  # of the whole process, on all cores


def measure(loader: Loader, seconds: float, threads: int = 1) -> Speed:
    """How many real tokens so many threads lay out in the loader's batches, on the host alone."""
    from concurrent.futures import ThreadPoolExecutor

    def work(first: int) -> int:
        tokens, step = 0, first
        while time.perf_counter() < until:
            tokens += int(loader.rows(step, 0, loader.batch_size)["mask"].sum())
            step += threads
        return tokens

    loader.rows(0, 0, 1)  # maps the files
    begin, core = time.perf_counter(), time.process_time()
    until = begin + seconds
    with ThreadPoolExecutor(threads) as pool:
        tokens = sum(pool.map(work, range(threads)))
    return Speed(tokens, time.perf_counter() - begin, time.process_time() - core)
