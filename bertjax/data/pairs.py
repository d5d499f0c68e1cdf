"""Rows of two parts, A and B: BERT's SEGMENT-PAIR and RoBERTa's SENTENCE-PAIR, with labels for NSP and SOP.

    segment_pair   chunks of whole sentences of one document that fill the row, cut in two between sentences
                   (Devlin et al. 2018, arXiv 1810.04805, appendix A.2; SEGMENT-PAIR of arXiv 1907.11692)
    sentence_pair  chunks of two sentences, or of a document's last three where they fit

A chunk is the base of exactly one row of an epoch, and the chunks of a document are its text, each token
once. In every epoch the cut is drawn anew among the sentence borders inside the chunk, and so is the label:

    negatives=random   NSP: label 1 and B from another document, or label 0 and the rest of the chunk
    negatives=swapped  SOP: label 1 and the parts in reverse order, or label 0 (Lan et al. 2019, arXiv 1909.11942)
    negatives=none     the parts as they stand, no label

So A is always seen, and B too except behind label 1 of `random`, where another document's text stands
instead.

Nothing but the text can tell the label. For `random`, a chunk of another document is drawn for every row,
whatever its label, each with the same chance; it is cut like any chunk, and what follows its cut is the
other candidate for B. Both candidates are brought to a common length before the coin is tossed: that of the
rest of the chunk, or less where 8 draws find no document with so much text left.

Deviations from the reference: it starts a new chunk with what a random B displaced, so that a chunk's fate
depends on all before it (here any row can be computed alone); it draws the other document before the place
in it, which over-represents short documents, and cuts over-long pairs afterwards, which `short_probability`
here needs not. A chunk of one sentence is cut at a word inside it, where the reference always gives it a
random B, so that its length tells the label. Of one token nothing can be cut: `random` gives it label 1,
the others an empty B.
"""

import abc
import dataclasses
from typing import Literal

import numpy as np

from bertjax.data.cutting import Units, plan
from bertjax.data.examples import Content, CorpusExamples, Documents, Examples, Format, check_length
from bertjax.data.shuffle import below, chance, mix, mix_many
from bertjax.types import Int

__all__ = ["SegmentPair", "SentencePair"]

Negatives = Literal["random", "swapped", "none"]

_SPECIAL = 3  # [CLS], [SEP] and [SEP]
_DRAWS = 8
_IS_SHORT, _HOW_SHORT, _CUT, _PARTNER, _PARTNER_CUT, _LABEL = range(10, 16)  # purposes of hashes


class Pairs(CorpusExamples):
    """Rows whose base is a chunk of the corpus, cut in two."""

    def __init__(
        self,
        corpus: Documents,
        length: int,
        seed: int,
        starts: Int[np.ndarray, "runs+1"],
        negatives: Negatives,
    ):
        super().__init__(corpus, length, starts, special=_SPECIAL)
        self.seed, self.negatives = seed, negatives
        self.labelled = negatives != "none"
        if negatives == "random" and self._document(int(starts[0]))[1] == starts[-1]:
            raise ValueError(
                "negatives=random takes text from another document and the corpus has one only: "
                "set negatives=swapped, or prepare it so that documents are told apart"
            )

    def content(self, epoch: int, index: int) -> Content:
        """A and B of row `index`, cut and labelled by the epoch."""
        start, stop = self.run(index)
        cut = self._cut(start, stop, _CUT, epoch, index)
        first, second = (start, cut), (cut, stop)
        if self.negatives == "none":
            return Content([[[first], [second]]])
        label = int(chance(0.5, self.seed, _LABEL, epoch, index))
        if self.negatives == "swapped":
            label &= int(cut < stop)
            return Content([[[second], [first]] if label else [[first], [second]]], label)
        label |= int(cut == stop)
        room = stop - cut if cut < stop else self.length - _SPECIAL - 1
        other, left = self._partner(epoch, index, start, room)
        begin = other if label else cut
        return Content([[[first], [(begin, begin + min(room, left))]]], label)

    def _cut(self, start: int, stop: int, *draw: int) -> int:
        """Where B begins: between two sentences of the chunk, else where a word starts, else at any later token."""
        offsets = self.corpus.sentence_offsets
        first, last = np.searchsorted(offsets, [start + 1, stop])
        if first < last:
            return int(offsets[first + below(int(last - first), self.seed, *draw)])
        if stop - start == 1:
            return stop
        words = np.flatnonzero(self.vocabulary.starts_word[self.corpus.read(start + 1, stop)])
        inside = words if len(words) else np.arange(stop - start - 1)
        return start + 1 + int(inside[below(len(inside), self.seed, *draw)])

    def _document(self, token: int) -> tuple[int, int]:
        """First token of the document that holds `token`, and the end of its last."""
        offsets, documents = self.corpus.sentence_offsets, self.corpus.document_offsets
        sentence = np.searchsorted(offsets, token, side="right") - 1
        document = np.searchsorted(documents, sentence, side="right") - 1
        return int(offsets[documents[document]]), int(offsets[documents[document + 1]])

    def _partner(self, epoch: int, index: int, start: int, room: int) -> tuple[int, int]:
        """A cut in a chunk of another document and how many tokens follow it there; the best of a few draws."""
        mine, others = np.searchsorted(self.starts, self._document(start))
        best = (0, -1)
        for number in range(_DRAWS):
            chunk = below(self.size - int(others - mine), self.seed, _PARTNER, epoch, index, number)
            chunk += int(others - mine) * (chunk >= mine)
            begin, end = int(self.starts[chunk]), int(self.starts[chunk + 1])
            cut = self._cut(begin, end, _PARTNER_CUT, epoch, index, number)
            cut = begin if cut == end else cut
            left = self._document(begin)[1] - cut
            if left > best[1]:
                best = (cut, left)
            if left >= room:
                break
        return best


@dataclasses.dataclass(frozen=True)
class PairFormat(Format):
    """What the two pair formats have in common."""

    negatives: Negatives = "random"
    """What label 1 stands for: B is random text of another document (NSP), the parts are swapped (SOP), or none."""

    @property
    def labelled(self) -> bool:
        """Where there is something to tell apart."""
        return self.negatives != "none"

    def examples(self, corpus: Documents, length: int, seed: int) -> Examples:
        """Pairs cut out of the chunks of the corpus."""
        check_length(length, _SPECIAL + 2, "a pair")
        return Pairs(corpus, length, seed, self.chunks(corpus, length - _SPECIAL, seed), self.negatives)

    @abc.abstractmethod
    def chunks(self, corpus: Documents, limit: int, seed: int) -> Int[np.ndarray, "runs+1"]:
        """Starts of the chunks, of at most `limit` tokens each."""


@dataclasses.dataclass(frozen=True)
class SegmentPair(PairFormat):
    """Two runs of sentences that fill the row together (BERT)."""

    short_probability: float = 0.1
    """Share of chunks that are made shorter than the row holds, to a length drawn uniformly, as in BERT."""

    def chunks(self, corpus: Documents, limit: int, seed: int) -> Int[np.ndarray, "runs+1"]:
        """Chunks that fill the row, or a length drawn for them."""
        if not 0.0 <= self.short_probability <= 1.0:
            raise ValueError(
                f"short_probability={self.short_probability} is no probability: choose from 0.0 to 1.0"
            )
        threshold = int(self.short_probability * 2.0**53)

        def jump(units: Units) -> Int[np.ndarray, "n"]:
            here = units.bounds[:-1]  # the chunk's first token keys its draws, so blocks do not matter
            is_short = mix_many(mix(seed, _IS_SHORT), here) >> 11 < threshold
            short = 2 + (mix_many(mix(seed, _HOW_SHORT), here) % (limit - 1)).astype(np.int64)
            target = np.where(is_short, short, limit)
            unit = np.arange(len(here))
            end = np.maximum(
                units.reach(target), np.minimum(units.reach(limit), unit + 2)
            )  # two to cut between
            end = np.minimum(end, units.ends)
            orphan = (units.ends - end == 1) & (
                end - unit > 2
            )  # leave the document's end two sentences, not one
            return end - orphan

        return plan(corpus, limit, jump)


@dataclasses.dataclass(frozen=True)
class SentencePair(PairFormat):
    """Two sentences (RoBERTa SENTENCE-PAIR); the rows are short, so enlarge the batch by 1 / efficiency."""

    def chunks(self, corpus: Documents, limit: int, seed: int) -> Int[np.ndarray, "runs+1"]:
        """Chunks of two sentences, or of a document's last three."""
        del seed

        def jump(units: Units) -> Int[np.ndarray, "n"]:
            unit = np.arange(len(units.ends))
            three = (units.ends - unit == 3) & (units.reach(limit) >= units.ends)
            return np.minimum(unit + 2 + three, units.ends)

        return plan(corpus, limit // 2, jump)
