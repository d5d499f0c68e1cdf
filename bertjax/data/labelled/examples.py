"""Labelled examples: tokenised once, kept as flat arrays, each as long as it is.

An *example* is one row, or as many as its task says (the choices of a question, the sides of a pair): they stand one
below the other in a batch, and are never parted. A record may give several examples (the windows of a long text).

    tokens, types       of all rows, end to end
    targets             one value an example, or of a fixed shape
    token targets       one value a token, end to end as the tokens are
    record, about       which record an example is of, and what its predictions need to know; these stay on the host

They are put together some at a time, so that `cached` can keep them on disk and need not hold them in memory.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Rows
from bertjax.data.subword import Tokenizer
from bertjax.types import Int

__all__ = ["Example", "LabelledExamples", "Row", "Shape", "Target", "chunks", "columns_of", "shapes_for"]

UNIT = 8  # batches are multiples of this long
CHUNK = 4096  # examples that are put together at a time


class Target(NamedTuple):
    """What the device is told about an example besides its tokens."""

    dtype: Any
    shape: tuple[int, ...] = ()
    tokens: bool = False  # one value a token
    fill: Any = 0  # where there is no example, and no token


class Row(NamedTuple):
    """One row."""

    tokens: Int[np.ndarray, "n"]
    types: Int[np.ndarray, "n"]


class Example(NamedTuple):
    """What a task makes of a record, or of a part of one."""

    rows: Sequence[Row]
    targets: Mapping[str, Any]
    record: int
    about: Any = None
    least: int = (
        0  # tokens that rows of its batch have at least, for targets that are as long as the batch allows
    )


class Shape(NamedTuple):
    """What all examples of a split have in common."""

    targets: Mapping[str, Target]
    group: int  # rows of an example
    vocabulary: Vocabulary
    records: int  # that they were made of
    tokenizer: Tokenizer | None = None  # which those need whose predictions are tokens


def columns_of(shape: Shape) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Type and inner shape of every array that examples are kept in."""
    fixed = {"tokens": np.int32, "types": np.int32, "sizes": np.int64, "least": np.int64, "record": np.int64}
    columns: dict[str, tuple[np.dtype, tuple[int, ...]]] = {n: (np.dtype(t), ()) for n, t in fixed.items()}
    for name, target in shape.targets.items():
        assert shape.group == 1 or not target.tokens, "a value for each token is of one row"
        columns[f"target {name}"] = np.dtype(target.dtype), () if target.tokens else target.shape
    return columns


def chunks(examples: Iterable[Example], shape: Shape) -> Iterator[tuple[dict[str, np.ndarray], list[Any]]]:
    """Some examples at a time, as flat arrays, and what stays on the host of each."""
    columns, source = columns_of(shape), iter(examples)
    while some := list(itertools.islice(source, CHUNK)):
        assert all(len(example.rows) == shape.group for example in some), f"groups of {shape.group} rows"
        rows = [row for example in some for row in example.rows]
        found: dict[str, Any] = {
            "tokens": [row.tokens for row in rows],
            "types": [row.types for row in rows],
            "sizes": [[len(row.tokens) for row in rows]],
            "least": [[example.least for example in some]],
            "record": [[example.record for example in some]],
        }
        for name, target in shape.targets.items():
            values = [example.targets[name] for example in some]
            found[f"target {name}"] = values if target.tokens else [values]
        made = {
            name: np.concatenate(found[name]).astype(dtype, copy=False).reshape(-1, *inner)
            for name, (dtype, inner) in columns.items()
        }
        for name, target in shape.targets.items():
            assert not target.tokens or len(made[f"target {name}"]) == len(made["tokens"]), name
        yield made, [example.about for example in some]


class LabelledExamples:
    """The examples of a split."""

    def __init__(self, examples: Iterable[Example], shape: Shape) -> None:
        """In memory."""
        parts = {name: [np.zeros((0, *inner), dtype)] for name, (dtype, inner) in columns_of(shape).items()}
        about: list[Any] = []
        for made, some in chunks(examples, shape):
            for name, values in made.items():
                parts[name].append(values)
            about += some
        self._hold({name: np.concatenate(some) for name, some in parts.items()}, about, shape)

    @classmethod
    def of(cls, columns: Mapping[str, np.ndarray], about: Sequence[Any], shape: Shape) -> "LabelledExamples":
        """Those that arrays hold, which may lie on disk."""
        examples = cls.__new__(cls)
        examples._hold(columns, about, shape)
        return examples

    def _hold(self, columns: Mapping[str, np.ndarray], about: Sequence[Any], shape: Shape) -> None:
        self.targets, self.group = dict(shape.targets), shape.group
        self.vocabulary, self.records, self.tokenizer = shape.vocabulary, shape.records, shape.tokenizer
        self.tokens, self.types, self.record = (columns[name] for name in ("tokens", "types", "record"))
        self.values = {name: columns[f"target {name}"] for name in shape.targets}
        self.about, self.size = about, len(self.record)
        sizes = np.asarray(columns["sizes"])
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        # The longest row of each example, or of its target: what it needs of a batch.
        longest = sizes.reshape(self.size, self.group).max(axis=1, initial=0)
        self.lengths = np.maximum(longest, np.asarray(columns["least"]))

    def __len__(self) -> int:
        return self.size

    def batch(self, epochs: np.ndarray, indices: np.ndarray, length: int) -> Rows:
        """The rows of examples below each other, padded to `length`; index -1 gives an empty example."""
        number = len(indices) * self.group
        shape = (number, length)
        rows: Rows = {
            "tokens": np.full(shape, self.vocabulary.pad, np.int32),
            "mask": np.zeros(shape, bool),
            "types": np.zeros(shape, np.int32),
            "positions": np.zeros(shape, np.int32),
            "example_id": np.repeat(np.asarray(indices, np.int32), self.group),
            "epoch": np.repeat(np.asarray(epochs, np.int32), self.group),
        }
        for name, target in self.targets.items():
            inner = (length,) if target.tokens else target.shape
            rows[name] = np.full((len(indices), *inner), target.fill, target.dtype)
        where = np.flatnonzero(np.asarray(indices) >= 0)
        for name, target in self.targets.items():
            if not target.tokens:
                rows[name][where] = self.values[name][np.asarray(indices)[where]]
        for place, side in itertools.product(where.tolist(), range(self.group)):
            row, source = place * self.group + side, int(indices[place]) * self.group + side
            start, stop = int(self.offsets[source]), int(self.offsets[source + 1])
            size = stop - start
            assert size <= length, f"a row of {size} tokens in a batch of {length}"
            rows["tokens"][row, :size] = self.tokens[start:stop]
            rows["types"][row, :size] = self.types[start:stop]
            rows["mask"][row, :size] = True
            rows["positions"][row, :size] = np.arange(size)
            for name, target in self.targets.items():
                if target.tokens:
                    rows[name][row, :size] = self.values[name][start:stop]
        return rows


def shapes_for(lengths: np.ndarray, number: int, limit: int) -> tuple[int, ...]:
    """At most `number` lengths of batches for rows of these lengths, such that the least is padded; the last fits all.

    Rows go into the shortest that holds them; which ones to have follows by dynamic programming over the histogram.
    """
    up = np.minimum(-(-np.maximum(lengths, 1) // UNIT) * UNIT, limit)
    candidates, counts = np.unique(up, return_counts=True)
    places = len(candidates)
    total = np.concatenate([[0], np.cumsum(counts)])
    # cost[k][j]: slots of the rows up to candidate j in k + 1 lengths, of which candidate j is the last
    cost = candidates * total[1:]
    back: list[np.ndarray] = []
    for _ in range(1, min(number, places)):
        options = cost[:, None] + candidates[None, :] * (total[None, 1:] - total[1:, None])
        options = np.where(
            np.arange(places)[:, None] < np.arange(places)[None, :], options, np.iinfo(np.int64).max
        )
        best = options.argmin(axis=0)
        better = options[best, np.arange(places)] < cost
        back.append(np.where(better, best, -1))
        cost = np.where(better, options[best, np.arange(places)], cost)
    chosen, at = [places - 1], places - 1
    for choice in reversed(back):
        if choice[at] >= 0:
            at = int(choice[at])
            chosen.append(at)
    return tuple(int(candidates[place]) for place in reversed(chosen))
