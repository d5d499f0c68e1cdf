"""Where rows begin: plans over lengths, made once from the offsets of a corpus, without reading a token.

Every format cuts the corpus into consecutive runs of tokens, so a plan is one increasing array `starts` of
token positions: run k is `[starts[k], starts[k + 1])`, and together the runs are the corpus, each token
once. Runs are made of *units*, which are sentences, or pieces of those that are longer than a run may be.
Greedy filling is sequential, but where a run that began at unit i would end does not depend on what came
before; so that end is computed for every unit at once (`jump`), and the runs are the chain 0, jump[0],
jump[jump[0]] ... The corpus is worked through in blocks of whole documents, so the memory needed does not
grow with it.
"""

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np

from bertjax.data.examples import Documents
from bertjax.types import Int

__all__ = ["Units", "cut_long", "document_starts", "follow", "plan", "whole_units"]

_BLOCK = 1 << 20  # sentences held in memory at a time


@dataclasses.dataclass(frozen=True)
class Units:
    """The units of a block of whole documents."""

    bounds: Int[np.ndarray, "n+1"]
    """Position in the corpus where each unit begins, and where the last one ends."""
    ends: Int[np.ndarray, "n"]
    """For each unit, the unit after the last one of its document."""

    def reach(self, limit: int | Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
        """For each unit, the end of the longest run of whole units from there with at most `limit` tokens."""
        return np.searchsorted(self.bounds, self.bounds[:-1] + limit, side="right") - 1


def plan(
    corpus: Documents, limit: int, jump: Callable[[Units, int], np.ndarray]
) -> Int[np.ndarray, "runs+1"]:
    """Starts of the runs that `jump` makes of the corpus, and the end of the last one."""
    starts = [follow(jump(units, limit), units.bounds) for units in blocks(corpus, limit)]
    return np.concatenate([*starts, corpus.sentence_offsets[-1:]]).astype(np.int64)


def whole_units(units: Units, limit: int) -> Int[np.ndarray, "n"]:
    """The jump that fills each run with as many whole units of one document as `limit` holds."""
    return np.minimum(units.reach(limit), units.ends)


def follow(jump: Int[np.ndarray, "n"], bounds: Int[np.ndarray, "n+1"]) -> Int[np.ndarray, "runs"]:
    """Where the runs of a block begin: the bounds on the chain 0, jump[0], jump[jump[0]], ..."""
    assert np.all(jump > np.arange(len(jump))), "every run advances"
    after, chain, unit = jump.tolist(), [], 0  # lists: a chain of numpy scalars takes five times as long
    while unit < len(after):
        chain.append(unit)
        unit = after[unit]
    return bounds[chain]


def blocks(corpus: Documents, limit: int) -> Iterator[Units]:
    """The corpus in blocks of whole documents, in units of at most `limit` tokens."""
    documents = np.asarray(corpus.document_offsets)
    first, count = 0, len(documents) - 1
    while first < count:
        last = int(np.searchsorted(documents, documents[first] + _BLOCK, side="right")) - 1
        last = min(max(last, first + 1), count)
        bounds = np.asarray(corpus.sentence_offsets[documents[first] : documents[last] + 1])
        if len(bounds) > 1:
            ends = bounds[documents[first + 1 : last + 1] - documents[first]]
            bounds = cut_long(bounds, limit)
            border = np.searchsorted(bounds, ends)  # the documents' ends, as units
            unit = np.arange(len(bounds) - 1)
            yield Units(bounds, border[np.searchsorted(border, unit, side="right")])
        first = last


def cut_long(bounds: Int[np.ndarray, "n+1"], limit: int) -> Int[np.ndarray, "m+1"]:
    """The bounds with those more than `limit` apart divided evenly into the fewest pieces; none is empty."""
    lengths = np.diff(bounds)
    pieces = -(-lengths // limit)
    if np.all(pieces == 1):
        return bounds  # often a memory map, which stays one
    owner = np.repeat(np.arange(len(lengths)), pieces)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    inner = bounds[owner] + lengths[owner] * within // pieces[owner]
    return np.append(inner, bounds[-1])


def document_starts(corpus: Documents) -> Int[np.ndarray, "documents+1"]:
    """Position in the corpus of each document's first token, and the end of the last one."""
    return np.asarray(corpus.sentence_offsets)[np.asarray(corpus.document_offsets)]
