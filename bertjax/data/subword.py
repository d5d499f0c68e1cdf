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

__all__ = ["ROLES", "SPECIAL", "Tokenizer", "fit_lengths"]

ROLES = "roles.json"  # of a tokenizer whose special tokens have names of their own: role to name

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

    def roles(self) -> dict[str, str | None]:
        """The name of the special token of each role; None where there is none."""
        told = json.loads(self.files.get(ROLES, b"{}"))
        found = {}
        for role, names in SPECIAL.items():
            known = [name for name in names if self.token(name) is not None]
            # A vocabulary may hold [CLS] as a word that was never special, beside an <s> that is.
            used = [name for name in known if self.is_special(name)]
            found[role] = told.get(role) or next(iter(used or known), None)
        return found

    def is_special(self, name: str) -> bool:
        """Whether a token of this name stands for no text."""
        return self.token(name) is not None

    def _vocabulary(self, size: int, starts_word: np.ndarray, more: Iterable[int]) -> Vocabulary:
        """A vocabulary from the flags of ordinary tokens; `more` are special tokens besides the five."""
        roles = {}
        for role, name in self.roles().items():
            number = None if name is None else self.token(name)
            if number is None:
                legal = ", ".join(SPECIAL[role])
                raise ValueError(f"this {self.kind} tokenizer has no {role} token: it needs one of {legal}")
            roles[role] = number
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
    if sum(lengths) > room:
        shorter = 0 if lengths[0] <= lengths[1] else 1
        longer = 1 - shorter
        # From equal lengths on both shrink in turn; an odd token stays with the one that was longer, or with the
        # second, as in the library that published tokenizers use. (The first BERT left it with the first.)
        lengths[shorter] = min(lengths[shorter], room // 2)
        lengths[longer] = room - lengths[shorter]
    return lengths
