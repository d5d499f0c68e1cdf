"""One small interface to every subword tokenizer: from text to token numbers and back.

`load` opens a folder or file of any of these kinds, trained here (see `tokenizer`) or published elsewhere:
    tokenizer.json   of the `tokenizers` library: WordPiece, byte-level BPE, Unigram or BPE with marked words
    vocab.txt        WordPiece of the original BERT, split as in the reference, Chinese characters apart
    spm.model        SentencePiece, Unigram or BPE

Whatever the kind, a special token that is written out in raw text is text: only `encode_pair` ever adds
one.
"""

import abc
import functools
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from bertjax.data.corpus import Vocabulary

__all__ = ["SPECIAL", "Tokenizer", "load"]

# By role: the name this project gives, then the names that published tokenizers give.
SPECIAL = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<s>", "<cls>"),
    "sep": ("[SEP]", "</s>", "<sep>"),
    "mask": ("[MASK]", "<mask>"),
}
FILES = ("tokenizer.json", "spm.model", "vocab.txt")  # in this order `load` looks for them in a folder


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


def load(path: str, *, lowercase: bool | None = None) -> Tokenizer:
    """The tokenizer in a folder or file; `lowercase` is for a bare vocab.txt, None finds out."""
    name = os.fspath(path)
    if os.path.isdir(name):
        found = [file for file in FILES if os.path.exists(os.path.join(name, file))]
        found = found or sorted(file for file in os.listdir(name) if file.endswith(".model"))
        if not found:
            raise ValueError(f"{name} holds no tokenizer: it needs one of {', '.join(FILES)}")
        name = os.path.join(name, found[0])
    try:
        with open(name, "rb") as file:
            content = file.read()
    except OSError as error:
        hint = "train one with python -m bertjax tokenizer"
        raise ValueError(f"tokenizer {name} cannot be read ({error.strerror}): {hint}") from None
    base = os.path.basename(name)
    try:
        if base.endswith(".txt"):
            json_text = wordpiece_json(
                _vocab_txt(name, content), lowercase=_lowercase(name, content, lowercase)
            )
            return FastTokenizer({"tokenizer.json": json_text.encode()})
        if base.endswith(".json"):
            return FastTokenizer({"tokenizer.json": content})
        if base.endswith(".model"):
            return SentencePieceTokenizer({"spm.model": content})
    except ValueError:
        raise
    except Exception as error:  # both libraries raise bare exceptions
        raise ValueError(
            f"{name} is not a tokenizer ({str(error).splitlines()[0]}): fetch or train it again"
        ) from None
    raise ValueError(f"{name} is not a tokenizer's file: choose from {', '.join(FILES)}")


# ------------------------------------------------------------------------------------- tokenizers


class FastTokenizer(Tokenizer):
    """A tokenizer.json."""

    def __init__(self, files: dict[str, bytes]) -> None:
        from tokenizers import Tokenizer as Fast

        super().__init__(files)
        self.fast = Fast.from_str(files["tokenizer.json"].decode())
        self.fast.encode_special_tokens = True  # a literal "[MASK]" in a text is five ordinary tokens
        self.fast.no_padding()
        self.fast.no_truncation()
        described = json.loads(files["tokenizer.json"])
        self._model = described["model"]
        parts = list(_parts(described["pre_tokenizer"]))
        kinds = {part["type"]: part for part in parts}
        model = self._model.get("type") or (
            "WordPiece" if "continuing_subword_prefix" in self._model else "BPE"
        )
        if model == "WordPiece":
            self.kind, self._sign, self._continues = (
                "wordpiece",
                self._model["continuing_subword_prefix"],
                True,
            )
        elif "ByteLevel" in kinds:
            self.kind, self._sign, self._continues = "byte_bpe", "Ġ", False
            self.word_prefix = "" if kinds["ByteLevel"]["add_prefix_space"] else " "
        elif "Metaspace" in kinds:
            self.kind, self._sign, self._continues = model.lower(), kinds["Metaspace"]["replacement"], False
        else:
            legal = "WordPiece, ByteLevel or Metaspace"
            raise ValueError(
                f"a {model} tokenizer.json that is split by {list(kinds)} is not known: it needs {legal}"
            )

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        size = self.fast.get_vocab_size(with_added_tokens=True)
        starts_word = np.zeros(size, bool)
        for name, number in self.fast.get_vocab(with_added_tokens=True).items():
            starts_word[number] = name.startswith(self._sign) != self._continues
        added = self.fast.get_added_tokens_decoder()
        return self._vocabulary(
            size, starts_word, [number for number, token in added.items() if token.special]
        )

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        encoded = [one.ids for one in self.fast.encode_batch_fast(list(texts), add_special_tokens=False)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        return np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum())), lengths

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        encoded = self.fast.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(one.ids, np.int32), np.array(one.offsets, np.int32).reshape(-1, 2)) for one in encoded
        ]

    def encode_pair(
        self, first: str, second: str | None = None, *, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        texts = [first] if second is None else [first, second]
        encoded = self.fast.encode_batch(texts, add_special_tokens=False)
        if length is not None:
            room = length - self.fast.num_special_tokens_to_add(len(texts) == 2)
            for one, keep in zip(encoded, _fit([len(one) for one in encoded], room, length), strict=True):
                one.truncate(keep)
        pair = encoded[1] if len(encoded) == 2 else None
        whole = self.fast.post_process(encoded[0], pair, add_special_tokens=True)
        return np.array(whole.ids, np.int32), np.array(whole.type_ids, np.int32)

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        return self.fast.decode([int(token) for token in tokens], skip_special_tokens=not special)

    def save(self, folder: str) -> None:
        super().save(folder)
        if self.kind == "wordpiece":  # what every other BERT reads, too
            names = self.tokens(range(self.vocabulary.size))
            with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{name}\n" for name in names)

    def tokens(self, tokens: Iterable[int]) -> list[str]:
        return [str(self.fast.id_to_token(int(token))) for token in tokens]

    def token(self, name: str) -> int | None:
        return self.fast.token_to_id(name)


def wordpiece_json(vocabulary: dict[str, int], *, lowercase: bool, split_cjk: bool = True) -> str:
    """The tokenizer.json of BERT's WordPiece: split at white space and punctuation, longest match first."""
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors
    from tokenizers import Tokenizer as Fast

    fast = Fast(models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    # Accents go with the case, as in the reference implementation.
    fast.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_cjk, strip_accents=None, lowercase=lowercase
    )
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece(prefix="##")
    finish(
        fast, [AddedToken(names[0], special=True, normalized=False) for names in SPECIAL.values()], processors
    )
    return str(fast.to_str(pretty=True))


def finish(fast: Any, special: list[Any], processors: Any) -> None:
    """Adds the special tokens and `[CLS] first [SEP] second [SEP]`."""
    missing = [str(token.content) for token in special if fast.token_to_id(token.content) is None]
    if missing:
        raise ValueError(f"the vocabulary has no {', '.join(missing)}: is it the vocab.txt of a BERT?")
    fast.add_special_tokens(special)
    ends = [(name, fast.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )


def _vocab_txt(name: str, content: bytes) -> dict[str, int]:
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} line {line}: not UTF-8, so not a vocabulary of tokens: give another file"
        ) from None
    tokens = [line.rstrip("\r") for line in (lines[:-1] if not lines[-1] else lines)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for number, token in enumerate(tokens) if vocabulary[token] != number)
        raise ValueError(
            f"{name} has the token {twice!r} twice: token numbers would not be unique, mend the file"
        )
    return vocabulary


def _lowercase(name: str, content: bytes, told: bool | None) -> bool:
    """Whether a bare vocab.txt is of an uncased model: as told, as configured, else as its tokens show."""
    if told is not None:
        return told
    config = os.path.join(os.path.dirname(name), "tokenizer_config.json")
    if os.path.exists(config):
        with open(config, encoding="utf-8") as file:
            configured = json.load(file).get("do_lower_case")
        if configured is not None:
            return bool(configured)
    tokens = content.decode(errors="replace").split("\n")
    return not any(token != token.lower() for token in tokens if not token.startswith("["))


def _parts(node: Any) -> Iterable[dict[str, Any]]:
    """A pre-tokenizer and those inside it."""
    if isinstance(node, dict):
        yield node
        for inner in node.get("pretokenizers", ()):
            yield from _parts(inner)


def _fit(lengths: list[int], room: int, length: int) -> list[int]:
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


# ------------------------------------------------------------------------------------- sentencepiece


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
            keep = _fit([len(part) for part in parts], length - 1 - len(parts), length)
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
