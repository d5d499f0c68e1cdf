"""What everything else may assume of a subword tokenizer: from text to token numbers and back.

Whatever the kind, a special token that is written out in raw text is text: only `encode_pair` ever adds one.
"""

import abc
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from bertjax.data.corpus import Vocabulary

__all__ = ["SPECIAL", "Tokenizer", "fit_lengths"]

# By role: the name this project gives, then the names that published tokenizers give.
SPECIAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}


class Tokenizer(abc.ABC):
    """What everything else may assume of a tokenizer."""

    kind: str  # wordpiece, byte_bpe, unigram, bpe, sentencepiece
    word_prefix: str = ""  # what a text must begin with for its first token to be the start of a word

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        listing = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
        self.digest = hashlib.sha256(json.dumps(listing).encode()).hexdigest()[:16]

    @functools.cached_property
    @abc.abstractmethod
    def vocabulary(self) -> Vocabulary:
        """Size, special tokens, and which tokens start a word."""

    @abc.abstractmethod
    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """The tokens of all texts in one run, and how many each has; no special tokens."""

    @abc.abstractmethod
    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tokens, [tokens, 2] where in the text each begins and ends) of every text; no special tokens."""

    @abc.abstractmethod
    def encode_pair(
        self, first: str, second: str | None = None, *, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(tokens, types) of one or two texts with special tokens; to fit `length` the longer one is cut."""

    @abc.abstractmethod
    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        """The text that tokens stand for; `special` shows the special ones too."""

    @abc.abstractmethod
    def tokens(self, tokens: Iterable[int]) -> list[str]:
        """The name of each token."""

    @abc.abstractmethod
    def token(self, name: str) -> int | None:
        """The number of a token by its name; None where there is none."""

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """The tokens of every text, int32; no special tokens."""
        flat, lengths = self.encode_flat(texts)
        return np.split(flat, np.cumsum(lengths)[:-1]) if len(texts) else []

    def save(self, folder: str) -> None:
        """Writes the files that `load` reads."""
        os.makedirs(folder, exist_ok=True)
        for name, content in self.files.items():
            with open(os.path.join(folder, name), "wb") as file:
                file.write(content)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.files,)

    def _vocabulary(self, size: int, starts_word: np.ndarray, more: Iterable[int]) -> Vocabulary:
        """A vocabulary from the flags of ordinary tokens; `more` are special tokens besides the five."""
        roles = {}
        for role, names in SPECIAL.items():
            found = [number for name in names if (number := self.token(name)) is not None]
            if not found:
                raise ValueError(
                    f"this {self.kind} tokenizer has no {role} token: it needs one of {', '.join(names)}"
                )
            roles[role] = found[0]
        special = np.zeros(size, bool)
        special[[*roles.values(), *more]] = True
        return Vocabulary(size=size, **roles, starts_word=starts_word | special, special=special)


def fit_lengths(lengths: list[int], room: int, length: int) -> list[int]:
    """How much of each text remains when the longest is cut until all fit."""
    if room < len(lengths):
        raise ValueError(
            f"length={length} leaves no room for text: use {length - room + len(lengths)} or more"
        )
    lengths = list(lengths)
    if len(lengths) == 1:
        return [min(lengths[0], room)]
    over = sum(lengths) - room
    if over > 0:
        longer = 0 if lengths[0] > lengths[1] else 1
        alone = min(over, abs(lengths[0] - lengths[1]))
        lengths[longer] -= alone
        # From equal lengths on both shrink in turn; an odd rest comes off the second.
        lengths[0] -= (over - alone) // 2
        lengths[1] -= (over - alone + 1) // 2
    return lengths
