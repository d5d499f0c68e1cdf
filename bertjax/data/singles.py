"""Rows of consecutive text: padded documents, and RoBERTa's FULL-SENTENCES and DOC-SENTENCES.

    padded          a document to a row; one that is too long is divided evenly among the fewest rows
    doc_sentences   as many whole sentences of one document as the row holds
    full_sentences  the same across documents, with a [SEP] where one ends and the next begins

Liu et al. 2019 (arXiv 1907.11692), section 4.2 and Table 2. Every token of every document is in exactly one
row of an epoch, and the rows of two epochs are the same, in another order. A sentence longer than the row
is divided evenly into the fewest pieces that fit (so possibly inside a word). A row of full_sentences is
one sequence: its tokens may attend across documents, as in the paper, and positions do not restart.

Deviation: RoBERTa enlarges the batch where DOC-SENTENCES rows are short, to keep the number of tokens. A
compiled step has one shape, so here the batch is fixed and `efficiency` tells by how much to enlarge it;
`best_fit` packs the same runs without the loss.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from bertjax.data.cutting import Units, cut_long, document_starts, plan, whole_units
from bertjax.data.examples import Content, CorpusExamples, Documents, Examples, Format, Ints, check_length
from bertjax.data.plans import keep
from bertjax.types import Int

__all__ = ["DocSentences", "FullSentences", "Padded"]

_SPECIAL = 2  # [CLS] and [SEP]


class Runs(CorpusExamples):
    """A run of one document to a row."""

    def contents(self, epochs: Ints, indices: Ints) -> Iterator[Content]:
        """The run of each row, the same in every epoch."""
        del epochs
        for index in indices:
            yield Content([[[self.run(index)]]])


class RunsAcross(CorpusExamples):
    """A run of several documents to a row."""

    def __init__(self, corpus: Documents, length: int, starts: Int[np.ndarray, "runs+1"]):
        super().__init__(corpus, length, starts, special=_SPECIAL)
        self.borders = np.unique(document_starts(corpus)[1:-1])
        first = np.searchsorted(self.borders, starts[:-1], side="right")
        self.tokens += int(np.sum(np.searchsorted(self.borders, starts[1:]) - first))

    def contents(self, epochs: Ints, indices: Ints) -> Iterator[Content]:
        """The run of each row, divided where documents end; the same in every epoch."""
        del epochs
        for index in indices:
            start, stop = self.run(index)
            first, last = np.searchsorted(self.borders, [start + 1, stop])
            bounds = [start, *self.borders[first:last].tolist(), stop]
            yield Content([[list(zip(bounds[:-1], bounds[1:], strict=True))]])


@dataclasses.dataclass(frozen=True)
class Padded(Format):
    """One document a row, padded; long ones are divided evenly among rows."""

    def examples(self, corpus: Documents, length: int, seed: int) -> Examples:
        """Rows of one document or of an even part of one; the seed has no influence."""
        del seed
        check_length(length, _SPECIAL + 1, "padded")
        return Runs(corpus, length, cut_long(document_starts(corpus), length - _SPECIAL), special=_SPECIAL)


@dataclasses.dataclass(frozen=True)
class DocSentences(Format):
    """As many whole sentences of one document as the row holds (RoBERTa DOC-SENTENCES)."""

    def examples(self, corpus: Documents, length: int, seed: int) -> Examples:
        """Rows of whole sentences of one document; the seed has no influence."""
        del seed
        check_length(length, _SPECIAL + 1, "doc_sentences")
        limit = length - _SPECIAL
        described = {"runs": "doc_sentences", "limit": limit}
        made = keep(corpus, described, lambda: {"starts": plan(corpus, limit, whole_units)})
        return Runs(corpus, length, made["starts"], special=_SPECIAL)


@dataclasses.dataclass(frozen=True)
class FullSentences(Format):
    """As many whole sentences as the row holds, across documents (RoBERTa FULL-SENTENCES)."""

    def examples(self, corpus: Documents, length: int, seed: int) -> Examples:
        """Rows of whole sentences of consecutive documents; the seed has no influence."""
        del seed
        check_length(length, _SPECIAL + 1, "full_sentences")
        limit = length - _SPECIAL
        described = {"runs": "full_sentences", "limit": limit}
        made = keep(corpus, described, lambda: {"starts": plan(corpus, limit, _across_documents)})
        return RunsAcross(corpus, length, made["starts"])


def _across_documents(units: Units, limit: int) -> Int[np.ndarray, "n"]:
    # The run [i, j) costs its tokens and one separator for each document that ends inside it, before j.
    ended = np.concatenate([[0], np.cumsum(units.ends == np.arange(1, len(units.bounds)))])
    cost = units.bounds[1:] + ended[:-1]  # of stopping at unit 1, 2, ...
    return np.searchsorted(cost, units.bounds[:-1] + ended[:-1] + limit, side="right")
