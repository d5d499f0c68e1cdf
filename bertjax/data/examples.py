"""Examples, each a pure function of (corpus, format, seed, epoch, index): the interface, and a row's layout.

A `Format` says how text becomes rows; bound to a corpus it gives `Examples`, which may be asked for any row
in any order. A row is one or more packed *sequences*, each `[CLS] part [SEP]`, or for a pair `[CLS] A [SEP]
B [SEP]` as in BERT (Devlin et al. 2018, arXiv 1810.04805), then padding:

    tokens      int32 [L]
    mask        bool  [L]  True at real tokens, the special ones included
    types       int32 [L]  0, and 1 from B to the last [SEP]; 0 at padding
    positions   int32 [L]  count up from 0 and restart at every packed sequence; 0 at padding
    segments    int32 [L]  1, 2, ... for the packed sequences; 0 at padding
    pair_label  int32 []   pair formats only: 0 where B is what it seems to be, 1 where it was exchanged
    starts_word bool  [L]  only for a corpus prepared with a word segmenter: True where a word starts
    example_id  int32 []   the index of the row; it stands for the same text in every epoch
    epoch       int32 []

Index -1 stands for an empty row, all padding: the last batch of an evaluation is filled up with those. The
mask of an empty row is False throughout, so whatever is weighted by the mask, or by `mask[:, 0]`, ignores
it.
"""

import abc
import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.shuffle import mix, permute
from bertjax.types import Int

__all__ = ["Content", "CorpusExamples", "Documents", "Examples", "Format", "Ints", "Part", "Rows", "Span"]

Rows = dict[str, np.ndarray]  # the arrays above with a leading batch axis
Span = tuple[int, int]  # the tokens of the corpus from the first position to before the second
Ints = Int[np.ndarray, "R"]  # one number for each row
Part = Sequence[Span]  # one side of a pair, or all of a single sequence; spans are joined by [SEP]

_ORDER = 1  # purpose of a hash, so that no two draws share one


class Documents(Protocol):
    """What the formats need of a corpus."""

    digest: str

    @property
    def vocabulary(self) -> Vocabulary:
        """Size, special tokens, and which tokens start a word."""

    @property
    def sentence_offsets(self) -> np.ndarray:
        """int64 [sentences + 1]: position of each sentence's first token in the corpus."""

    @property
    def document_offsets(self) -> np.ndarray:
        """int64 [documents + 1]: each document's first sentence."""

    @property
    def segmented(self) -> bool:
        """Whether a word segmenter marked where words start."""

    @property
    def plans(self) -> str | None:
        """The folder in which plans for it may be kept."""

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens of a span, int32."""

    def word_starts(self, start: int, stop: int) -> np.ndarray:
        """True where a token of a span starts a word."""


class Content(NamedTuple):
    """What goes into one row."""

    sequences: Sequence[Sequence[Part]]  # packed sequences, each of one part or of two
    label: int | None = None  # of a pair


class Examples(abc.ABC):
    """Rows with random access; nothing is remembered between calls."""

    vocabulary: Vocabulary
    length: int
    """L, slots in a row."""
    size: int
    """Rows in an epoch."""
    tokens: int
    """Real tokens in the rows of an epoch, the special ones included."""
    digest: str
    """Of the corpus."""
    packed: bool = False
    """Whether a row may hold several sequences that must not see each other."""
    labelled: bool = False
    """Whether rows carry `pair_label`."""
    segmented: bool = False
    """Whether rows carry `starts_word`."""

    @abc.abstractmethod
    def fill(self, rows: Rows, where: Ints, epochs: Ints, indices: Ints) -> None:
        """Writes examples into those of the empty rows that `where` numbers."""

    def __len__(self) -> int:
        return self.size

    @property
    def efficiency(self) -> float:
        """Real tokens over slots."""
        return self.tokens / (self.size * self.length)

    def order(
        self, rows: Int[np.ndarray, "B"], seed: int
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """Epoch and index of rows of an endless shuffled stream; every epoch is another permutation."""
        epochs, positions = rows // self.size, rows % self.size
        indices = np.empty_like(positions)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            indices[here] = permute(positions[here], self.size, mix(seed, _ORDER, int(epoch)))
        return epochs, indices

    def once(self, positions: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """Indices in the order in which an evaluation goes through them."""
        return positions

    def seen(self, rows: int, seed: int) -> dict[str, dict[str, float]]:
        """What a training stream takes from each source in its first rows; nothing where there is but one."""
        del rows, seed
        return {}

    def rows(self, epochs: Sequence[int] | np.ndarray, indices: Sequence[int] | np.ndarray) -> Rows:
        """The rows asked for, one below the other; index -1 gives an empty row."""
        shape = (len(indices), self.length)
        rows: Rows = {
            "tokens": np.full(shape, self.vocabulary.pad, np.int32),
            "mask": np.zeros(shape, bool),
            **{name: np.zeros(shape, np.int32) for name in ("types", "positions", "segments")},
            "example_id": np.array(indices, np.int32),
            "epoch": np.array(epochs, np.int32),
        }
        if self.labelled:
            rows["pair_label"] = np.zeros(len(indices), np.int32)
        if self.segmented:
            rows["starts_word"] = np.ones(shape, bool)  # special tokens and padding stand alone
        where = np.flatnonzero(rows["example_id"] >= 0)
        self.fill(rows, where, np.asarray(epochs, np.int64)[where], np.asarray(indices, np.int64)[where])
        return rows

    def example(self, epoch: int, index: int) -> dict[str, np.ndarray]:
        """One row, without a batch axis."""
        if not 0 <= index < self.size:
            raise IndexError(f"example {index} of {self.size}")
        return {name: array[0] for name, array in self.rows([epoch], [index]).items()}


class CorpusExamples(Examples):
    """The rows that a format makes of one corpus, given the runs of tokens that it cuts the corpus into."""

    def __init__(self, corpus: Documents, length: int, starts: Int[np.ndarray, "runs+1"], *, special: int):
        """`special` is the number of special tokens that each run needs."""
        self.corpus = corpus
        self.vocabulary, self.segmented, self.digest = corpus.vocabulary, corpus.segmented, corpus.digest
        self.length = length
        self.starts = starts
        self.size = len(starts) - 1
        self.tokens = int(starts[-1] - starts[0]) + special * self.size
        if self.size < 1:
            raise ValueError("the corpus has no text: prepare it from another source")
        if self.size >= 2**31:
            raise ValueError(
                f"{self.size} rows of {length} tokens are more than an example id counts ({2**31 - 1}): "
                "split the corpus into several and mix them"
            )

    @abc.abstractmethod
    def contents(self, epochs: Ints, indices: Ints) -> Iterable[Content]:
        """Where the text of each row stands in the corpus."""

    def run(self, index: int) -> Span:
        """The span of one run."""
        return int(self.starts[index]), int(self.starts[index + 1])

    def fill(self, rows: Rows, where: Ints, epochs: Ints, indices: Ints) -> None:
        """Reads the contents and lays them out."""
        for row, content in zip(where.tolist(), self.contents(epochs, indices), strict=True):
            self._lay(rows, row, content)

    def _lay(self, rows: Rows, row: int, content: Content) -> None:
        sequences, label = content
        tokens = rows["tokens"][row]
        stop = 0
        for number, parts in enumerate(sequences):
            start = stop
            tokens[start] = self.vocabulary.cls
            stop = start + 1
            for kind, part in enumerate(parts):
                begin = stop
                for span in part:
                    end = stop + span[1] - span[0]
                    tokens[stop:end] = self.corpus.read(*span)
                    if self.segmented:
                        rows["starts_word"][row, stop:end] = self.corpus.word_starts(*span)
                    tokens[end] = self.vocabulary.sep
                    stop = end + 1
                if kind:
                    rows["types"][row, begin:stop] = kind
            rows["positions"][row, start:stop] = np.arange(stop - start)
            rows["segments"][row, start:stop] = number + 1
        rows["mask"][row, :stop] = True
        if label is not None:
            rows["pair_label"][row] = label


@dataclasses.dataclass(frozen=True)
class Format(abc.ABC):
    """How text becomes rows."""

    @abc.abstractmethod
    def examples(self, corpus: Documents, length: int, seed: int) -> Examples:
        """The rows of this format over a corpus, `length` slots each."""

    @property
    def packed(self) -> bool:
        """Whether a row may hold several sequences that must not see each other."""
        return False

    @property
    def labelled(self) -> bool:
        """Whether rows carry `pair_label`."""
        return False


def check_length(length: int, least: int, what: str) -> None:
    """An error for rows that have no room for their special tokens and some text."""
    if length < least:
        raise ValueError(f"length={length} leaves no room for text in {what}: set it to {least} or more")
