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

Only what the text says can tell the label of `random`. For every row, whatever its label, chunks of other
documents are drawn, and a cut is chosen at which one of them has a second part with as many tokens as the
row's own: whole sentences, both the end of their documents or neither. Then the coin is tossed. Where a few
hundred draws hold no such pair (a sentence of rare length, a handful of documents), the nearest in length
is taken.

Deviations from the reference: it starts a new chunk with what a random B displaced, so that a chunk's fate
depends on all before it; here any row can be computed alone. It draws first another document and then a
place in it, which over-represents short documents, fills B to the end of the row whatever stood there, so
that a short A with a long B is a random one, and cuts off what is too long. And a chunk of one sentence
always gets a random B there; here it is cut where a word starts. Of one token nothing can be cut: it has
label 1 under `random`, and an empty B under the others.
"""

import abc
import dataclasses
import math
from typing import Literal, NamedTuple

import numpy as np

from bertjax.data.cutting import Units, document_starts, plan
from bertjax.data.examples import Content, CorpusExamples, Documents, Examples, Format, Span, check_length
from bertjax.data.shuffle import below, chance, draws, mix, mix_many
from bertjax.types import Bool, Int

__all__ = ["Choice", "PairFormat", "Pairs", "SegmentPair", "SentencePair"]

Negatives = Literal["random", "swapped", "none"]

_SPECIAL = 3  # [CLS], [SEP] and [SEP]
_ROUNDS = 8  # of draws, before the nearest partner will do
_SEEN = 512  # second parts looked at in a round
_IS_SHORT, _HOW_SHORT, _CUT, _PARTNER, _LABEL = range(10, 15)  # purposes of hashes


class Choice(NamedTuple):
    """The two candidates for B."""

    cut: int  # where this row's own begins
    partner: Span  # the one of another document
    cost: int  # how far they are from looking alike: 0 is perfect, below L is a difference in length


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
        offsets = corpus.sentence_offsets
        self.sentences = (
            np.searchsorted(offsets, starts, side="right") - 1
        )  # the one at which each chunk starts
        self.closing = np.searchsorted(starts, np.unique(document_starts(corpus))[1:]) - 1
        self.closes = np.zeros(self.size, bool)  # whether a chunk is the last of its document
        self.closes[self.closing] = True
        self.suffixes = min(math.ceil(2 * len(offsets) / self.size), 128)  # second parts looked at in a chunk
        self.drawn = math.ceil(_SEEN / self.suffixes)  # chunks drawn in a round
        if negatives == "random" and len(self.closing) == 1:
            raise ValueError(
                "negatives=random takes text from another document and the corpus has one only: "
                "set negatives=swapped, or prepare it so that documents are told apart"
            )

    def content(self, epoch: int, index: int) -> Content:
        """A and B of row `index`, cut and labelled by the epoch."""
        start, stop = self.run(index)
        label = int(chance(0.5, self.seed, _LABEL, epoch, index))
        if self.negatives == "random":
            cut, partner, _ = self.choose(epoch, index)
            label |= int(cut == stop)
            return Content([[[(start, cut)], [partner if label else (cut, stop)]]], label)
        borders = self._borders(index)
        if len(borders):
            cut = int(borders[below(len(borders), self.seed, _CUT, epoch, index)])
        else:
            cut = self._cut_inside(epoch, index)
        first, second = (start, cut), (cut, stop)
        if self.negatives == "none":
            return Content([[[first], [second]]])
        label &= int(cut < stop)
        return Content([[[second], [first]] if label else [[first], [second]]], label)

    def choose(self, epoch: int, index: int) -> Choice:
        """The cut of a row and the second part of a chunk elsewhere, chosen together to look alike."""
        start, stop = self.run(index)
        own = stop - self._borders(index)  # lengths of the second parts that this chunk can have
        if not len(own):
            return self._choose_inside(epoch, index)
        preference = np.full(self.length, self.length)  # by length: a random order of these, and no others
        preference[own] = np.argsort(mix_many(mix(self.seed, _CUT, epoch, index), own))
        spare = self.length - _SPECIAL - (stop - start)
        best: Choice | None = None
        for number in range(_ROUNDS):
            chunks, odd = self._elsewhere(epoch, index, number)
            begins, ends = self.starts[chunks, None], self.starts[chunks + 1, None]
            sentences = self.sentences[chunks + 1, None] - np.arange(self.suffixes)
            places = np.asarray(self.corpus.sentence_offsets[np.maximum(sentences, 0)])
            within = (places > begins) & (places < ends)
            sizes = np.where(within, ends - places, 0)
            order = np.where(within & ~odd[:, None], preference[sizes], self.length)
            chosen = int(np.argmin(order))
            if order.flat[chosen] < self.length:
                end = int(ends[chosen // self.suffixes, 0])
                return Choice(stop - int(sizes.flat[chosen]), (int(places.flat[chosen]), end), 0)
            best = min(
                filter(None, (best, self._nearest(stop, own, spare, sizes, odd, ends))), key=lambda c: c.cost
            )
        assert best is not None
        return best

    def _nearest(
        self,
        stop: int,
        own: Int[np.ndarray, "k"],
        spare: int,
        sizes: Int[np.ndarray, "drawn suffixes"],
        odd: Bool[np.ndarray, "drawn"],
        ends: Int[np.ndarray, "drawn 1"],
    ) -> Choice:
        """Of the second parts that were looked at, the one nearest in length to one of this row's own."""
        gap = sizes[:, :, None] - own
        unfit = (sizes == 0)[:, :, None] | (gap > spare)
        cost = np.abs(gap) + self.length * (odd[:, None, None] + 4 * unfit)
        chunk, suffix, which = (int(i) for i in np.unravel_index(np.argmin(cost), cost.shape))
        size = (
            int(sizes[chunk, suffix]) if not unfit[chunk, suffix, which] else 1
        )  # the least that fits anywhere
        end = int(ends[chunk, 0])
        return Choice(stop - int(own[which]), (end - size, end), int(cost[chunk, suffix, which]))

    def _choose_inside(self, epoch: int, index: int) -> Choice:
        """The same for a chunk of one sentence: both candidates start with a word inside a sentence."""
        start, stop = self.run(index)
        cut = self._cut_inside(epoch, index)
        size = stop - cut or self.length - _SPECIAL - 1
        tail: Span = (0, 0)
        for number in range(_ROUNDS):
            chunks, _ = self._elsewhere(epoch, index, number)
            for begin, end in zip(
                self.starts[chunks].tolist(), self.starts[chunks + 1].tolist(), strict=True
            ):
                place = max(end - size, begin)
                if place > begin and self._is_inner_word(place):
                    return Choice(cut, (place, end), 0)
                if end - place > tail[1] - tail[0]:
                    tail = (place, end)
        return Choice(cut, tail, 4 * self.length)

    def _is_inner_word(self, place: int) -> bool:
        offsets = self.corpus.sentence_offsets
        inner = offsets[np.searchsorted(offsets, place)] != place
        return bool(inner and self.vocabulary.starts_word[self.corpus.read(place, place + 1)[0]])

    def _borders(self, index: int) -> Int[np.ndarray, "k"]:
        """Where sentences start inside a chunk."""
        start, stop = self.run(index)
        first, last = int(self.sentences[index]), int(self.sentences[index + 1])
        places = np.asarray(self.corpus.sentence_offsets[first : last + 1])
        return places[(places > start) & (places < stop)]

    def _cut_inside(self, epoch: int, index: int) -> int:
        """Where B begins in a chunk of one sentence: at a word, or at any token; at the end if it has one."""
        start, stop = self.run(index)
        if stop - start == 1:
            return stop
        words = np.flatnonzero(self.vocabulary.starts_word[self.corpus.read(start + 1, stop)])
        inside = words if len(words) else np.arange(stop - start - 1)
        return start + 1 + int(inside[below(len(inside), self.seed, _CUT, epoch, index)])

    def _elsewhere(
        self, epoch: int, index: int, number: int
    ) -> tuple[Int[np.ndarray, "drawn"], Bool[np.ndarray, "drawn"]]:
        """Chunks of other documents, each as likely; and which close theirs although this one does not."""
        key = mix(self.seed, _PARTNER, epoch, index, number)
        document = int(np.searchsorted(self.closing, index))
        if self.closes[index]:  # only chunks that close their document, too
            drawn = draws(len(self.closing) - 1, self.drawn, key)
            return self.closing[drawn + (drawn >= document)], np.zeros(self.drawn, bool)
        first = int(self.closing[document - 1]) + 1 if document else 0
        count = int(self.closing[document]) + 1 - first
        drawn = draws(self.size - count, self.drawn, key)
        chunks = drawn + count * (drawn >= first)
        return chunks, self.closes[chunks]


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
