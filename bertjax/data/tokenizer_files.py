"""Opening a tokenizer, one trained here (see `tokenizer`) or one published elsewhere.

It lies in a folder as, or simply is, one of these files:
tokenizer.json   of the `tokenizers` library: WordPiece, byte-level BPE, Unigram or BPE with marked words
vocab.txt        WordPiece of the original BERT, split as in the reference, Chinese characters apart
spm.model        SentencePiece, Unigram or BPE
"""

import json
import os

from bertjax.data.fast_tokenizer import FastTokenizer, wordpiece_json
from bertjax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from bertjax.data.subword import Tokenizer

__all__ = ["load"]

FILES = ("tokenizer.json", "spm.model", "vocab.txt")  # in this order `load` looks for them in a folder


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
