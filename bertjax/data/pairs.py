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
row's own: whole sentences, both the end of their documents or neither. Then the coin is tossed. Where some
thousand second parts hold no such one (a sentence of rare length, a handful of documents), the nearest in
length is taken.

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
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from bertjax.data.cutting import Units, document_starts, plan
from bertjax.data.examples import (
    Content,
    CorpusExamples,
    Documents,
    Examples,
    Format,
    Ints,
    Span,
    check_length,
)
from bertjax.data.plans import Plan, keep
from bertjax.data.shuffle import below, draws, mix_many
from bertjax.types import Bool, Int

__all__ = ["Choice", "PairFormat", "Pairs", "SegmentPair", "SentencePair"]

Negatives = Literal["random", "swapped", "none"]

_SPECIAL = 3  # [CLS], [SEP] and [SEP]
_ROUNDS = 16  # of draws, before the nearest partner will do
_SEEN = 256  # second parts looked at in a round
_NEVER = 1 << 31
_IS_SHORT, _HOW_SHORT, _CUT, _PARTNER, _LABEL = range(10, 15)  # purposes of hashes


class Choice(NamedTuple):
    """The two candidates for B."""

    cut: int  # where this row's own begins
    partner: Span  # the one of another document
    cost: int  # how far they are from looking alike: 0 is perfect, below L is a difference in length


class _Seen(NamedTuple):
    """Second parts of chunks elsewhere, so many for each row."""

    sizes: Int[np.ndarray, "R S"]  # 0 where a chunk drawn has no more of them
    ends: Int[np.ndarray, "R S"]
    odd: Bool[np.ndarray, "R S"]  # True for the end of a document where this row's own is none


class Pairs(CorpusExamples):
    """Rows whose base is a chunk of the corpus, cut in two; the rows of a batch are worked out together."""

    def __init__(self, corpus: Documents, length: int, seed: int, chunks: Plan, negatives: Negatives):
        super().__init__(corpus, length, chunks["starts"], special=_SPECIAL)
        self.seed, self.negatives = seed, negatives
        self.labelled = negatives != "none"
        self.sentences, self.closing, self.closes = (
            chunks[name] for name in ("sentences", "closing", "closes")
        )
        self.offsets = np.asarray(corpus.sentence_offsets)
        self.suffixes = min(math.ceil(2 * len(self.offsets) / self.size), 128)  # second parts seen in a chunk
        self.drawn = math.ceil(_SEEN / self.suffixes)  # chunks drawn in a round
        if negatives == "random" and len(self.closing) == 1:
            raise ValueError(
                "negatives=random takes text from another document and the corpus has one only: "
                "set negatives=swapped, or prepare it so that documents are told apart"
            )

    def contents(self, epochs: Ints, indices: Ints) -> Iterator[Content]:
        """A and B of each row, cut and labelled by the epoch."""
        labels = (mix_many(self.seed, _LABEL, epochs, indices) < np.uint64(1 << 63)).astype(int).tolist()
        runs = zip(self.starts[indices].tolist(), self.starts[indices + 1].tolist(), strict=True)
        if self.negatives == "random":
            for (start, stop), label, choice in zip(runs, labels, self.choose(epochs, indices), strict=True):
                label |= int(choice.cut == stop)
                yield Content(
                    [[[(start, choice.cut)], [choice.partner if label else (choice.cut, stop)]]], label
                )
            return
        for (start, stop), label, cut in zip(runs, labels, self._cuts(epochs, indices), strict=True):
            first, second = (start, cut), (cut, stop)
            if self.negatives == "none":
                yield Content([[[first], [second]]])
            else:
                label &= int(cut < stop)
                yield Content([[[second], [first]] if label else [[first], [second]]], label)

    def choose(self, epochs: Ints, indices: Ints) -> list[Choice]:
        """For each row, its cut and the second part of a chunk elsewhere, chosen together to look alike."""
        own, order = self._second_parts(epochs, indices)
        between = own.any(axis=1)
        chosen = {
            row: self._choose_inside(int(epochs[row]), int(indices[row]))
            for row in np.flatnonzero(~between).tolist()
        }
        ranks = np.full((len(indices), self.length), _NEVER)  # by row and length: which to prefer, of its own
        np.put_along_axis(ranks, own, order, axis=1)
        ranks[:, 0] = _NEVER
        left = np.flatnonzero(between)
        for number in range(_ROUNDS):
            if not len(left):
                break
            seen = self._elsewhere(epochs[left], indices[left], number)
            rank = np.where(seen.odd, _NEVER, np.take_along_axis(ranks[left], seen.sizes, axis=1))
            best = rank.argmin(axis=1)
            here = np.arange(len(left))
            found = rank[here, best] < _NEVER
            sizes, ends, stops = seen.sizes[here, best], seen.ends[here, best], self.starts[indices[left] + 1]
            for row, *numbers in np.stack([left, stops - sizes, ends - sizes, ends])[:, found].T.tolist():
                chosen[row] = Choice(numbers[0], (numbers[1], numbers[2]), 0)
            for place in np.flatnonzero(~found).tolist():
                row = int(left[place])
                near = self._nearest(int(indices[row]), own[row], *(part[place] for part in seen))
                if row not in chosen or near.cost < chosen[row].cost:
                    chosen[row] = near
            left = left[~found]
        return [chosen[row] for row in range(len(indices))]

    def _second_parts(
        self, epochs: Ints, indices: Ints
    ) -> tuple[Int[np.ndarray, "R K"], Int[np.ndarray, "R K"]]:
        """Lengths of all second parts that each chunk can have (0: no more), and a random order of them."""
        first, start, stop = self.sentences[indices], self.starts[indices], self.starts[indices + 1]
        width = int((self.sentences[indices + 1] - first).max(initial=0)) + 1
        places = self.offsets[np.minimum(first[:, None] + np.arange(width), len(self.offsets) - 1)]
        inside = (places > start[:, None]) & (places < stop[:, None])
        own = np.where(inside, stop[:, None] - places, 0)
        order = mix_many(self.seed, _CUT, epochs[:, None], indices[:, None], own) >> np.uint64(33)
        return own, np.where(inside, order.astype(np.int64), _NEVER)

    def _cuts(self, epochs: Ints, indices: Ints) -> Iterator[int]:
        """Where B begins in each row: between two sentences if it has them."""
        own, order = self._second_parts(epochs, indices)
        sizes = own[np.arange(len(own)), order.argmin(axis=1)].tolist()
        for size, epoch, index in zip(sizes, epochs.tolist(), indices.tolist(), strict=True):
            yield self.run(index)[1] - size if size else self._cut_inside(epoch, index)

    def _elsewhere(self, epochs: Ints, indices: Ints, number: int) -> _Seen:
        """Second parts of chunks of other documents, each as likely; of last chunks only for a last one."""
        hashes = mix_many(
            self.seed, _PARTNER, epochs[:, None], indices[:, None], number, np.arange(self.drawn)
        )
        document = np.searchsorted(self.closing, indices)[:, None]
        last = self.closing[document]
        first = np.where(document > 0, self.closing[document - 1] + 1, 0)
        closes = last == indices[:, None]
        count = np.where(closes, 1, last + 1 - first)  # this document's own, which are passed over
        drawn = draws(np.where(closes, len(self.closing), self.size) - count, hashes)
        drawn += count * (drawn >= np.where(closes, document, first))
        chunks = np.where(closes, self.closing[np.minimum(drawn, len(self.closing) - 1)], drawn)
        begins, ends = self.starts[chunks], self.starts[chunks + 1]
        sentences = self.sentences[chunks + 1][:, :, None] - np.arange(self.suffixes)
        places = self.offsets[np.maximum(sentences, 0)]
        inside = (places > begins[:, :, None]) & (places < ends[:, :, None])
        sizes = np.where(inside, ends[:, :, None] - places, 0).reshape(len(indices), -1)
        odd = self.closes[chunks] & ~closes
        return _Seen(sizes, ends.repeat(self.suffixes, axis=1), odd.repeat(self.suffixes, axis=1))

    def _nearest(
        self,
        index: int,
        own: Int[np.ndarray, "K"],
        sizes: Int[np.ndarray, "S"],
        ends: Int[np.ndarray, "S"],
        odd: Bool[np.ndarray, "S"],
    ) -> Choice:
        """Of the second parts seen, the one nearest in length to one of this row's own."""
        start, stop = self.run(index)
        own = own[own > 0]
        gap = sizes[:, None] - own
        unfit = (sizes == 0)[:, None] | (gap > self.length - _SPECIAL - (stop - start))
        cost = np.abs(gap) + self.length * (odd[:, None] + 4 * unfit)
        place, which = (int(number) for number in np.unravel_index(np.argmin(cost), cost.shape))
        size, end = 1 if unfit[place, which] else int(sizes[place]), int(ends[place])  # one token always fits
        return Choice(stop - int(own[which]), (end - size, end), int(cost[place, which]))

    def _choose_inside(self, epoch: int, index: int) -> Choice:
        """The same for a chunk of one sentence: both candidates start with a word inside a sentence."""
        stop = self.run(index)[1]
        cut = self._cut_inside(epoch, index)
        size = stop - cut or self.length - _SPECIAL - 1
        tail: Span = (0, 0)
        for number in range(_ROUNDS):
            ends = self._elsewhere(np.array([epoch]), np.array([index]), number).ends[0, :: self.suffixes]
            chunks = np.searchsorted(self.starts, ends) - 1
            for begin, end in zip(self.starts[chunks].tolist(), ends.tolist(), strict=True):
                place = max(end - size, begin)
                if place > begin and self._is_inner_word(place):
                    return Choice(cut, (place, end), 0)
                if end - place > tail[1] - tail[0]:
                    tail = (place, end)
        return Choice(cut, tail, 4 * self.length)

    def _is_inner_word(self, place: int) -> bool:
        inside = self.offsets[np.searchsorted(self.offsets, place)] != place
        return bool(inside and self.vocabulary.starts_word[self.corpus.read(place, place + 1)[0]])

    def _cut_inside(self, epoch: int, index: int) -> int:
        """Where B begins in a chunk of one sentence: at a word, or at any token; at the end if it has one."""
        start, stop = self.run(index)
        if stop - start == 1:
            return stop
        words = np.flatnonzero(self.vocabulary.starts_word[self.corpus.read(start + 1, stop)])
        inside = words if len(words) else np.arange(stop - start - 1)
        return start + 1 + int(inside[below(len(inside), self.seed, _CUT, epoch, index)])


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
        limit = length - _SPECIAL
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        described = {
            "chunks": type(self).__name__,
            "limit": limit,
            **own,
            "negatives": None,
        }  # which have no part
        chunks = keep(corpus, described, lambda: chunk(corpus, self.starts(corpus, limit)))
        return Pairs(corpus, length, seed, chunks, self.negatives)

    @abc.abstractmethod
    def starts(self, corpus: Documents, limit: int) -> Int[np.ndarray, "runs+1"]:
        """Starts of the chunks, of at most `limit` tokens each."""


def chunk(corpus: Documents, starts: Int[np.ndarray, "runs+1"]) -> Plan:
    """What is looked up about the chunks that begin at `starts`."""
    closing = np.searchsorted(starts, np.unique(document_starts(corpus))[1:]) - 1
    closes = np.zeros(len(starts) - 1, bool)
    closes[closing] = True
    return {
        "starts": starts,
        "sentences": np.searchsorted(corpus.sentence_offsets, starts, side="right") - 1,  # each starts in
        "closing": closing,  # the last chunk of each document
        "closes": closes,  # whether a chunk is one of them
    }


@dataclasses.dataclass(frozen=True)
class SegmentPair(PairFormat):
    """Two runs of sentences that fill the row together (BERT)."""

    short_probability: float = 0.1
    """Share of chunks that are made shorter than the row holds, to a length drawn uniformly, as in BERT."""

    def starts(self, corpus: Documents, limit: int) -> Int[np.ndarray, "runs+1"]:
        """Chunks that fill the row, or a length drawn for them."""
        if not 0.0 <= self.short_probability <= 1.0:
            raise ValueError(f"short_probability={self.short_probability} is no probability: set 0.0 to 1.0")
        threshold = int(self.short_probability * 2.0**53)

        def jump(units: Units, limit: int) -> Int[np.ndarray, "n"]:
            here = units.bounds[
                :-1
            ]  # the chunk's first token keys its draws: neither blocks nor seeds matter
            is_short = mix_many(_IS_SHORT, here) >> np.uint64(11) < threshold
            short = 2 + (mix_many(_HOW_SHORT, here) % np.uint64(limit - 1)).astype(np.int64)
            unit = np.arange(len(here))
            fits = units.reach(limit)
            end = np.where(is_short, units.reach(short), fits)
            end = np.minimum(np.maximum(end, np.minimum(fits, unit + 2)), units.ends)  # two, to cut between
            # Where only the last sentence of the document would be left: take it in, or leave it another.
            orphan = units.ends - end == 1
            end = np.where(orphan & (fits >= units.ends), units.ends, end)
            return end - (orphan & (end < units.ends) & (end - unit > 2))

        return plan(corpus, limit, jump)


@dataclasses.dataclass(frozen=True)
class SentencePair(PairFormat):
    """Two sentences (RoBERTa SENTENCE-PAIR); rows are short, so enlarge the batch by 1 / efficiency."""

    def starts(self, corpus: Documents, limit: int) -> Int[np.ndarray, "runs+1"]:
        """Chunks of two sentences, or of a document's last three."""

        def jump(units: Units, half: int) -> Int[np.ndarray, "n"]:
            del half
            unit = np.arange(len(units.ends))
            three = (units.ends - unit == 3) & (units.reach(limit) >= units.ends)
            return np.minimum(unit + 2 + three, units.ends)

        return plan(corpus, limit // 2, jump)  # so that any two fit
