"""Where text comes from: files, compressed or not, data sets of the hub, the interpreter's own documentation.

An input is
    a path or a pattern        text (.txt, .text, .md), JSON lines (.jsonl, .ndjson, .json), .parquet, .arrow;
                               the first two also compressed as .gz, .bz2, .xz or .zst
    hub:NAME[@CONFIG][:SPLIT]  a data set of the hub, or a folder in its layout, streamed through `datasets`
    python-docs[:NAME]         documentation of the standard library and of installed packages, or of one of these;
                               NAME `python` is the standard library

One process reads all inputs in order and cuts them at document boundaries into units of about four
megabytes. A unit is raw bytes: decoding, parsing and tokenising it is the work of whoever receives it, in
parallel (see `records`). Where the cuts fall depends on the bytes alone, never on the number of
processes, and a unit is named by the hash of what it holds. So a corpus comes out the same on every
machine, and finished units are found again after a crash.

Every file is hashed as it is read. A file that ends early is always an error; `on_bad_record` is about
single records.
"""

import dataclasses
import glob
import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from bertjax.data import streams
from bertjax.data.python_docs import python_files
from bertjax.data.streams import (
    COMPRESSIONS,
    Stream,
    arrow_columns,
    blocks,
    hub_columns,
    parquet_columns,
    units_of_columns,
)
from bertjax.settings import suggest

__all__ = ["Source", "SourceOptions", "Unit", "find_sources", "still_the_same"]

LONGEST_FILE = 1 << 28  # bytes of a file that is one document

Format = Literal["text", "jsonl", "parquet", "arrow"]
Kind = Literal["blank_line", "line", "jsonl", "table", "file", "python"]
_EXTENSIONS: dict[str, Format] = {
    ".txt": "text",
    ".text": "text",
    ".md": "text",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
}


@dataclasses.dataclass(frozen=True)
class SourceOptions:
    """Which text to read, and how."""

    input: tuple[str, ...] = ()
    """Paths, quoted patterns, hub:NAME[@CONFIG][:SPLIT], python-docs[:NAME]; several with commas between."""
    format: Format | None = None
    """What the files are; None goes by their names."""
    field: str = "text"
    """The field or column that holds the text, in everything but text files."""
    documents: Literal["blank_line", "line", "file"] = "blank_line"
    """What ends a document in text files."""
    on_bad_record: Literal["raise", "skip"] = "raise"
    """What to do with a record that is not UTF-8, not JSON, or without the field."""
    bad_records: int = 1000
    """How many records `skip` may leave out before it is an error after all."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """About a megabyte of whole documents, as they lie in the file."""

    source: int  # index of the input
    kind: Kind
    name: str  # the file, for messages
    first: int  # the line or row it starts with, counted from 1
    payload: bytes | tuple[tuple[str, bytes], ...]  # one run of bytes, or several (file, its bytes)
    progress: int  # bytes of the input, as stored, since the unit before
    cut: bool = False  # a document too long for one unit goes on in the next

    @property
    def key(self) -> str:
        """The hash of what it holds."""
        whole = isinstance(self.payload, bytes)
        hashed = hashlib.blake2b(f"{self.kind} {whole} {self.first == 1}".encode(), digest_size=16)
        for name, content in (("", self.payload),) if isinstance(self.payload, bytes) else self.payload:
            hashed.update(f"\0{os.path.basename(name)}\0{len(content)}\0".encode())
            hashed.update(content)
        return hashed.hexdigest()


class Source:
    """One input. `units` reads it; afterwards `listing` has the name, size and sha256 of every file."""

    def __init__(self, index: int, name: str, options: SourceOptions) -> None:
        self.index, self.name, self.options = index, name, options
        self.listing: list[tuple[str, int, str]] = []
        self.kind, self.paths = _find(name, options)
        # Name, size and time of change of every file: what can be compared without reading.
        self.stamp = [_stamp(path) for path in self.paths]

    @property
    def bytes(self) -> int | None:
        """Size as stored; None where only reading tells."""
        return None if self.kind == "hub" else sum(size for _, size, _ in self.stamp)

    @property
    def digest(self) -> str:
        """The hash of all that was read; names and places of the files do not matter."""
        return hashlib.sha256("".join(digest for _, _, digest in self.listing).encode()).hexdigest()

    def units(self) -> Iterator[Unit]:
        """All of its units, in order."""
        self.listing = []
        if self.kind == "hub":
            yield from self._hub()
        elif self.kind == "python":
            yield from self._packed("python")
        elif self.kind == "text" and self.options.documents == "file":
            yield from self._packed("file")
        else:
            read = self._lines if self.kind in ("text", "jsonl") else self._table
            for path in self.paths:
                yield from read(path)

    def _lines(self, path: str) -> Iterator[Unit]:
        kind: Any = "jsonl" if self.kind == "jsonl" else self.options.documents
        with Stream(path) as stream:
            for first, block, cut in blocks(stream, kind):
                yield Unit(self.index, kind, path, first, block, stream.progress(), cut)
            self.listing.append((path, *stream.finish()))

    def _packed(self, kind: Literal["file", "python"]) -> Iterator[Unit]:
        pack: list[tuple[str, bytes]] = []
        size = progress = 0
        for path in self.paths:
            with Stream(path) as stream:
                content = stream.read(LONGEST_FILE)
                if stream.read(1):
                    limit = f"{LONGEST_FILE >> 20} MB"
                    raise ValueError(
                        f"{path} is one document of more than {limit}: split it, or use documents=blank_line"
                    )
                progress += stream.progress()
                self.listing.append((path, *stream.finish()))
            pack.append((path, content))
            size += len(content)
            if size >= streams.BLOCK:
                yield Unit(self.index, kind, pack[0][0], 1, tuple(pack), progress)
                pack, size, progress = [], 0, 0
        if pack:
            yield Unit(self.index, kind, pack[0][0], 1, tuple(pack), progress)

    def _table(self, path: str) -> Iterator[Unit]:
        with Stream(path, plain=True) as stream:  # a first pass for the hash: Arrow reads where it likes
            size, digest = stream.finish()
        columns = (parquet_columns if self.kind == "parquet" else arrow_columns)(path, self.options.field)
        for first, payload, progress in units_of_columns(columns):
            yield Unit(self.index, "table", path, first, payload, progress)
        self.listing.append((path, size, digest))

    def _hub(self) -> Iterator[Unit]:
        hashed, size = hashlib.sha256(), 0
        for first, payload, progress in units_of_columns(hub_columns(self.name, self.options.field)):
            hashed.update(payload)
            size += len(payload)
            yield Unit(self.index, "table", self.name, first, payload, progress)
        self.listing.append((self.name, size, hashed.hexdigest()))


def find_sources(options: SourceOptions) -> list[Source]:
    """One source for each input, in the order given."""
    if not options.input:
        raise ValueError("no input: give --input=PATH, a pattern, hub:NAME or python-docs")
    if len(set(options.input)) < len(options.input):
        twice = next(name for name in options.input if options.input.count(name) > 1)
        raise ValueError(f"input {twice!r} is given twice")
    return [Source(index, name, options) for index, name in enumerate(options.input)]


def still_the_same(sources: Sequence[Source], digests: Sequence[str], out: str) -> None:
    """Reads everything to see whether it is what `out` was made from; an error names what is not.

    Except for python-docs: that changes whenever a package is installed, and nobody changed it on purpose.
    """
    for source, before in zip(sources, digests, strict=True):
        for _ in source.units():
            pass
        if source.digest == before:
            continue
        if source.kind != "python":
            raise ValueError(
                f"out={out} was made before {source.name} changed: choose another out, or remove that one"
            )
        print(f"{out} was made from {source.name} as it was then; other packages are installed now")


def _find(name: str, options: SourceOptions) -> tuple[str, list[str]]:
    """What kind of input this is and the files it consists of."""
    head, colon, tail = name.partition(":")
    if head == "python-docs":
        return "python", python_files(tail if colon else None)
    if head == "hub" and colon:
        return "hub", []
    paths = [name] if os.path.exists(name) else glob.glob(name, recursive=True)
    files = sorted(path for path in paths if not os.path.isdir(path))
    if not files:
        if paths:
            raise ValueError(
                f"input {name!r} is a folder: give its files, as {os.path.join(name, '*.txt')!r}"
            )
        near = _nearest(name)
        hint = f"did you mean {near!r}?" if near else "a data set of the hub is written hub:NAME"
        raise ValueError(f"input {name!r} matches no file: {hint}")
    formats = {path: options.format or _format(path) for path in files}
    if len(set(formats.values())) > 1:
        some = sorted(set(formats.values()))
        raise ValueError(
            f"input {name!r} matches files of several formats ({', '.join(some)}): give one pattern for each"
        )
    kind = formats[files[0]]
    if kind in ("parquet", "arrow") and (packed := [path for path in files if path.endswith(COMPRESSIONS)]):
        raise ValueError(f"{packed[0]}: a compressed {kind} file cannot be read: decompress it first")
    return kind, files


def _stamp(path: str) -> tuple[str, int, int]:
    try:
        stat = os.stat(path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    return path, stat.st_size, stat.st_mtime_ns


def _format(path: str) -> Format:
    plain = path
    for compression in COMPRESSIONS:
        plain = plain.removesuffix(compression)
    extension = os.path.splitext(plain)[1].lower()
    if extension not in _EXTENSIONS:
        legal = ", ".join(_EXTENSIONS)
        raise ValueError(
            f"{path}: unknown extension {extension!r} (known: {legal}): say what it is with --format=text"
        )
    return _EXTENSIONS[extension]


def _nearest(name: str) -> str | None:
    """The file in the same folder whose name is most alike."""
    folder, base = os.path.split(name)
    if not os.path.isdir(folder or ".") or re.search(r"[*?\[]", base):
        return None
    found = re.match(r"did you mean '(.*)'\?", suggest(base, sorted(os.listdir(folder or "."))))
    return os.path.join(folder, found[1]) if found else None
