"""The prepared corpus: tokens on disk, opened in constant time and memory, read by position.

    CORPUS/manifest.json         what it was made from and of what it consists; written last
    CORPUS/sources.sha256        every source file, in the format of `sha256sum --check`
    CORPUS/tokenizer/            the tokenizer, and its vocabulary's flags as arrays
    CORPUS/train/, CORPUS/heldout/
        00000.arrow, ...         Arrow IPC streams, one row a document: tokens, sentences, id, source, (words)
        sentence_offsets.npy     int64 [sentences + 1]: the token at which each sentence starts
        document_offsets.npy     int64 [documents + 1]: the sentence with which each document starts
        document_ids.npy         uint64 [documents]: hash of the document's text
        document_sources.npy     uint16 [documents]: index into manifest["sources"]
        batches.npy              int64 [batches, 4]: first token of every record batch, its shard, and the
                                 byte at which its tokens and its word flags (-1: none) lie there

The shards are Arrow, so that `datasets.Dataset.from_file` and every other Arrow tool can read them. The
reader itself needs numpy only: `batches.npy` says where in the file the numbers lie, and they are mapped
from there. So a machine that trains needs neither pyarrow nor a tokenizer library, opening costs the same
for every corpus, and processes on one host share one copy in the page cache.

The manifest carries the size and the sha256 of every file and a checksum of itself. Sizes are compared
whenever a corpus is opened, contents with `verify=True`.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from bertjax.settings import suggest

__all__ = ["FORMAT", "SPLITS", "Corpus", "Vocabulary", "checksum", "open_corpus", "sha256_of"]

FORMAT = 1
SPLITS = ("train", "heldout")


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """What training needs to know of a tokenizer: its size, its special tokens, and where words start."""

    size: int
    pad: int
    unk: int
    cls: int
    sep: int
    mask: int
    starts_word: np.ndarray  # bool [V], False for a token that continues a word
    special: np.ndarray  # bool [V], True for the five and for others that stand for no text


class Corpus:
    """One split of a prepared corpus. Positions are global: they run through all shards."""

    def __init__(self, path: str, split: str, manifest: dict[str, Any], vocabulary: Vocabulary) -> None:
        def column(name: str) -> np.ndarray:
            return np.load(os.path.join(path, split, f"{name}.npy"), mmap_mode="r")

        self.path, self.split, self.manifest, self.vocabulary = path, split, manifest, vocabulary
        self.digest: str = manifest["digest"]
        self.sentence_offsets = column("sentence_offsets")  # int64 [sentences + 1]
        self.document_offsets = column("document_offsets")  # int64 [documents + 1]
        self.ids = column("document_ids")  # uint64 [documents]
        self.sources = column("document_sources")  # uint16 [documents]
        self.tokens: int = manifest["splits"][split]["tokens"]
        self._batches = np.load(os.path.join(path, split, "batches.npy"))
        self._starts = np.append(self._batches[:, 0], self.tokens)
        self._width = np.dtype(token_type(vocabulary.size))
        self._shards: dict[int, np.ndarray] = {}

    @property
    def documents(self) -> int:
        """How many documents this split holds."""
        return len(self.document_offsets) - 1

    @property
    def sentences(self) -> int:
        """How many sentences this split holds."""
        return len(self.sentence_offsets) - 1

    @property
    def segmented(self) -> bool:
        """Whether a word segmenter marked where words start."""
        return len(self._batches) > 0 and int(self._batches[0, 3]) >= 0

    @property
    def plans(self) -> str:
        """The folder in which plans for this split are kept: made while training, and no part of the corpus."""
        return os.path.join(self.path, self.split, "plans")

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens, int32, at the positions from `start` to before `stop`."""
        return self._read(start, stop, self._width, column=2).astype(np.int32)

    def word_starts(self, start: int, stop: int) -> np.ndarray:
        """True where a token starts a word: by the segmenter if there was one, else by the vocabulary."""
        if self.segmented:
            return self._read(start, stop, np.dtype(np.uint8), column=3).astype(bool)
        return self.vocabulary.starts_word[self.read(start, stop)]

    def _read(self, start: int, stop: int, width: np.dtype, column: int) -> np.ndarray:
        if not 0 <= start <= stop <= self.tokens:
            raise IndexError(
                f"positions {start} to {stop} are not in {self.path}/{self.split} of {self.tokens} tokens"
            )
        pieces = []
        batch = int(np.searchsorted(self._starts, start, side="right")) - 1
        while start < stop:
            first, end = int(self._starts[batch]), min(stop, int(self._starts[batch + 1]))
            offset = int(self._batches[batch, column]) + (start - first) * width.itemsize
            shard = self._shard(int(self._batches[batch, 1]))
            pieces.append(shard[offset : offset + (end - start) * width.itemsize].view(width))
            start, batch = end, batch + 1
        return np.concatenate(pieces) if pieces else np.empty(0, width)

    def _shard(self, number: int) -> np.ndarray:
        if number not in self._shards:
            name = os.path.join(self.path, self.split, shard_name(number))
            self._shards[number] = np.memmap(name, dtype=np.uint8, mode="r")
        return self._shards[number]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_corpus, (self.path, self.split)  # another process maps the files anew


def open_corpus(path: str, split: str = "train", *, verify: bool = False) -> Corpus:
    """Opens one split of a prepared corpus; `verify` also compares the sha256 of every file."""
    path = os.fspath(path)
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r} of {path}: {suggest(split, SPLITS)}")
    manifest = read_manifest(path)
    _check_files(path, manifest["files"], verify=verify)
    counts = {name: manifest["splits"][name]["documents"] for name in SPLITS}
    if not counts[split]:
        held = f"train {counts['train']}, heldout {counts['heldout']} documents"
        raise ValueError(
            f"{path}/{split} is empty ({held}): prepare it with another heldout share or more text"
        )
    return Corpus(
        path, split, manifest, read_vocabulary(os.path.join(path, "tokenizer"), manifest["tokenizer"])
    )


def read_manifest(path: str) -> dict[str, Any]:
    """The manifest of the corpus at `path`, checked against its own checksum."""
    name = os.path.join(path, "manifest.json")
    try:
        with open(name, encoding="utf-8") as file:
            manifest = json.load(file)
        broken = manifest["checksum"] != checksum(manifest)
    except FileNotFoundError:
        if os.path.isdir(os.path.join(path, "parts")):
            raise ValueError(
                f"{path} is an unfinished corpus: run the same prepare again, it continues"
            ) from None
        hint = "it has no manifest.json" if os.path.isdir(path) else "there is no such folder"
        raise ValueError(
            f"{path} is not a prepared corpus ({hint}): make one with python -m bertjax prepare"
        ) from None
    except (NotADirectoryError, json.JSONDecodeError, UnicodeDecodeError, TypeError, KeyError):
        broken = True
    if broken:
        raise ValueError(f"{name} was changed after it was written: remove {path} and prepare it again")
    if manifest["format"] != FORMAT:
        raise ValueError(
            f"{path} has corpus format {manifest['format']}, this version reads {FORMAT}: prepare it again"
        )
    return manifest


def checksum(manifest: Mapping[str, Any]) -> str:
    """sha256 of everything in a manifest but its checksum."""
    body = {name: value for name, value in manifest.items() if name != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def read_vocabulary(folder: str, described: Mapping[str, Any]) -> Vocabulary:
    """The vocabulary saved in a corpus's tokenizer folder; needs no tokenizer library."""
    flags = {name: np.load(os.path.join(folder, f"{name}.npy")) for name in ("starts_word", "special")}
    return Vocabulary(size=described["vocab_size"], **described["special"], **flags)


def _check_files(path: str, files: Mapping[str, Mapping[str, Any]], *, verify: bool) -> None:
    for name, written in files.items():
        here = os.path.join(path, name)
        size = os.path.getsize(here) if os.path.exists(here) else None
        if size != written["bytes"]:
            found = "is missing" if size is None else f"has {size} bytes, not {written['bytes']}"
            raise ValueError(f"{here} {found}: the corpus is damaged, remove {path} and prepare it again")
        if verify and sha256_of(here) != written["sha256"]:
            raise ValueError(
                f"{here} does not have the sha256 of the manifest: remove {path} and prepare it again"
            )


def sha256_of(path: str) -> str:
    """sha256 of a file's contents."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def token_type(vocabulary_size: int) -> type[np.unsignedinteger]:
    """The narrowest type that holds every token."""
    return np.uint16 if vocabulary_size <= 1 << 16 else np.uint32


def shard_name(number: int) -> str:
    """File name of a shard."""
    return f"{number:05d}.arrow"
