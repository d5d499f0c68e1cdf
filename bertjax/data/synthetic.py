"""A corpus out of a hash, in memory: for benchmarks, for tests, and for machines that hold no text.

A quarter of the tokens follow Zipf's law, p(rank) ~ 1 / rank; half are the fixed successor of the token
before (a bigram to learn); a quarter belong to one of the topics into which the vocabulary is divided, the
same for a whole document (what tells whether two segments belong together). So every pretraining loss has
something to fall by. Documents have 1 to 16 sentences of 4 to 32 tokens.
"""

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.settings import digest

__all__ = ["SyntheticCorpus"]

_SPECIAL = 5
_TOPICS = 16


class SyntheticCorpus:
    """A stand-in for a prepared corpus, with the same interface."""

    segmented = False
    plans = None

    def __init__(self, documents: int, vocab: int, seed: int) -> None:
        if documents < 1 or vocab < _SPECIAL + _TOPICS:
            least = f"documents=1 and vocab={_SPECIAL + _TOPICS} or more"
            raise ValueError(
                f"a synthetic corpus with documents={documents} and vocab={vocab} is too small: set {least}"
            )
        random = np.random.Generator(np.random.Philox(seed))
        self.vocabulary = _vocabulary(vocab)
        sentences = random.integers(1, 17, documents)
        lengths = random.integers(4, 33, int(sentences.sum()))
        self.document_offsets = np.concatenate([[0], np.cumsum(sentences)])
        self.sentence_offsets = np.concatenate([[0], np.cumsum(lengths)])
        bounds = self.sentence_offsets[self.document_offsets]
        topics = np.repeat(random.integers(0, _TOPICS, documents), np.diff(bounds))
        self._tokens = _text(random, topics, vocab)
        self.tokens = len(self._tokens)
        self.ids = np.arange(documents, dtype=np.uint64)
        self.sources = np.zeros(documents, np.uint16)
        self.digest = digest({"synthetic": {"documents": documents, "vocab": vocab, "seed": seed}})
        self.manifest = {"digest": self.digest, "sources": ["synthetic"]}

    @property
    def documents(self) -> int:
        """How many documents there are."""
        return len(self.document_offsets) - 1

    @property
    def sentences(self) -> int:
        """How many sentences there are."""
        return len(self.sentence_offsets) - 1

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens, int32, at the positions from `start` to before `stop`."""
        return self._tokens[start:stop]

    def word_starts(self, start: int, stop: int) -> np.ndarray:
        """True where a token starts a word."""
        return self.vocabulary.starts_word[self.read(start, stop)]


def _vocabulary(size: int) -> Vocabulary:
    number = np.arange(size)
    return Vocabulary(
        size=size, pad=0, unk=1, cls=2, sep=3, mask=4, starts_word=number % 4 != 3, special=number < _SPECIAL
    )


def _text(random: np.random.Generator, topics: np.ndarray, vocab: int) -> np.ndarray:
    ordinary = vocab - _SPECIAL
    share = np.cumsum(1.0 / np.arange(1, ordinary + 1))
    rank = np.searchsorted(share, random.random(len(topics)) * share[-1])
    kind = random.random(len(topics))
    width = ordinary // _TOPICS
    rank = np.where(kind < 0.25, topics * width + rank % width, rank)
    successor = random.permutation(ordinary)
    follows = kind >= 0.5
    follows[0] = False
    # Runs of followers are resolved from their left ends, together: as many steps as the longest has.
    depth = np.arange(len(topics)) - np.maximum.accumulate(np.where(follows, 0, np.arange(len(topics))))
    for step in range(1, int(depth.max()) + 1):
        here = np.flatnonzero(depth == step)
        rank[here] = successor[rank[here - 1]]
    return (rank + _SPECIAL).astype(np.int32)
