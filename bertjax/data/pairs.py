"""Rows of two parts, A and B: BERT's SEGMENT-PAIR and RoBERTa's SENTENCE-PAIR, with labels for NSP and SOP.

    segment_pair   chunks of whole sentences of one document that fill the row, cut in two between sentences
                   (Devlin et al. 2018, arXiv 1810.04805, appendix A.2; SEGMENT-PAIR of arXiv 1907.11692)
    sentence_pair  chunks of two sentences, or of a document's last three where they fit

A chunk is the base of exactly one row of an epoch, and the chunks of a document are its text, each token
once. In every epoch the cut is drawn anew among the sentence borders inside the chunk, and so is the label:

    negatives=random   NSP: label 1 and B from another document, or label 0 and the rest of the chunk
    negatives=swapped  SOP: label 1 and the parts in reverse order, or 0 (Lan et al. 2019, arXiv 1909.11942)
    negatives=none     the parts as they stand, no label

So A is always seen, and B too except behind label 1 of `random`, where another document's text stands
instead.

Only what the text says can tell the label of `random`. For every row, whatever its label, a partner is
drawn that could be the second part of another document's chunk: it has as many tokens as this row's own,
both are whole sentences, and both are the end of their documents or neither is. Then the coin is tossed.
Partners come from some hundred draws of a chunk, in the course of which the cut is redrawn too; where none
agrees in all (a sentence of rare length, a handful of documents), the nearest in length is taken.

Deviations from the reference: it starts a new chunk with what a random B displaced, so that a chunk's fate
depends on all before it; here any row can be computed alone. It draws first another document and then a
place in it, which over-represents short documents, fills B to the end of the row whatever stood there, so
that a short A with a long B is a random one, and cuts off what is too long. And a chunk of one sentence
always gets a random B there; here it is cut where a word starts. Of one token nothing can be cut: it has
label 1 under `random`, and an empty B under the others.
"""

import abc
import dataclasses
from typing import Literal, NamedTuple

import numpy as np

from bertjax.data.cutting import Units, document_starts, plan
from bertjax.data.examples import Content, CorpusExamples, Documents, Examples, Format, Span, check_length
from bertjax.data.shuffle import below, chance, draws, mix, mix_many
from bertjax.types import Bool, Int

__all__ = ["PairFormat", "Pairs", "SegmentPair", "SentencePair"]

Negatives = Literal["random", "swapped", "none"]

_SPECIAL = 3  # [CLS], [SEP] and [SEP]
_ROUNDS, _DRAWS = 8, 64  # of a cut, and of partners for it
_IS_SHORT, _HOW_SHORT, _CUT, _PARTNER, _LABEL = range(10, 15)  # purposes of hashes


class _Choice(NamedTuple):
    cost: int  # how far the two candidates for B are from looking alike; 0 is perfect
    cut: int  # where this row's own B begins
    partner: Span  # the other candidate


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
        ends = np.unique(document_starts(corpus))[1:]
        self.closing = np.searchsorted(starts, ends) - 1  # the last chunk of each document
        if negatives == "random" and len(self.closing) == 1:
            raise ValueError(
                "negatives=random takes text from another document and the corpus has one only: "
                "set negatives=swapped, or prepare it so that documents are told apart"
            )

    def content(self, epoch: int, index: int) -> Content:
        """A and B of row `index`, cut and labelled by the epoch."""
        start, stop = self.run(index)
        if self.negatives == "random":
            _, cut, partner = self._choose(epoch, index)
            label = int(cut == stop or chance(0.5, self.seed, _LABEL, epoch, index))
            return Content([[[(start, cut)], [partner if label else (cut, stop)]]], label)
        cut, _ = self._cut(epoch, index, 0)
        first, second = (start, cut), (cut, stop)
        if self.negatives == "none":
            return Content([[[first], [second]]])
        label = int(cut < stop and chance(0.5, self.seed, _LABEL, epoch, index))
        return Content([[[second], [first]] if label else [[first], [second]]], label)

    def _cut(self, epoch: int, index: int, number: int) -> tuple[int, bool]:
        """Where B begins: between sentences (then True), else where a word starts, else anywhere."""
        start, stop = self.run(index)
        offsets = self.corpus.sentence_offsets
        first, last = np.searchsorted(offsets, [start + 1, stop])
        if first < last:
            return int(offsets[first + below(int(last - first), self.seed, _CUT, epoch, index, number)]), True
        if stop - start == 1:
            return stop, False
        words = np.flatnonzero(self.vocabulary.starts_word[self.corpus.read(start + 1, stop)])
        inside = words if len(words) else np.arange(stop - start - 1)
        return start + 1 + int(inside[below(len(inside), self.seed, _CUT, epoch, index, number)]), False

    def _choose(self, epoch: int, index: int) -> _Choice:
        """The cut and the partner that look most alike, of a few rounds of draws."""
        best: _Choice | None = None
        for number in range(_ROUNDS):
            cut, between = self._cut(epoch, index, number)
            choice = self._partner(epoch, index, number, cut, between)
            if best is None or choice.cost < best.cost:
                best = choice
            if best.cost == 0:
                break
        assert best is not None
        return best

    def _partner(self, epoch: int, index: int, number: int, cut: int, between: bool) -> _Choice:
        """Of some chunks of other documents, the second part that looks most like this row's own."""
        start, stop = self.run(index)
        size = stop - cut or self.length  # after a chunk of one token: as long as may be
        room = self.length - _SPECIAL - (cut - start)
        chunks, alien = self._elsewhere(index, mix(self.seed, _PARTNER, epoch, index, number))
        begins, ends = self.starts[chunks], self.starts[chunks + 1]
        wanted = ends - size
        if not between:  # this B starts with a word but not with a sentence, so the partner does
            for place in np.flatnonzero((wanted > begins) & (size <= room) & ~alien):
                at = int(wanted[place])
                if self.vocabulary.starts_word[self.corpus.read(at, at + 1)[0]]:
                    return _Choice(0, cut, (at, int(ends[place])))
        offsets = self.corpus.sentence_offsets
        above = np.searchsorted(offsets, np.maximum(wanted, 0), side="right")
        near = np.stack([offsets[above - 1], offsets[np.minimum(above, len(offsets) - 1)]])
        possible = (near > begins) & (near < ends) & (ends - near <= room)
        cost = np.where(possible, np.abs(near - wanted) + self.length * alien, 4 * self.length)
        side, place = np.unravel_index(np.argmin(cost), cost.shape)
        begin, end = int(near[side, place]), int(ends[place])
        if not possible[side, place]:  # the chunks drawn have one sentence each
            begin = max(int(begins[place]), end - min(size, room))
        return _Choice(int(cost[side, place]), cut, (begin, end))

    def _elsewhere(self, index: int, key: int) -> tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
        """Chunks of other documents, drawn alike; and which of them close theirs where this one does not."""
        document = int(np.searchsorted(self.closing, index))
        if self.closing[document] == index:  # chunks that close their document, too
            drawn = draws(len(self.closing) - 1, _DRAWS, key)
            return self.closing[drawn + (drawn >= document)], np.zeros(_DRAWS, bool)
        first = int(self.closing[document - 1]) + 1 if document else 0
        others = int(self.closing[document]) + 1 - first
        drawn = draws(self.size - others, _DRAWS, key)
        chunks = drawn + others * (drawn >= first)
        return chunks, self.closing[np.searchsorted(self.closing, chunks)] == chunks


@dataclasses.dataclass(frozen=True)
class PairFormat(Format):
    """What the two pair formats have in common."""

    negatives: Negatives = "random"
    """What label 1 means: B is text of another document (NSP), A and B trade places (SOP), or none."""

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
                f"short_probability={self.short_probability} is no probability: choose 0.0 to 1.0"
            )
        threshold = int(self.short_probability * 2.0**53)

        def jump(units: Units) -> Int[np.ndarray, "n"]:
            here = units.bounds[:-1]  # the chunk's first token keys its draws, so blocks do not matter
            is_short = mix_many(mix(seed, _IS_SHORT), here) >> np.uint64(11) < threshold
            short = 2 + (mix_many(mix(seed, _HOW_SHORT), here) % np.uint64(limit - 1)).astype(np.int64)
            target = np.where(is_short, short, limit)
            unit = np.arange(len(here))
            fits = units.reach(limit)
            end = np.maximum(units.reach(target), np.minimum(fits, unit + 2))  # two sentences to cut between
            end = np.minimum(end, units.ends)
            orphan = (
                units.ends - end == 1
            )  # a document's last sentence alone: take it in, or leave it another
            end = np.where(orphan & (fits >= units.ends), units.ends, end)
            return end - (orphan & (end < units.ends) & (end - unit > 2))

        return plan(corpus, limit, jump)


@dataclasses.dataclass(frozen=True)
class SentencePair(PairFormat):
    """Two sentences (RoBERTa SENTENCE-PAIR); rows are short, so enlarge the batch by 1 / efficiency."""

    def chunks(self, corpus: Documents, limit: int, seed: int) -> Int[np.ndarray, "runs+1"]:
        """Chunks of two sentences, or of a document's last three."""
        del seed

        def jump(units: Units) -> Int[np.ndarray, "n"]:
            unit = np.arange(len(units.ends))
            three = (units.ends - unit == 3) & (units.reach(limit) >= units.ends)
            return np.minimum(unit + 2 + three, units.ends)

        return plan(corpus, limit // 2, jump)
