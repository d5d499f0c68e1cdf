"""Best-fit packing: several documents in a row, none of which sees another.

Documents that are too long are first cut into runs of whole sentences (as `doc_sentences` does), and every
run becomes a sequence of its own, `[CLS] run [SEP]`, with positions from 0 and its own segment number. The
sequences are then distributed over rows by *best-fit decreasing*: from the longest to the shortest, each
into the row with the least room that still holds it (Johnson 1974; Ding et al. 2024, arXiv 2404.10830, for
language models). Every token of every document is in exactly one row of an epoch.

There are at most L lengths and L amounts of room, so the rows are kept in groups of equal room and all
sequences of one length are placed together: a row with room r takes r // l sequences of length l in turn
(after each it has the least room of all that fit), which is exactly what placing them one by one would do.
The time is that of a sort, plus at most L² steps. Packing works on blocks of a million sequences to bound
its memory.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from bertjax.data.cutting import plan, whole_units
from bertjax.data.examples import Content, CorpusExamples, Documents, Examples, Format, Ints, check_length
from bertjax.data.plans import Plan, keep
from bertjax.types import Int

__all__ = ["BestFit", "best_fit_decreasing"]

_SPECIAL = 2  # [CLS] and [SEP]
_BLOCK = 1 << 20  # sequences packed together


class Packed(CorpusExamples):
    """Several runs to a row, each a sequence of its own."""

    packed = True

    def __init__(self, corpus: Documents, length: int, packed: Plan):
        super().__init__(corpus, length, packed["starts"], special=_SPECIAL)
        self.members, self.ends = packed["members"], packed["ends"]
        self.size = len(self.ends) - 1

    def contents(self, epochs: Ints, indices: Ints) -> Iterator[Content]:
        """The sequences of each row, the same in every epoch."""
        del epochs
        for index in indices:
            runs = self.members[self.ends[index] : self.ends[index + 1]]
            yield Content([[[self.run(run)]] for run in runs])


@dataclasses.dataclass(frozen=True)
class BestFit(Format):
    """Documents packed into full rows, kept apart by segment numbers and restarting positions."""

    @property
    def packed(self) -> bool:
        """Always."""
        return True

    def examples(self, corpus: Documents, length: int, seed: int) -> Examples:
        """Rows of packed documents; the seed has no influence."""
        del seed
        check_length(length, _SPECIAL + 1, "best_fit")
        described = {"packed": "best_fit", "length": length}
        return Packed(corpus, length, keep(corpus, described, lambda: pack(corpus, length)))


def pack(corpus: Documents, length: int) -> Plan:
    """The runs of the corpus, and row by row which of them it holds: row r has members[ends[r] : ends[r + 1]]."""
    starts = plan(corpus, length - _SPECIAL, whole_units)
    lengths = np.diff(starts) + _SPECIAL
    members, ends = [np.zeros(0, np.int64)], [np.zeros(1, np.int64)]
    for first in range(0, len(lengths), _BLOCK):
        row = best_fit_decreasing(lengths[first : first + _BLOCK], length)
        members.append(first + np.argsort(row, kind="stable"))
        ends.append(first + np.cumsum(np.bincount(row)))
    return {"starts": starts, "members": np.concatenate(members), "ends": np.concatenate(ends)}


def best_fit_decreasing(lengths: Int[np.ndarray, "n"], capacity: int) -> Int[np.ndarray, "n"]:
    """The row of each item, rows numbered from 0; no row holds more than `capacity`."""
    order = np.argsort(-lengths, kind="stable")
    kinds, counts = np.unique(-lengths, return_counts=True)
    row_of = np.empty(len(lengths), np.int64)
    rooms: list[list[np.ndarray]] = [[] for _ in range(capacity + 1)]  # rows by the room they have left
    rows = done = 0
    for length, count in zip((-kinds).tolist(), counts.tolist(), strict=True):
        assert 0 < length <= capacity
        items, done = order[done : done + count], done + count
        for room in [r for r in range(length, capacity + 1) if rooms[r]] + [capacity]:
            if not len(items):
                break
            each = room // length
            if rooms[room]:
                group = np.concatenate(rooms[room])
            else:  # no open row has room: open as many as it takes
                group = np.arange(rows, rows - (-len(items) // each))
                rows += len(group)
            used, rest = group[: -(-len(items) // each)], group[-(-len(items) // each) :]
            taken = np.repeat(used, each)[: len(items)]
            row_of[items[: len(taken)]] = taken
            items = items[len(taken) :]
            rooms[room] = [rest] if len(rest) else []
            last = len(taken) - each * (len(used) - 1)  # the last row may have taken fewer
            if len(used) > 1:
                rooms[room - each * length].append(used[:-1])
            rooms[room - last * length].append(used[-1:])
    return row_of
