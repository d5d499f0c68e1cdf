"""How a tokenizer puts special tokens around one text or two, so that rows can be built from any runs of tokens.

    prefix A suffix              prefix A middle B suffix

BERT has [CLS] A [SEP] B [SEP] with type 1 from B on, RoBERTa <s> A </s></s> B </s> with type 0 throughout. The form is
read off the tokenizer itself, by giving it empty texts.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from bertjax.data.subword import Tokenizer, fit_lengths
from bertjax.types import Int

__all__ = ["Template", "windows"]

Tokens = Int[np.ndarray, "n"]


@dataclasses.dataclass(frozen=True)
class Template:
    """The special tokens around texts."""

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    second_type: int

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "Template":
        """The form of a tokenizer."""
        single, _ = tokenizer.encode_pair("")
        pair, types = tokenizer.encode_pair("", "")
        suffix = len(single) - 1
        assert single[0] == pair[0] and list(single[1:]) == list(pair[len(pair) - suffix :]), (
            "prefix, text, suffix"
        )
        parts = single[:1], pair[1 : len(pair) - suffix], single[1:]
        prefix, middle, last = (tuple(int(token) for token in part) for part in parts)
        return cls(prefix, middle, last, int(types[-1]))

    def special(self, texts: int) -> int:
        """Special tokens in a row of one text or two."""
        return len(self.prefix) + len(self.suffix) + (len(self.middle) if texts == 2 else 0)

    def fit(self, sizes: Sequence[int], length: int) -> list[int]:
        """How much of each text remains in a row of that length: the longer one is cut first."""
        return fit_lengths(list(sizes), length - self.special(len(sizes)), length)

    def row(self, first: Tokens, second: Tokens | None = None) -> tuple[Tokens, Tokens, tuple[int, int]]:
        """Tokens and types of a row, and where the texts begin in it."""
        parts = (
            [self.prefix, first, self.suffix]
            if second is None
            else [self.prefix, first, self.middle, second, self.suffix]
        )
        tokens = np.concatenate([np.asarray(part, np.int32) for part in parts])
        types = np.zeros(len(tokens), np.int32)
        begin = len(self.prefix) + len(first) + (0 if second is None else len(self.middle))
        if second is not None:
            types[begin:] = self.second_type
        return tokens, types, (len(self.prefix), begin)


def windows(size: int, room: int, overlap: int) -> list[tuple[int, int]]:
    """Spans of at most `room` that cover range(size), each of which begins `overlap` before the end of the last."""
    assert 0 <= overlap < room
    spans = [(0, min(room, size))]
    while spans[-1][1] < size:
        start = spans[-1][1] - overlap
        spans.append((start, min(start + room, size)))
    return spans
