"""What `torch.save` wrote, read without PyTorch and without running anything.

Both formats are a pickle that describes the tensors, and their storages as plain bytes:

zip      (since 1.6) NAME/data.pkl, NAME/data/KEY for each storage, NAME/byteorder; nothing is compressed
stream   (before) four pickles one after another, magic number, protocol, machine, the object; a fifth with the
         keys of the storages; then each storage with its number of elements in eight bytes before it

A tensor is a view of a storage: offset, sizes, strides. The pickle is read by `pickles`, whose table of names
is below: what rebuilds tensors becomes a `View`, each other name is refused.
"""

import dataclasses
import math
import mmap
import zlib
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from bertjax.convert.readers.archive import is_zip, open_zip, read_entry, stored_at
from bertjax.convert.readers.base import Entry, Weights, bad_file, open_file, quoted, shape_of
from bertjax.convert.readers.pickles import Broken, Named, Unwanted, pairs_to_dict, read_pickle

__all__ = ["PyTorch"]

PICKLE_LIMIT = 1 << 28  # bytes of the description; that of a model with 10,000 tensors has 2 million
EXPANDED_LIMIT = 1 << 26  # bytes to which a tensor with repeated rows may grow past its storage
MAGIC = 0x1950A86A20F9469CFC6C

DTYPES = {
    "Double": np.dtype("<f8"),
    "Float": np.dtype("<f4"),
    "Half": np.dtype("<f2"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype(np.bool_),
}


@dataclasses.dataclass(frozen=True)
class Storage:
    """A run of numbers that tensors are views of: its first and number of elements within what `key` names."""

    key: str
    dtype: np.dtype
    count: int
    first: int = 0


@dataclasses.dataclass(frozen=True)
class View:
    """A tensor: which elements of a storage."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def reach(self) -> int:
        """One past the last element that it uses."""
        if 0 in self.shape:
            return 0
        steps = ((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        return self.offset + sum(steps) + 1

    @property
    def entry(self) -> Entry:
        return Entry(self.shape, self.storage.dtype)


@dataclasses.dataclass(frozen=True)
class Span:
    """Where in the file a storage lies, and its checksum if there is one."""

    start: int
    size: int
    crc32: int | None = None


class PyTorch(Weights):
    """A file of `torch.save` with a state dict: names to tensors."""

    kind = "pytorch"

    def __init__(self, path: str) -> None:
        try:
            self._swapped, described, self._spans = _read_zip(path) if is_zip(path) else _read_stream(path)
        except Unwanted as error:
            hint = "it may run code when PyTorch opens it; save only model.state_dict(), best as safetensors"
            raise bad_file(path, f"wants {quoted(str(error))[1:-1]}, which no weights need", hint) from None
        except Broken as error:
            raise bad_file(path, str(error)) from None
        self._views = _views(path, described)
        for name, view in self._views.items():
            if view.reach > view.storage.count:
                what = f"{quoted(name)} reaches past the end of its storage"
                raise bad_file(path, f"is broken: {what}, {view.reach:,} of {view.storage.count:,} elements")
            span = self._spans.get(view.storage.key)
            width = view.storage.dtype.itemsize
            if span is None or (view.storage.first + view.storage.count) * width > span.size:
                has = "nothing" if span is None else f"{span.size:,} bytes"
                what = f"{view.storage.count:,} elements of {width} bytes, but there is {has}"
                raise bad_file(path, f"is broken: the storage of {quoted(name)} has {what}")
            size = math.prod(view.shape) * width
            if size > max(span.size, EXPANDED_LIMIT):
                what = f"{quoted(name)} repeats {span.size:,} bytes until they are {size:,}"
                raise bad_file(path, f"is broken: {what}", "save a tensor of its own for it")
        self._verified: set[str] = set()
        super().__init__(path, {name: view.entry for name, view in self._views.items()})

    def read(self, name: str) -> np.ndarray:
        view = self._views[name]
        span, dtype = self._spans[view.storage.key], view.storage.dtype
        if 0 in view.shape:
            return np.zeros(view.shape, dtype)
        self._verify(view.storage.key, span)
        first = view.storage.first + view.offset
        start = span.start + first * dtype.itemsize
        file, _ = open_file(self.path)
        with file:
            data = np.fromfile(file, np.uint8, (view.reach - view.offset) * dtype.itemsize, offset=start)
        if data.size != (view.reach - view.offset) * dtype.itemsize:
            raise bad_file(self.path, "became shorter while it was read")
        if self._swapped:
            data = np.ascontiguousarray(data.reshape(-1, dtype.itemsize)[:, ::-1]).reshape(-1)
        steps = tuple(stride * dtype.itemsize for stride in view.strides)
        return np.ascontiguousarray(
            np.lib.stride_tricks.as_strided(data.view(dtype), view.shape, steps)
        ).reshape(view.shape)

    def _verify(self, key: str, span: Span) -> None:
        """Compares a storage with its checksum, once."""
        if span.crc32 is None or key in self._verified:
            return
        found, left = 0, span.size
        file, _ = open_file(self.path)
        with file:
            file.seek(span.start)
            while left and (piece := file.read(min(left, 1 << 20))):
                found, left = zlib.crc32(piece, found), left - len(piece)
        if left or found != span.crc32:
            raise bad_file(self.path, f"is damaged: the checksum of storage {quoted(key)} differs")
        self._verified.add(key)


# ------------------------------------------------------------------------------------- the two formats


def _read_zip(path: str) -> tuple[bool, Any, dict[str, Span]]:
    """(whether bytes are swapped, the object, where its storages are)."""
    archive, entries = open_zip(path)
    with archive:
        pickled = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise bad_file(
                path, "is a zip, but none that torch.save wrote (it has no data.pkl)", "is the name right?"
            )
        top = pickled[0].removesuffix("data.pkl")
        if f"{top}constants.pkl" in entries:
            raise bad_file(
                path, "is a TorchScript program, not weights", "save model.state_dict() with torch.save"
            )
        order = b"little"
        if f"{top}byteorder" in entries:
            order = read_entry(path, archive, entries[f"{top}byteorder"], 64)
        if order not in (b"little", b"big"):
            raise bad_file(path, f"has the unknown byte order {quoted(order)}")
        spans = {}
        for name, entry in entries.items():
            if name.startswith(f"{top}data/"):
                start = stored_at(path, archive, entry)
                spans[name.removeprefix(f"{top}data/")] = Span(start, entry.file_size, entry.CRC)
        content = read_entry(path, archive, entries[pickled[0]], PICKLE_LIMIT)
    value, _ = read_pickle(content, 0, NAMES, lambda identity: _part(_storage(identity), identity))
    return order == b"big", value, spans


def _read_stream(path: str) -> tuple[bool, Any, dict[str, Span]]:
    """The same of the format before zip; storages were always written with the low byte first."""
    file, size = open_file(path)
    with file:
        if not size:
            raise bad_file(path, "is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                magic, position = read_pickle(data, 0, {})
            except Broken:
                magic = None
            if magic != MAGIC:
                raise bad_file(path, "was not written by torch.save", "is it of another framework?")
            for _ in range(2):  # protocol and machine
                _, position = read_pickle(data, position, {})
            storages: dict[str, Storage] = {}

            def storage(identity: Any) -> Storage:
                found = _storage(identity)
                whole = storages.setdefault(found.key, dataclasses.replace(found, first=0))
                if found.count == whole.count and found.dtype.itemsize == whole.dtype.itemsize:
                    return _part(found, identity)
                raise Broken(f"describes storage {quoted(found.key)} in two ways")

            value, position = read_pickle(data, position, NAMES, storage)
            keys, position = read_pickle(data, position, {})
            named = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
            if not named or sorted(keys) != sorted(storages):
                raise Broken("does not hold the storages that it describes")
            spans = {}
            for key in keys:
                count = int.from_bytes(data[position : position + 8], "little")
                if count != storages[key].count:
                    raise Broken(
                        f"has {count:,} elements in storage {quoted(key)}, not {storages[key].count:,}"
                    )
                length = count * storages[key].dtype.itemsize
                if position + 8 + length > size:
                    raise Broken(f"is cut off inside storage {quoted(key)}")
                spans[key] = Span(position + 8, length)
                position += 8 + length
            if position != size:
                raise Broken(f"has {size - position:,} bytes after its last storage")
    return False, value, spans


# ------------------------------------------------------------------------------------- what a pickle may name


def _is_size(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 1 << 48 for value in values)


def _storage(identity: Any) -> Storage:
    """The storage of a persistent id: ("storage", type, key, device, number of elements, part)."""
    if isinstance(identity, tuple) and identity[:1] == ("module",):
        raise Unwanted("a pickled class")
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Broken("refers to something that is no storage")
    kind, key, _, count = identity[1:5]
    if not isinstance(kind, Named) or not isinstance(kind.value, np.dtype) or not isinstance(key, str):
        raise Broken("describes a storage without type or key")
    if not _is_size(count):
        raise Broken(f"describes storage {quoted(key)} with a size that is none")
    return Storage(key, kind.value, count)


def _part(storage: Storage, identity: tuple[Any, ...]) -> Storage:
    """The part of a storage that the sixth item of an id says, if there is one: (key, first element, elements)."""
    part = identity[5] if len(identity) == 6 else None
    if part is None:
        return storage
    if not isinstance(part, tuple) or len(part) != 3 or not _is_size(*part[1:]):
        raise Broken(f"describes a part of storage {quoted(storage.key)} that is none")
    first, count = part[1:]
    if first + count > storage.count:
        raise Broken(f"describes a part of storage {quoted(storage.key)} past its end")
    return dataclasses.replace(storage, first=first, count=count)


def _tensor(storage: Any, offset: Any, sizes: Any, strides: Any, *more: Any) -> View:
    """torch._utils._rebuild_tensor, and _v2, which has three or four things more to say."""
    shape, steps = shape_of(sizes), shape_of(strides)
    if not isinstance(storage, Storage) or shape is None or steps is None or len(shape) != len(steps):
        raise Broken("describes a tensor without storage, shape or strides")
    if not _is_size(offset):
        raise Broken("describes a tensor that begins nowhere")
    if len(more) > 3 or (len(more) == 3 and more[2]):
        raise Broken("describes a tensor with conjugate or negative bits")
    return View(storage, offset, shape, steps)


def _tensor_v2(
    storage: Any, offset: Any, sizes: Any, strides: Any, grad: Any, hooks: Any, flags: Any = None
) -> View:
    return _tensor(storage, offset, sizes, strides, grad, hooks, flags)


def _parameter(tensor: Any, grad: Any, hooks: Any) -> View:
    if not isinstance(tensor, View):
        raise Broken("describes a parameter that is no tensor")
    return tensor


def _ordered_dict(pairs: Any = ()) -> dict[Any, Any]:
    return pairs_to_dict([tuple(pair) for pair in pairs])


def _table() -> dict[str, Named]:
    made: dict[str, Callable[..., Any]] = {
        "collections.OrderedDict": _ordered_dict,
        "torch._utils._rebuild_tensor": _tensor,
        "torch._utils._rebuild_tensor_v2": _tensor_v2,
        "torch._utils._rebuild_parameter": _parameter,
    }
    found = {name: Named(name, make=make) for name, make in made.items()}
    for storage, dtype in DTYPES.items():
        for module in ("torch", "torch.cuda"):
            found[f"{module}.{storage}Storage"] = Named(f"{module}.{storage}Storage", dtype)
    return found


NAMES = _table()


def _views(path: str, described: Any) -> dict[str, View]:
    """The tensors by name, if that is what the object is."""
    if not isinstance(described, dict) or not described:
        what = "nothing" if described == {} else f"a {type(described).__name__}"
        raise bad_file(path, f"holds {what}, not tensors by name", "save model.state_dict()")
    for name, value in described.items():
        if not isinstance(name, str) or not isinstance(value, View):
            what = f"{quoted(name) if isinstance(name, str) else 'a number'}: {type(value).__name__}"
            hint = "is it a training checkpoint? save only model.state_dict()"
            raise bad_file(path, f"holds more than tensors by name ({what})", hint)
    return described
