"""Writes what `torch.save` writes, byte by byte and without PyTorch, so that its reader is always tested."""

import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

STORAGES = {
    "float64": "Double", "float32": "Float", "float16": "Half", "bfloat16": "BFloat16", "int64": "Long",
    "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte", "bool": "Bool",
}  # fmt: skip


def samples() -> dict[str, np.ndarray]:
    """A tensor of each dtype, a scalar and an empty one."""
    draw = np.random.default_rng(0)
    found = {name: draw.integers(0, 2, (3, 2)).astype(name) for name in STORAGES if name != "bfloat16"}
    found["bfloat16"] = draw.standard_normal((5, 2)).astype(ml_dtypes.bfloat16)
    found["float32"] = draw.standard_normal((7, 3)).astype(np.float32)
    return found | {"scalar": np.full((), 2.5, np.float32), "empty": np.zeros((0, 3), np.float32)}


def push(value: Any) -> bytes:
    """The instructions that put a value on the stack, those of the second protocol."""
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    if isinstance(value, int):
        size = value.bit_length() // 8 + 1
        return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)
    if isinstance(value, str):
        return b"X" + struct.pack("<I", len(value.encode())) + value.encode()
    if isinstance(value, tuple | list):
        opened, closed = (b"(", b"t") if isinstance(value, tuple) else (b"](", b"e")
        return opened + b"".join(push(item) for item in value) + closed
    if isinstance(value, Mapping):
        return b"}(" + b"".join(push(key) + push(item) for key, item in value.items()) + b"u"
    assert isinstance(value, bytes), value  # instructions already
    return value


def named(full: str) -> bytes:
    """A function or class by name."""
    module, _, name = full.rpartition(".")
    return b"c" + f"{module}\n{name}\n".encode()


def call(full: str, *arguments: Any) -> bytes:
    return named(full) + push(arguments) + b"R"


def stored(dtype: str, key: str, count: int, *more: Any, kind: bytes | None = None) -> bytes:
    """A reference to a storage."""
    kind = named(f"torch.{STORAGES[dtype]}Storage") if kind is None else kind
    return push(("storage", kind, key, "cpu", count, *more)) + b"Q"


def tensor(storage: bytes, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> bytes:
    hooks = call("collections.OrderedDict")
    return call("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, hooks)


def whole(array: np.ndarray, key: str, *more: Any) -> bytes:
    """A tensor that is all of its storage."""
    strides = tuple(stride // array.itemsize for stride in array.strides)
    return tensor(stored(array.dtype.name, key, array.size, *more), 0, array.shape, strides)


def state_dict(tensors: Mapping[str, bytes]) -> bytes:
    """A pickle of an ordered dict with the attribute that modules leave there."""
    items = b"(" + b"".join(push(name) + made for name, made in tensors.items()) + b"u"
    return call("collections.OrderedDict") + items + push({"_metadata": {"": {"version": 1}}}) + b"b"


def program(instructions: bytes) -> bytes:
    return b"\x80\x02" + instructions + b"."


def write_zip(
    path: pathlib.Path, pickled: bytes, storages: Mapping[str, bytes], more: Mapping[str, bytes] | None = None
) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", program(pickled))
        for name, content in {"byteorder": b"little", **(more or {})}.items():
            archive.writestr(f"archive/{name}", content)
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)


def write_stream(path: pathlib.Path, pickled: bytes, storages: Mapping[str, tuple[int, bytes]]) -> None:
    """The format before zip; a storage is its number of elements and its bytes."""
    pickles = [push(0x1950A86A20F9469CFC6C), push(1001), push({"protocol_version": 1001}), pickled]
    content = b"".join(map(program, [*pickles, push(list(storages))]))
    for count, data in storages.values():
        content += struct.pack("<q", count) + data
    path.write_bytes(content)


def write(path: pathlib.Path, arrays: Mapping[str, np.ndarray], *, stream: bool) -> None:
    """A file with these tensors."""
    keys = {name: str(number) for number, name in enumerate(arrays)}
    more = (None,) if stream else ()
    pickled = state_dict({name: whole(array, keys[name], *more) for name, array in arrays.items()})
    if stream:
        write_stream(
            path, pickled, {keys[name]: (array.size, array.tobytes()) for name, array in arrays.items()}
        )
    else:
        write_zip(path, pickled, {keys[name]: array.tobytes() for name, array in arrays.items()})
