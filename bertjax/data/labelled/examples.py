"""Labelled examples: tokenised once, kept as flat arrays, each as long as it is.

An *example* is one row, or as many as its task says (the choices of a question, the sides of a pair): they stand one
below the other in a batch, and are never parted. A record may give several examples (the windows of a long text).

    tokens, types       of all rows, end to end
    targets             one value an example, or of a fixed shape
    token targets       one value a token, end to end as the tokens are
    record, about       which record an example is of, and what its predictions need to know; these stay on the host
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Rows
from bertjax.data.subword import Tokenizer
from bertjax.types import Int

__all__ = ["Example", "LabelledExamples", "Row", "Target", "shapes_for"]

UNIT = 8  # batches are multiples of this long


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


class LabelledExamples:
    """The examples of a split."""

    def __init__(
        self,
        examples: Iterable[Example],
        *,
        targets: Mapping[str, Target],
        group: int,
        vocabulary: Vocabulary,
        records: int,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        """`group` is the number of rows of each example, `records` how many they were made of."""
        self.targets, self.group, self.vocabulary, self.records = dict(targets), group, vocabulary, records
        self.tokenizer = tokenizer  # which those need whose predictions are tokens
        flat: dict[str, list[Any]] = {name: [] for name in ("tokens", "types", *targets)}
        sizes: list[int] = []
        record: list[int] = []
        least: list[int] = []
        self.about: list[Any] = []
        for example in examples:
            assert len(example.rows) == group, f"{len(example.rows)} rows in a group of {group}"
            for row in example.rows:
                flat["tokens"].append(row.tokens)
                flat["types"].append(row.types)
                sizes.append(len(row.tokens))
            for name in targets:
                flat[name].append(example.targets[name])
            record.append(example.record)
            least.append(example.least)
            self.about.append(example.about)
        self.size = len(record)
        self.record = np.array(record, np.int64)
        self.offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        self.tokens, self.types = (
            np.concatenate([np.zeros(0, np.int32), *flat[n]]) for n in ("tokens", "types")
        )
        self.values: dict[str, np.ndarray] = {}
        for name, target in targets.items():
            if target.tokens:
                assert group == 1, "a value for each token is of one row"
                self.values[name] = np.concatenate([np.zeros(0, target.dtype), *flat[name]]).astype(
                    target.dtype
                )
                assert len(self.values[name]) == len(self.tokens), name
            else:
                self.values[name] = np.asarray(flat[name], target.dtype).reshape(self.size, *target.shape)
        # The longest row of each example: what it needs of a batch.
        longest = np.asarray(sizes, np.int64).reshape(self.size, group).max(axis=1, initial=0)
        self.lengths = np.maximum(longest, np.asarray(least, np.int64))

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
