"""Tokenizers of the `sentencepiece` library, Unigram or BPE over raw text with marked word starts."""

import functools
from collections.abc import Iterable, Sequence
from itertools import chain

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.subword import SPECIAL, Tokenizer, fit_lengths

__all__ = ["SentencePieceTokenizer"]


class SentencePieceTokenizer(Tokenizer):
    """An spm.model."""

    kind = "sentencepiece"

    def __init__(self, files: dict[str, bytes]) -> None:
        from sentencepiece import SentencePieceProcessor

        super().__init__(files)
        self.pieces = SentencePieceProcessor(model_proto=files["spm.model"])
        for names in SPECIAL.values():
            for name in names:
                number = self.token(name)
                if number is None or self.pieces.is_unknown(number):
                    continue
                if number in self.pieces.encode(f"a {name} b"):
                    raise ValueError(
                        f"this SentencePiece model turns {name!r} in raw text into the special token: "
                        "make it a control symbol, not a user-defined one"
                    )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        size = self.pieces.get_piece_size()
        starts_word = np.array([self.pieces.id_to_piece(number).startswith("▁") for number in range(size)])
        special = [n for n in range(size) if self.pieces.is_control(n) or self.pieces.is_unknown(n)]
        return self._vocabulary(size, starts_word, special)

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = self.pieces.encode(list(texts), num_threads=1)
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        encoded = self.pieces.encode_as_offset_mapping(list(texts), num_threads=1)
        return [
            (np.array(one["ids"], np.int32), np.array(one["offsets"], np.int32).reshape(-1, 2))
            for one in encoded
        ]

    def encode_pair(
        self, first: str, second: str | None = None, *, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        parts = self.encode_batch([first] if second is None else [first, second])
        if length is not None:
            keep = fit_lengths([len(part) for part in parts], length - 1 - len(parts), length)
            parts = [part[:size] for part, size in zip(parts, keep, strict=True)]
        cls, sep = self.vocabulary.cls, self.vocabulary.sep
        tokens = np.concatenate([[cls], *(piece for part in parts for piece in (part, [sep]))])
        types = np.zeros(len(tokens), np.int32)
        types[len(parts[0]) + 2 :] = 1
        return tokens.astype(np.int32), types

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        numbers = [int(token) for token in tokens]
        if not special:
            return str(self.pieces.decode([n for n in numbers if not self.vocabulary.special[n]]))
        text, run = [], []
        for number in [*numbers, None]:
            if number is not None and not self.vocabulary.special[number]:
                run.append(number)
                continue
            text += [self.pieces.decode(run)] if run else []
            text += [self.pieces.id_to_piece(number)] if number is not None else []
            run = []
        return " ".join(text)

    def tokens(self, tokens: Iterable[int]) -> list[str]:
        return [self.pieces.id_to_piece(int(token)) for token in tokens]

    def token(self, name: str) -> int | None:
        number = self.pieces.piece_to_id(name)
        return None if self.pieces.id_to_piece(number) != name else number
