"""Opening a tokenizer, one trained here (see `tokenizer`) or one published elsewhere.

It lies in a folder as, or simply is, one of these files:
tokenizer.json   of the `tokenizers` library: WordPiece, byte-level BPE, Unigram or BPE with marked words
vocab.txt        WordPiece of the original BERT, split as in the reference, Chinese characters apart
spm.model        SentencePiece, Unigram or BPE

A folder that says of which published kind its tokenizer is (see `published`) is read as that kind.
"""

import json
import os
from collections.abc import Callable

from bertjax.data.fast_tokenizer import FastTokenizer, wordpiece_json
from bertjax.data.published import VOCABULARIES, is_published, load_published, vocabulary_of
from bertjax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from bertjax.data.subword import ROLES, Tokenizer

__all__ = ["load"]

FILES = ("tokenizer.json", "spm.model", "vocab.txt")  # in this order `load` looks for them in a folder


def load(path: str, *, lowercase: bool | None = None) -> Tokenizer:
    """The tokenizer in a folder or file; `lowercase` is for a bare vocab.txt, None finds out."""
    name = os.fspath(path)
    if os.path.isdir(name) and lowercase is None and _holds_one(name) and is_published(name):
        return _read(name, lambda: load_published(name))
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
    if base.endswith(".txt"):
        vocabulary = vocabulary_of(name, content)
        lowercase = _lowercase(name, content, lowercase)
        files = {"tokenizer.json": wordpiece_json(vocabulary, lowercase=lowercase).encode()}
    elif base.endswith(".json"):
        files = {"tokenizer.json": content, **_roles(name)}
    elif base.endswith(".model"):
        return _read(name, lambda: SentencePieceTokenizer({"spm.model": content}))
    else:
        raise ValueError(f"{name} is not a tokenizer's file: choose from {', '.join(FILES)}")
    return _read(name, lambda: FastTokenizer(files))


def _read(name: str, made: Callable[[], Tokenizer]) -> Tokenizer:
    try:
        return made()
    except ValueError:
        raise
    except Exception as error:  # both libraries raise bare exceptions
        reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise ValueError(f"{name} is not a tokenizer ({reason}): fetch or train it again") from None


def _holds_one(folder: str) -> bool:
    return any(os.path.exists(os.path.join(folder, file)) for file in ("tokenizer.json", *VOCABULARIES))


def _roles(name: str) -> dict[str, bytes]:
    """What a tokenizer of ours has beside its tokenizer.json, if its special tokens have names of their own."""
    path = os.path.join(os.path.dirname(name), ROLES)
    if not os.path.exists(path):
        return {}
    with open(path, "rb") as file:
        return {ROLES: file.read()}


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
