"""TensorFlow's checkpoints (V2, the "tensor bundle"), as Google published BERT, ALBERT and ELECTRA, without TensorFlow.

    NAME.index                  a sorted table: tensor -> dtype, shape, file, offset, size, checksum
    NAME.data-0000I-of-0000N    the tensors as plain bytes

The table is LevelDB's. Its last 48 bytes hold two handles (offset, size) as varints and a magic number. The second
points to the index block, whose values are handles of the data blocks. In a block each key says how many bytes
it shares with the one before it; a byte for the compression and a masked CRC-32C follow the block. The value
of the empty key is a BundleHeaderProto, each other value a BundleEntryProto, both in protobuf's wire format.

Left out are tensors of text (a checkpoint's own description of its objects). Refused are compressed tables, which
TensorFlow can read but does not write, variables cut into slices, and files of machines with the high byte first.
"""

import dataclasses
import glob
import math
import os
import re
from collections.abc import Iterator

import ml_dtypes
import numpy as np

from bertjax.convert.readers.base import Entry, Weights, bad_file, open_file, quoted, read_array, shape_of
from bertjax.convert.readers.crc32c import crc32c, masked
from bertjax.data.wire import Cursor, Damaged, fields

__all__ = ["TensorFlow", "checkpoint_in"]

FOOTER, TRAILER = 48, 5  # bytes
MAGIC = 0xDB4775248B80FB57
INDEX_LIMIT = 1 << 28  # bytes of the table; that of BERT has 8,000
TEXT = 7

DTYPES = {
    1: np.dtype("<f4"),
    2: np.dtype("<f8"),
    3: np.dtype("<i4"),
    4: np.dtype("u1"),
    5: np.dtype("<i2"),
    6: np.dtype("i1"),
    9: np.dtype("<i8"),
    10: np.dtype(np.bool_),
    14: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype("<u2"),
    19: np.dtype("<f2"),
    22: np.dtype("<u4"),
    23: np.dtype("<u8"),
}


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a tensor lies, and the masked checksum of its bytes."""

    file: str
    offset: int
    checksum: int


class TensorFlow(Weights):
    """The checkpoint with this prefix: a path without .index and .data-..."""

    kind = "tensorflow"

    def __init__(self, prefix: str) -> None:
        path = f"{prefix}.index"
        file, size = open_file(path)
        with file:
            if size > INDEX_LIMIT:
                raise bad_file(path, f"has {size:,} bytes, too many for the index of a checkpoint")
            content = file.read()
        try:
            table = dict(_table(content))
            shards = _shards(table.pop(b"", b""))
            described = {key.decode(): _described(value) for key, value in table.items()}
        except (Damaged, UnicodeDecodeError) as error:
            reason = str(error) if isinstance(error, Damaged) else "a name is not UTF-8"
            raise bad_file(path, f"is no index of a checkpoint or a damaged one ({reason})") from None
        files = [f"{prefix}.data-{shard:05d}-of-{shards:05d}" for shard in range(shards)]
        lengths = {}
        for name in files:
            opened, lengths[name] = open_file(name)
            opened.close()
        entries, self._places = {}, {}
        for name, found in described.items():
            if found.dtype == TEXT:
                continue
            entries[name] = self._entry(path, name, found)
            if found.shard >= shards:
                raise bad_file(path, f"puts {quoted(name)} into file {found.shard} of {shards}")
            place = Place(files[found.shard], found.offset, found.checksum)
            if found.offset + found.size > lengths[place.file]:
                end = f"ends at {found.offset + found.size:,} of {lengths[place.file]:,} bytes"
                raise bad_file(place.file, f"is cut off: {quoted(name)} {end}")
            self._places[name] = place
        if not entries:
            raise bad_file(path, "holds no tensors of numbers", "is it the right checkpoint?")
        super().__init__(prefix, entries)

    @staticmethod
    def _entry(path: str, name: str, found: "Described") -> Entry:
        if found.sliced:
            hint = "restore it with TensorFlow and save it without a partitioner"
            raise bad_file(path, f"has {quoted(name)} in slices", hint)
        if found.dtype not in DTYPES:
            legal = ", ".join(dtype.name for dtype in DTYPES.values())
            raise bad_file(path, f"has {quoted(name)} in dtype {found.dtype}, which is not one of {legal}")
        shape, dtype = shape_of(found.shape), DTYPES[found.dtype]
        if shape is None:
            raise bad_file(path, f"is broken: {quoted(name)} has the shape {quoted(found.shape)}")
        if math.prod(shape) * dtype.itemsize != found.size:
            what = f"{quoted(name)}, {dtype} {quoted(list(shape))}, takes {found.size:,} bytes"
            raise bad_file(path, f"is broken: {what}, not {math.prod(shape) * dtype.itemsize:,}")
        return Entry(shape, dtype)

    def read(self, name: str) -> np.ndarray:
        place = self._places[name]
        array = read_array(place.file, self[name], place.offset)
        if masked(crc32c(array.reshape(-1).view(np.uint8))) != place.checksum:
            raise bad_file(place.file, f"is damaged: the checksum of {quoted(name)} differs")
        return array


def checkpoint_in(folder: str) -> str | None:
    """The prefix of the checkpoint in a folder; of several that which the file `checkpoint` names."""
    found = sorted(
        path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(folder), "*.index"))
    )
    if len(found) < 2:
        return found[0] if found else None
    note = os.path.join(folder, "checkpoint")
    content = b""
    if os.path.isfile(note):
        with open(note, "rb") as file:
            content = file.read(1 << 16)
    newest = re.search(rb'^model_checkpoint_path: "([^"]*)"', content, re.MULTILINE)
    prefix = os.path.join(folder, os.path.basename(newest[1].decode(errors="replace"))) if newest else ""
    if prefix not in found:
        listed = ", ".join(os.path.basename(name) for name in found[:5])
        raise ValueError(
            f"{folder} holds {len(found)} checkpoints ({listed}): name one of them, as {found[-1]}"
        )
    return prefix


# ------------------------------------------------------------------------------------- the table


def _table(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values of a table, in order."""
    if len(content) < FOOTER or int.from_bytes(content[-8:], "little") != MAGIC:
        raise Damaged("its last bytes are not those of a table")
    footer = Cursor(content[-FOOTER:-8])
    footer.varint(), footer.varint()  # the block of what a table says of itself, which here is nothing
    previous = b""
    for _, handle in _block(content, footer):
        for key, value in _block(content, Cursor(handle)):
            if previous and key <= previous:
                raise Damaged("its keys are not in order")
            previous = key
            yield key, value


def _block(content: bytes, handle: "Cursor") -> Iterator[tuple[bytes, bytes]]:
    offset, size = handle.varint(), handle.varint()
    if offset + size + TRAILER > len(content) - FOOTER:
        raise Damaged("a block lies past its end")
    data, trailer = content[offset : offset + size], content[offset + size : offset + size + TRAILER]
    if int.from_bytes(trailer[1:], "little") != masked(crc32c(data + trailer[:1])):
        raise Damaged("the checksum of a block differs")
    if trailer[0]:
        raise Damaged("it is compressed, which TensorFlow does not do")
    restarts = int.from_bytes(data[-4:], "little")
    if 4 * (restarts + 1) > size:
        raise Damaged("a block is too short")
    entries, key = Cursor(data[: size - 4 * (restarts + 1)]), b""
    while entries.left:
        shared, own, length = entries.varint(), entries.varint(), entries.varint()
        if shared > len(key):
            raise Damaged("a key shares more than there is")
        key = key[:shared] + entries.take(own)
        yield key, entries.take(length)


# ------------------------------------------------------------------------------------- what the values say


def _shards(content: bytes) -> int:
    """The number of data files that a BundleHeaderProto tells: 1 shards, 2 endianness, 3 version."""
    shards, high_first = 0, 0
    for number, value in fields(content):
        if number == 1 and isinstance(value, int):
            shards = value
        elif number == 2 and isinstance(value, int):
            high_first = value
    if high_first:
        raise Damaged("it was written with the high byte first")
    if not 0 < shards < 100_000:
        raise Damaged(f"it tells of {shards} data files")
    return shards


@dataclasses.dataclass(frozen=True)
class Described:
    """A BundleEntryProto: 1 dtype, 2 shape, 3 shard, 4 offset, 5 size, 6 checksum, 7 slices."""

    dtype: int
    shape: list[int]
    shard: int
    offset: int
    size: int
    checksum: int
    sliced: bool


def _described(content: bytes) -> Described:
    numbers = dict.fromkeys((1, 3, 4, 5, 6), 0)
    shape: list[int] = []
    sliced = False
    for number, value in fields(content):
        if number == 2 and isinstance(value, bytes):
            shape += _sizes(value)
        elif number == 7:
            sliced = True
        elif number in numbers and isinstance(value, int):
            numbers[number] = value
    dtype, shard, offset, size, checksum = numbers.values()
    return Described(dtype, shape, shard, offset, size, checksum, sliced)


def _sizes(content: bytes) -> Iterator[int]:
    """A TensorShapeProto: field 2 is a dimension, whose field 1 is its size."""
    for number, value in fields(content):
        if number == 2 and isinstance(value, bytes):
            sizes = [size for inner, size in fields(value) if inner == 1 and isinstance(size, int)]
            yield sizes[-1] if sizes else 0
        elif number == 3 and value:
            raise Damaged("a shape is unknown")
