"""Safetensors: eight bytes of header length, a JSON header, and the tensors without gaps in between.

    {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ..., "__metadata__": {...}}

The offsets count from the end of the header. The format is small enough to be read here: so each way in which
a file can be broken has an error of its own, and a machine that only converts needs one library less.
"""

import json
import math
from typing import Any

import ml_dtypes
import numpy as np

from bertjax.convert.readers.base import Entry, Weights, bad_file, open_file, quoted, read_array, shape_of

__all__ = ["Safetensors"]

HEADER_LIMIT = 100_000_000  # bytes; the format's own limit

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype("u1"), "U16": np.dtype("<u2"), "U32": np.dtype("<u4"), "U64": np.dtype("<u8"),
    "I8": np.dtype("i1"), "I16": np.dtype("<i2"), "I32": np.dtype("<i4"), "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"), "F32": np.dtype("<f4"), "F64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}  # fmt: skip


class Safetensors(Weights):
    """One .safetensors file."""

    kind = "safetensors"

    def __init__(self, path: str) -> None:
        file, size = open_file(path)
        with file:
            if size < 8:
                raise bad_file(path, f"has {size} bytes, too few for safetensors")
            length = int.from_bytes(file.read(8), "little")
            if length > min(size - 8, HEADER_LIMIT):
                raise bad_file(
                    path, f"claims a header of {length:,} bytes but has {size - 8:,} or is no safetensors"
                )
            header = _parse(path, file.read(length))
        header.pop("__metadata__", None)  # says which framework wrote it, which changes nothing
        self._start, body = 8 + length, size - 8 - length
        entries, self._offsets = {}, {}
        ranges = []
        for name, described in header.items():
            entry, (begin, end) = _entry(path, name, described)
            entries[name], self._offsets[name] = entry, begin
            ranges.append((begin, end, name))
        position = 0
        for begin, end, name in sorted(ranges):
            if begin != position:
                how = "overlaps the tensor before it" if begin < position else "leaves a gap before it"
                raise bad_file(
                    path, f"is broken: {quoted(name)} at {begin:,} {how}, which ends at {position:,}"
                )
            position = end
        if position != body:
            what = "is cut off" if body < position else "is longer than its tensors"
            raise bad_file(
                path, f"{what}: it has {body:,} bytes of tensors where its header says {position:,}"
            )
        super().__init__(path, entries)

    def read(self, name: str) -> np.ndarray:
        return read_array(self.path, self[name], self._start + self._offsets[name])


def _parse(path: str, content: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("a name stands there twice")
        return found

    try:
        header = json.loads(content, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # what is no UTF-8 is a ValueError, too
        raise bad_file(path, f"has no safetensors header ({str(error).splitlines()[0]})") from None
    if not isinstance(header, dict):
        raise bad_file(path, "has no safetensors header: it is not an object of names")
    return header


def _entry(path: str, name: str, described: Any) -> tuple[Entry, tuple[int, int]]:
    described = described if isinstance(described, dict) else {}
    dtype, shape, offsets = (described.get(key) for key in ("dtype", "shape", "data_offsets"))
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise bad_file(
            path, f"has {quoted(name)} in {quoted(dtype)}, which is not one of {', '.join(DTYPES)}",
            "convert it to a dtype that models compute in",
        )  # fmt: skip
    sizes = shape_of(shape)
    if sizes is None:
        raise bad_file(path, f"is broken: {quoted(name)} has the shape {quoted(shape)}")
    # One by one: as sizes of a shape, the offsets of a large file would make an impossible array.
    if not isinstance(offsets, list) or len(offsets) != 2 or any(shape_of([at]) is None for at in offsets):
        raise bad_file(path, f"is broken: {quoted(name)} has the offsets {quoted(offsets)}")
    begin, end = offsets
    if end - begin != math.prod(sizes) * DTYPES[dtype].itemsize:
        what = f"{quoted(name)}, {dtype} {quoted(list(sizes))}, takes {end - begin:,} bytes"
        raise bad_file(path, f"is broken: {what}, not {math.prod(sizes) * DTYPES[dtype].itemsize:,}")
    return Entry(sizes, DTYPES[dtype]), (begin, end)
