"""Precision, recall and F1 of named entities: right are those whose type, first and last token are.

Equal to seqeval: without a scheme to its default mode (and to conlleval), which reads every sequence of
tags; with one to its strict mode, which takes only what the scheme writes exactly so. `bertjax.scores.tags`
says how both read.

    found = entities.counts(predictions, references)
    found.f1(), found.f1("macro"), found.table()["PER"]["recall"]

Papers report `f1()`, the micro average. The types of a macro average are those found on either side. Where
there is no entity on either side every score is 0.
"""

from collections.abc import Sequence

import numpy as np

from bertjax.scores.counts import Counts, bincount
from bertjax.scores.inputs import check_lengths
from bertjax.scores.tags import Scheme, Spans, read
from bertjax.types import Int

__all__ = ["counts", "micro_f1", "sentence_counts"]

Sentences = Sequence[Sequence[str]]


def counts(predictions: Sentences, references: Sentences, *, scheme: Scheme | None = None) -> Counts:
    """How often entities of each type were predicted, were there, and both."""
    found, wanted = _read(predictions, references, scheme)
    names = sorted({spans.names[kind] for spans in (found, wanted) for kind in np.unique(spans.types)})
    found_types, wanted_types = (_renamed(spans, names) for spans in (found, wanted))
    shared = _shared(found, found_types, wanted, wanted_types)
    size = len(names)
    return Counts(
        names=tuple(names),
        hits=bincount(found_types[shared], size),
        predicted=bincount(found_types, size),
        actual=bincount(wanted_types, size),
    )


def sentence_counts(
    predictions: Sentences, references: Sentences, *, scheme: Scheme | None = None
) -> Int[np.ndarray, "B 3"]:
    """Hits, predicted and actual entities of every sentence; their column sums are those of the whole set."""
    found, wanted = _read(predictions, references, scheme)
    names = sorted({*found.names, *wanted.names})
    shared = _shared(found, _renamed(found, names), wanted, _renamed(wanted, names))
    size = len(references)
    columns = (found.starts[shared], found.starts, wanted.starts)
    places = [np.searchsorted(found.offsets, starts, side="right") - 1 for starts in columns]
    return np.stack([bincount(place, size) for place in places], axis=1)


def micro_f1(counted: Int[np.ndarray, "B 3"]) -> float:
    """F1 of the rows of `sentence_counts`, for `significance.bootstrap(micro_f1, rows)`."""
    hits, predicted, actual = counted.sum(0)
    return Counts(("entity",), np.array([hits]), np.array([predicted]), np.array([actual])).f1()


def _read(predictions: Sentences, references: Sentences, scheme: Scheme | None) -> tuple[Spans, Spans]:
    check_lengths(predictions, references)
    for place, (found, wanted) in enumerate(zip(predictions, references, strict=True)):
        if len(found) != len(wanted):
            raise ValueError(
                f"sentence {place} has {len(found)} predicted tags for {len(wanted)}: give one for every token"
            )
    return read(predictions, scheme), read(references, scheme)


def _renamed(spans: Spans, names: list[str]) -> Int[np.ndarray, "N"]:
    """The types of the spans as places in `names`."""
    place = {name: position for position, name in enumerate(names)}
    return np.array([place.get(name, -1) for name in spans.names], np.int64)[spans.types]


def _shared(found: Spans, found_types: np.ndarray, wanted: Spans, wanted_types: np.ndarray) -> np.ndarray:
    """Which predicted spans are there. Spans of one side do not overlap, so a start occurs once."""
    place = np.searchsorted(wanted.starts, found.starts)
    place = np.minimum(place, max(len(wanted.starts) - 1, 0))
    if not len(wanted.starts):
        return np.zeros(len(found.starts), bool)
    return (
        (wanted.starts[place] == found.starts)
        & (wanted.ends[place] == found.ends)
        & (wanted_types[place] == found_types)
    )
