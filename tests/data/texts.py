"""Corpora for tests, in which every token is its own position: a row then tells which text it holds."""

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Rows

FIRST = 5  # ids below are special


class Text:
    """A corpus with sentences of given lengths; the token at position p is p + FIRST."""

    segmented = False
    plans: str | None = None

    def __init__(self, documents: list[list[int]], *, continues: int | None = None) -> None:
        lengths = [length for document in documents for length in document]
        self.document_offsets = np.cumsum([0, *map(len, documents)])
        self.sentence_offsets = np.cumsum([0, *lengths])
        self.size = int(self.sentence_offsets[-1])
        number = np.arange(self.size + FIRST)
        # Every token starts a word, or only those whose position is a multiple of `continues`.
        starts = number >= 0 if continues is None else (number - FIRST) % continues == 0
        self.vocabulary = Vocabulary(
            size=len(number), pad=0, unk=1, cls=2, sep=3, mask=4, starts_word=starts, special=number < FIRST
        )
        self.digest = f"text of {self.size}"

    def read(self, start: int, stop: int) -> np.ndarray:
        assert 0 <= start <= stop <= self.size
        return np.arange(start, stop, dtype=np.int32) + FIRST

    def word_starts(self, start: int, stop: int) -> np.ndarray:
        return self.vocabulary.starts_word[self.read(start, stop)]

    def borders(self) -> set[int]:
        """Positions at which a sentence starts or the corpus ends."""
        return set(self.sentence_offsets.tolist())

    def document(self, position: int) -> int:
        """The document that holds a position."""
        return int(np.searchsorted(self.sentence_offsets[self.document_offsets], position, side="right")) - 1


def random_text(documents: int, seed: int, sentences: int = 9, longest: int = 14) -> Text:
    """Documents of 1 to `sentences` sentences of 1 to `longest` tokens."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, sentences + 1, documents)
    return Text([random.integers(1, longest + 1, count).tolist() for count in counts])


def unstacked(rows: Rows) -> list[dict[str, np.ndarray]]:
    """Rows one by one."""
    return [{name: array[row] for name, array in rows.items()} for row in range(len(rows["tokens"]))]


def positions_in(tokens: np.ndarray) -> list[int]:
    """The positions in the corpus of the tokens of a row that are not special."""
    return (tokens[tokens >= FIRST] - FIRST).tolist()


def parts_of(row: dict[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """A and B of a pair, as positions in the corpus."""
    return positions_in(row["tokens"][row["types"] == 0]), positions_in(row["tokens"][row["types"] == 1])
