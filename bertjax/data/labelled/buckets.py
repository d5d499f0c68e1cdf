"""Batches of rows of like length, as a pure function of the step, in few shapes.

An epoch of n examples in batches of b:

    1. a keyed permutation of all n, another one each epoch
    2. windows of `window` batches, each sorted by length (the order of 1 decides between equals)
    3. cut into batches of b, the last of which may be partly empty
    4. a keyed permutation of the batches

So every example goes by once an epoch, neighbours in length share a batch, and which ones they are is random. A batch
is as long as the shortest of the given lengths that holds it. Nothing is remembered; the plan of an epoch is computed
from (seed, epoch) when one of its steps is asked for.

An evaluation goes through all examples once, by length. Of several tasks each step serves one, drawn by share from a
hash of the step; how often it was drawn before says which of its batches comes.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax.data.examples import Rows
from bertjax.data.labelled.examples import LabelledExamples
from bertjax.data.shuffle import mix, mix_many, permute
from bertjax.sharding import batch_sharding
from bertjax.types import Batch, Int

__all__ = ["Buckets", "LabelledLoader", "abstract_labelled"]

_EPOCH, _BATCHES, _TASKS = 31, 32, 33  # purposes of hashes, so that no two draws share one
_INPUTS = ("tokens", "mask", "types", "positions")


class Buckets:
    """The batches of one task."""

    def __init__(
        self,
        examples: LabelledExamples,
        batch_size: int,
        lengths: Sequence[int],
        *,
        seed: int = 0,
        window: int = 32,
        shuffle: bool = True,
    ) -> None:
        """`batch_size` counts examples, `lengths` ascend, `window` is in batches."""
        longest = int(examples.lengths.max(initial=0))
        assert list(lengths) == sorted(lengths) and longest <= lengths[-1], (
            f"{longest} tokens, lengths {lengths}"
        )
        self.examples, self.batch_size, self.lengths = examples, batch_size, tuple(lengths)
        self.seed, self.window, self.shuffle = seed, window, shuffle
        self._plan = functools.lru_cache(maxsize=4)(self._make_plan)

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.examples) // self.batch_size)

    def _make_plan(self, epoch: int) -> Int[np.ndarray, "steps batch"]:
        """The examples of every batch of an epoch; -1 where there are none left."""
        number, size = len(self.examples), self.batch_size
        if self.shuffle:
            order = permute(np.arange(number), number, mix(self.seed, _EPOCH, epoch))
            window = np.arange(number) // (self.window * size)
            order = order[np.lexsort((np.arange(number), self.examples.lengths[order], window))]
        else:
            order = np.argsort(self.examples.lengths, kind="stable")
        flat = np.full(self.steps * size, -1, np.int64)
        flat[:number] = order
        plan = flat.reshape(self.steps, size)
        if self.shuffle:
            plan = plan[permute(np.arange(self.steps), self.steps, mix(self.seed, _BATCHES, epoch))]
        return plan

    def indices(self, step: int) -> tuple[int, Int[np.ndarray, "batch"]]:
        """Epoch and examples of a batch."""
        epoch, place = divmod(step, self.steps)
        return epoch, self._plan(epoch)[place]

    def length(self, step: int) -> int:
        """Of the rows of a batch."""
        chosen = self.indices(step)[1]
        longest = int(self.examples.lengths[chosen[chosen >= 0]].max(initial=0))
        return next(length for length in self.lengths if length >= longest)

    def rows(self, step: int, start: int, stop: int) -> Rows:
        """Examples [start, stop) of a batch."""
        epoch, chosen = self.indices(step)
        return self.examples.batch(np.full(stop - start, epoch), chosen[start:stop], self.length(step))

    @functools.cached_property
    def efficiency(self) -> float:
        """Real tokens over slots, in the first epoch."""
        slots = sum(self.length(step) for step in range(self.steps)) * self.batch_size * self.examples.group
        return float(self.examples.offsets[-1] / max(slots, 1))


@dataclasses.dataclass
class Extent:
    """What there is to learn from, as a banner tells it."""

    size: int
    efficiency: float  # real tokens over slots
    digest: str

    def __len__(self) -> int:
        return self.size

    def rows(self, epochs: np.ndarray, indices: np.ndarray) -> Rows:
        """None: what is on a disk has to be probed before a run, and these records are in memory."""
        del epochs, indices
        return {}


class LabelledLoader:
    """The batches of a run with one labelled task or several."""

    def __init__(
        self, tasks: Mapping[str, Buckets], shares: Mapping[str, float], steps: int, seed: int, digest: str
    ) -> None:
        """`shares` say how often the batches of each come; `steps` is the last one that may be asked for."""
        self.tasks = dict(tasks)
        tokens = sum(float(buckets.examples.offsets[-1]) for buckets in tasks.values())
        slots = sum(float(b.examples.offsets[-1]) / max(b.efficiency, 1e-9) for b in tasks.values())
        size = sum(len(buckets.examples) for buckets in tasks.values())
        self.examples = Extent(size, tokens / max(slots, 1.0), digest)
        names = list(tasks)
        weights = np.array([shares[name] for name in names], np.float64)
        bounds = np.cumsum(weights / weights.sum())
        if len(names) == 1:
            chosen = np.zeros(steps, np.int64)
        else:
            draws = mix_many(seed, _TASKS, np.arange(steps)).astype(np.float64) / 2.0**64
            chosen = np.minimum(np.searchsorted(bounds, draws, side="right"), len(names) - 1)
        self._chosen = chosen.astype(np.int32)
        self._turn = np.zeros(steps, np.int64)
        for number in range(len(names)):
            mine = chosen == number
            self._turn[mine] = np.arange(mine.sum())
        self._names = names

    def which(self, step: int) -> tuple[str, int]:
        """The task that a step serves, and how often it was served before."""
        return self._names[self._chosen[step]], int(self._turn[step])

    def kind(self, step: int) -> tuple[str, int]:
        """What a step is compiled for: the task and the length of its rows."""
        name, turn = self.which(step)
        return name, self.tasks[name].length(turn)

    def seen(self, steps: int) -> dict[str, dict[str, float]]:
        """As of a mixture of corpora, which this is not."""
        del steps
        return {}

    def place(self, step: int, mesh: Mesh, rules: str) -> Batch:
        """The global batch of that step as arrays laid over the mesh."""
        name, turn = self.which(step)
        return place_rows(self.tasks[name], name, turn, mesh, rules)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which, by the shares, as many examples go by as there are."""
        return float(sum(buckets.steps for buckets in self.tasks.values()))


def place_rows(buckets: Buckets, task: str, step: int, mesh: Mesh, rules: str) -> Batch:
    """One batch of a task as arrays laid over the mesh; each process builds the rows of its own devices."""
    examples, size, length = buckets.examples, buckets.batch_size, buckets.length(step)
    built: dict[tuple[int, int], Rows] = {}  # devices that share rows share the work

    def array(name: str, unit: int, shape: tuple[int, ...], dtype: Any, *, tokens: bool) -> jax.Array:
        """`unit` is how many entries an example has."""
        whole = (size * unit, *shape)

        def part(index: tuple[slice, ...] | None) -> np.ndarray:
            assert index is not None
            start, stop, _ = index[0].indices(size * unit)
            assert start % unit == 0 and stop % unit == 0, "the rows of an example lie on one device"
            span = start // unit, stop // unit
            if span not in built:
                built[span] = buckets.rows(step, *span)
            return built[span][name][(slice(None), *index[1:])].astype(dtype, copy=False)

        return jax.make_array_from_callback(whole, batch_sharding(whole, mesh, rules, length=tokens), part)

    group = examples.group
    inputs = {
        name: array(name, group, (length,), bool if name == "mask" else np.int32, tokens=True)
        for name in _INPUTS
    }
    numbers = {name: array(name, group, (), np.int32, tokens=False) for name in ("example_id", "epoch")}
    targets = {
        name: array(name, 1, (length,) if target.tokens else target.shape, target.dtype, tokens=target.tokens)
        for name, target in examples.targets.items()
    }
    return Batch(**inputs, **numbers, segments=None, targets={task: targets})


def abstract_labelled(
    task: str, targets: Mapping[str, Any], group: int, batch_size: int, length: int, mesh: Mesh, rules: str
) -> Batch:
    """Shapes and shardings of a batch of a task, known without any data."""

    def array(shape: tuple[int, ...], dtype: Any, *, tokens: bool) -> jax.ShapeDtypeStruct:
        where = batch_sharding(shape, mesh, rules, length=tokens)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=where)

    rows = batch_size * group
    whole, number = array((rows, length), np.int32, tokens=True), array((rows,), np.int32, tokens=False)
    return Batch(
        tokens=whole,
        mask=array((rows, length), bool, tokens=True),
        types=whole,
        positions=whole,
        segments=None,
        targets={
            task: {
                name: array((batch_size, *((length,) if t.tokens else t.shape)), t.dtype, tokens=t.tokens)
                for name, t in targets.items()
            }
        },
        example_id=number,
        epoch=number,
    )
