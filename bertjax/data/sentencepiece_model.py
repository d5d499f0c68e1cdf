"""A SentencePiece model as a tokenizer.json: its pieces, scores and normaliser, with the framing of a published model.

A model file is a protobuf: 1 the pieces, 2 how it was trained, 3 how text is normalised. The normaliser is a compiled
table that the `tokenizers` library reads as it is. What differs from SentencePiece, in both kinds:
- the table is applied to what a reader sees as one character, so a few combinations of marks come out otherwise
- BPE merges pairs in the order of the pieces they make, by pair where SentencePiece takes the leftmost

Control symbols and the symbols of `Special` are special tokens. Symbols that the trainer was told to keep whole get
the score that SentencePiece gives them, so that they always win.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

from bertjax.data.fast_tokenizer import Special
from bertjax.data.wire import Damaged, fields

__all__ = ["SentencePieces", "read_pieces", "sentencepiece_json"]

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, KEPT = 1, 2, 3, 4  # kinds of pieces
SPACE = "▁"


@dataclasses.dataclass(frozen=True)
class SentencePieces:
    """What an spm.model holds."""

    pieces: tuple[tuple[str, float], ...]
    kinds: tuple[int, ...]
    model: int
    bytes_for_unknown: bool
    table: bytes

    @property
    def unknown(self) -> int:
        """The number of the unknown piece."""
        return self.kinds.index(UNKNOWN)

    def names(self, kind: int) -> list[str]:
        """The pieces of a kind."""
        return [name for (name, _), own in zip(self.pieces, self.kinds, strict=True) if own == kind]


def read_pieces(content: bytes) -> SentencePieces:
    """The pieces, how they were trained, and the table of the normaliser; `Damaged` where it is no model."""
    from sentencepiece import SentencePieceProcessor

    try:
        processor = SentencePieceProcessor(model_proto=content)
    except RuntimeError:
        raise Damaged("it is no SentencePiece model") from None
    numbers = range(processor.get_piece_size())
    kinds = tuple(
        UNKNOWN if processor.is_unknown(n) else CONTROL if processor.is_control(n) else NORMAL
        for n in numbers
    )
    model, bytes_for_unknown, table = UNIGRAM, False, b""
    kept: set[int] = set()
    piece = 0
    for number, value in fields(content):
        if number == 1 and isinstance(value, bytes):
            if value.endswith(b"\x18\x04"):  # field 3, the kind, is the last: 4
                kept.add(piece)
            piece += 1
        elif number == 2 and isinstance(value, bytes):
            for inner, setting in fields(value):
                if inner == 3 and isinstance(setting, int):
                    model = setting
                elif inner == 35:
                    bytes_for_unknown = bool(setting)
        elif number == 3 and isinstance(value, bytes):
            table = b"".join(
                setting for inner, setting in fields(value) if inner == 2 and isinstance(setting, bytes)
            )
    if model not in (UNIGRAM, BPE):
        raise Damaged("it is of words or characters, not Unigram or BPE")
    pieces = tuple((processor.id_to_piece(n), float(processor.get_score(n))) for n in numbers)
    kinds = tuple(KEPT if n in kept else kind for n, kind in enumerate(kinds))
    if UNKNOWN not in kinds:
        raise Damaged("it has no unknown piece")
    return SentencePieces(pieces, kinds, model, bytes_for_unknown, table)


def sentencepiece_json(
    model: SentencePieces, special: Special, *, before: Sequence[Any] = (), split: Sequence[Any] = ()
) -> str:
    """The tokenizer.json; `before` normalises and `split` splits what reaches the model."""
    from tokenizers import Regex, decoders, normalizers, pre_tokenizers
    from tokenizers import Tokenizer as Fast

    fast = Fast(_unigram(model) if model.model == UNIGRAM else _bpe(model))
    fast.normalizer = normalizers.Sequence(
        [
            *before,
            *([normalizers.Precompiled(model.table)] if model.table else []),
            normalizers.Strip(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    words = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    fast.pre_tokenizer = pre_tokenizers.Sequence([*split, words]) if split else words
    spaces = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), spaces]) if model.bytes_for_unknown else spaces
    missing = [name for name in special.names.values() if fast.token_to_id(name) is None]
    fast.add_special_tokens(list(dict.fromkeys(missing)))  # what the pieces lack is numbered after them
    more = tuple(name for name in model.names(CONTROL) if fast.token_to_id(name) is not None)
    dataclasses.replace(special, more=special.more + more).add_to(fast)
    return str(fast.to_str(pretty=True))


def _unigram(model: SentencePieces) -> Any:
    from tokenizers import models

    scores = [score for (_, score), kind in zip(model.pieces, model.kinds, strict=True) if kind == NORMAL]
    best = max(scores, default=0.0)
    pieces = [
        (name, len(name.encode()) * best - 0.1 if kind == KEPT else score)
        for (name, score), kind in zip(model.pieces, model.kinds, strict=True)
    ]
    return models.Unigram(pieces, unk_id=model.unknown, byte_fallback=model.bytes_for_unknown)


def _bpe(model: SentencePieces) -> Any:
    """Every pair of pieces that makes a piece, in the order of what they make."""
    from tokenizers import models

    numbers = {name: number for number, (name, _) in enumerate(model.pieces)}
    found = []
    for name, number in numbers.items():
        if model.kinds[number] != NORMAL:
            continue
        for cut in range(1, len(name)):
            left, right = name[:cut], name[cut:]
            if left in numbers and right in numbers:
                found.append((-model.pieces[number][1], numbers[left], numbers[right], left, right))
    merges = [(left, right) for *_, left, right in sorted(found)]
    return models.BPE(
        numbers, merges, unk_token=model.pieces[model.unknown][0], fuse_unk=True,
        byte_fallback=model.bytes_for_unknown,
    )  # fmt: skip
