"""Writes TensorFlow's checkpoint format as its description says, sharing nothing with the reader."""

import pathlib
import struct
from collections.abc import Mapping, Sequence

import numpy as np

DTYPES = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10, "bfloat16": 14,
    "uint16": 17, "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
MAGIC = 0xDB4775248B80FB57


def checksum(data: bytes) -> int:
    """CRC-32C bit by bit, masked."""
    state = 0xFFFFFFFF
    for byte in data:
        state ^= byte
        for _ in range(8):
            state = (state >> 1) ^ (0x82F63B78 * (state & 1))
    state ^= 0xFFFFFFFF
    return ((state >> 15) + (state << 17) + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    value %= 2**64
    pieces = []
    while value >= 128:
        pieces.append(value % 128 + 128)
        value //= 128
    return bytes([*pieces, value])


def field(number: int, value: int | bytes) -> bytes:
    """A number or a nested message of protobuf."""
    if isinstance(value, bytes):
        return varint(number * 8 + 2) + varint(len(value)) + value
    return varint(number * 8) + varint(value)


def block(entries: Sequence[tuple[bytes, bytes]], restart: int) -> bytes:
    """Keys without what they share with the one before; each `restart`th stands whole, and the end says where."""
    content, restarts, last = b"", [], b""
    for number, (key, value) in enumerate(entries):
        shared = 0
        if number % restart == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(key), len(last)) and key[shared] == last[shared]:
                shared += 1
        content += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        last = key
    return content + struct.pack(f"<{len(restarts) + 1}I", *restarts, len(restarts))


def table(entries: Sequence[tuple[bytes, bytes]], *, per_block: int = 5, compression: int = 0) -> bytes:
    content, handles = b"", []

    def add(piece: bytes, kind: int = 0) -> bytes:
        nonlocal content
        handle = varint(len(content)) + varint(len(piece))
        content += piece + bytes([kind]) + struct.pack("<I", checksum(piece + bytes([kind])))
        return handle

    for start in range(0, len(entries), per_block):
        some = entries[start : start + per_block]
        handles.append((some[-1][0], add(block(some, 3), compression)))
    described = add(block([], 1))
    footer = described + add(block(handles, 1))
    return content + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def entry(array: np.ndarray, shard: int, offset: int, data: bytes) -> bytes:
    shape = b"".join(field(2, field(1, size) if size else b"") for size in array.shape)
    numbers = [(1, DTYPES[array.dtype.name]), (2, shape), (3, shard), (4, offset), (5, len(data))]
    fields = b"".join(field(number, value) for number, value in numbers if value != 0)
    return fields + varint(6 * 8 + 5) + struct.pack("<I", checksum(data))


def header(shards: int, *, high_first: bool = False) -> bytes:
    return field(1, shards) + (field(2, 1) if high_first else b"") + field(3, field(1, 1))


def write(prefix: pathlib.Path, arrays: Mapping[str, np.ndarray], *, shards: int = 1) -> None:
    """A checkpoint: NAME.index and NAME.data-..."""
    files = [b""] * shards
    entries = [(b"", header(shards))]
    for number, name in enumerate(sorted(arrays)):
        shard, data = number % shards, arrays[name].tobytes()
        entries.append((name.encode(), entry(arrays[name], shard, len(files[shard]), data)))
        files[shard] += data
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries))
    for shard, content in enumerate(files):
        prefix.with_name(f"{prefix.name}.data-{shard:05d}-of-{shards:05d}").write_bytes(content)
