"""Reading files in blocks: hashed, decompressed, cut where a document ends; tables as runs of their text."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, Self, cast

from bertjax.settings import suggest

__all__ = [
    "BLOCK",
    "COMPRESSIONS",
    "Stream",
    "arrow_columns",
    "blocks",
    "hub_columns",
    "parquet_columns",
    "units_of_columns",
]

BLOCK = 1 << 20  # bytes of a unit: small enough that the last ones keep all workers busy
LONGEST_DOCUMENT = 1 << 24  # bytes of running text after which a document goes on as another one
LONGEST_LINE = 1 << 28  # bytes of a line of JSON
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")

_EMPTY_LINE = re.compile(rb".*\n[ \t\r]*\n", re.DOTALL)


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is read."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file = open(path, "rb", buffering=0)  # noqa: SIM115 (closed with the stream)
        self.hash, self.position = hashlib.sha256(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self.file.readinto(buffer) or 0
        self.hash.update(memoryview(buffer)[:size])
        self.position += size
        return size

    def close(self) -> None:
        self.file.close()
        super().close()


class Stream:
    """The decompressed contents of a file, with the size and sha256 of the file itself."""

    def __init__(self, path: str, *, plain: bool = False) -> None:
        self.path = path
        try:
            self._raw = _Hashing(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
        self._read = self._raw.read if plain else self._decompressor()
        self._reported = 0

    def _decompressor(self) -> Callable[[int], bytes]:
        extension = os.path.splitext(self.path)[1]
        if extension == ".gz":
            return gzip.GzipFile(fileobj=self._raw, mode="rb").read
        if extension == ".bz2":
            return bz2.BZ2File(self._raw).read
        if extension == ".xz":
            return lzma.LZMAFile(cast(Any, self._raw)).read
        if extension == ".zst":
            import pyarrow as pa

            return pa.CompressedInputStream(pa.PythonFile(self._raw, mode="r"), "zstd").read
        return self._raw.read

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        parts = []
        while size > 0:
            try:
                part = self._read(size)
            except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
                why = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise ValueError(
                    f"{self.path} is damaged or ends early ({why}): fetch or write it again"
                ) from None
            if not part:
                break
            parts.append(part)
            size -= len(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def progress(self) -> int:
        """Bytes of the file read since the last call."""
        new, self._reported = self._raw.position - self._reported, self._raw.position
        return new

    def finish(self) -> tuple[int, str]:
        """Size and sha256 of the whole file, reading what is left of it."""
        while self._raw.read(BLOCK):
            pass
        return self._raw.position, self._raw.hash.hexdigest()


# ------------------------------------------------------------------------------------- runs of lines


def blocks(stream: Stream, kind: str) -> Iterator[tuple[int, bytes, bool]]:
    """(number of the first line, whole documents, whether the last one goes on), block by block."""
    rest, line = b"", 1
    while data := stream.read(BLOCK):
        block = rest + data
        end, cut = _last_boundary(block, kind), False
        if not end:
            if kind == "jsonl" and len(block) > LONGEST_LINE:
                limit = f"{LONGEST_LINE >> 20} MB"
                raise ValueError(
                    f"{stream.path} line {line} is longer than {limit}: is it JSON lines, one object a line?"
                )
            if kind == "jsonl" or len(block) < LONGEST_DOCUMENT:
                rest = block
                continue
            end, cut = _forced_boundary(block), True
        yield line, block[:end], cut
        line += block.count(b"\n", 0, end)
        rest = block[end:]
    if rest:
        yield line, rest, False


def _last_boundary(block: bytes, kind: str) -> int:
    if kind != "blank_line":
        return block.rfind(b"\n") + 1
    found = _EMPTY_LINE.match(block)
    return found.end() if found else 0


def _forced_boundary(block: bytes) -> int:
    """Where to cut a document that has become too long; something always remains to go on with."""
    for boundary in (b"\n", b" "):
        if end := block.rfind(boundary, 0, -1) + 1:
            return end
    end = len(block) - 1
    while end > 1 and block[end] & 0xC0 == 0x80:  # never inside a character
        end -= 1
    return end


# ------------------------------------------------------------------------------------- tables


def units_of_columns(columns: Iterator[tuple[Any, int]]) -> Iterator[tuple[int, bytes, int]]:
    """(number of the first row, an Arrow stream of the text, progress): runs of rows that fill a unit."""
    import pyarrow as pa

    def serialise(gathered: list[Any]) -> bytes:
        sink = pa.BufferOutputStream()
        batch = pa.RecordBatch.from_arrays([pa.concat_arrays(gathered)], ["text"])
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    gathered: list[Any] = []
    row, size, progress = 1, 0, 0
    for column, advance in columns:
        progress += advance
        step = max(1, min(64, BLOCK * len(column) // max(column.nbytes, 1)))
        for start in range(0, len(column), step):
            gathered.append(column.slice(start, step))
            size += gathered[-1].nbytes
            if size >= BLOCK:
                yield row, serialise(gathered), progress
                row += sum(map(len, gathered))
                gathered, size, progress = [], 0, 0
    if gathered:
        yield row, serialise(gathered), progress


def _text(column: Any, name: str, field: str) -> Any:
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise ValueError(f"{name}: column {field!r} holds {kind}, not text: choose another with --field")
    return column.cast(pa.large_string())


def _check_field(name: str, field: str, columns: list[str]) -> None:
    if field not in columns:
        raise ValueError(f"{name} has no column {field!r}: {suggest(field, columns)}")


def parquet_columns(path: str, field: str) -> Iterator[tuple[Any, int]]:
    """The text column of a parquet file in pieces of about a unit, and how much of the file each is."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            _check_field(path, field, file.schema_arrow.names)
            rows, size = file.metadata.num_rows, os.path.getsize(path)
            text = sum(
                column.total_uncompressed_size
                for group in map(file.metadata.row_group, range(file.num_row_groups))
                for column in map(group.column, range(group.num_columns))
                if column.path_in_schema == field
            )
            step = max(1, min(4096, BLOCK * rows // max(text, 1)))
            for batch in file.iter_batches(step, columns=[field]):
                yield _text(batch.column(0), path, field), size * len(batch) // rows
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole parquet file ({why}): fetch or write it again") from None


def arrow_columns(path: str, field: str) -> Iterator[tuple[Any, int]]:
    """The text column of an Arrow file, stream or file format, a record batch at a time."""
    import pyarrow as pa

    try:
        with pa.memory_map(path) as mapped:
            if mapped.read(6) == b"ARROW1":
                file = pa.ipc.open_file(mapped)
                batches = (file.get_batch(number) for number in range(file.num_record_batches))
                names = file.schema.names
            else:
                mapped.seek(0)
                batches = pa.ipc.open_stream(mapped)
                names = batches.schema.names
            _check_field(path, field, names)
            for batch in batches:
                yield _text(batch.column(field), path, field), batch.nbytes
    except (pa.ArrowInvalid, OSError) as error:
        why = str(error).splitlines()[0]
        raise ValueError(f"{path} is not a whole Arrow file ({why}): fetch or write it again") from None


def hub_columns(name: str, field: str) -> Iterator[tuple[Any, int]]:
    """The text column of hub:NAME[@CONFIG][:SPLIT], streamed."""
    import datasets

    found = re.fullmatch(r"hub:([^:@]+)(?:@([^:@]+))?(?::([^:@]+))?", name)
    if not found:
        raise ValueError(f"input {name!r} is not of the form hub:NAME[@CONFIG][:SPLIT]")
    dataset, config, split = found[1], found[2], found[3] or "train"
    try:
        stream = datasets.load_dataset(dataset, config, split=split, streaming=True)
        for table in stream.with_format("arrow").iter(batch_size=256):
            _check_field(name, field, table.column_names)
            column = _text(table.column(field), name, field)
            yield column, column.nbytes
    except ValueError as error:
        raise ValueError(f"{name}: {str(error).splitlines()[0]}") from None
    except Exception as error:  # the library raises whatever its back ends raise
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(f"{name} cannot be read ({why}): check its name and the network") from None
