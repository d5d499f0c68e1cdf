"""Encoded records on disk, so that a second start of a large set does not tokenise them again.

    FOLDER/KEY/manifest.json     what was encoded, with what; sizes and checksums of the arrays
    FOLDER/KEY/N.bin             one array each, which is mapped into memory and read as batches need it

KEY is a digest of the records, the tokenizer, the length of rows, the settings of the task and the code that encodes:
whatever changes has a folder of its own, and an entry whose manifest says something else, or whose arrays are not
those that were written, is made anew. Old entries are never used for new records; they may be deleted at any time.

An entry is written chunk by chunk under another name, and gets its own when all of it is on the disk. Several
processes may make the same one at once: the first to end gives it its name, the others use that one.
"""

import contextlib
import dataclasses
import functools
import hashlib
import inspect
import json
import os
import pathlib
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.data import subword
from bertjax.data.files import finish
from bertjax.data.labelled import examples as examples_module
from bertjax.data.labelled import template
from bertjax.data.labelled.examples import Example, LabelledExamples, Shape, chunks, columns_of

__all__ = ["LEAST", "code_of", "open_or_make"]

LEAST = 10_000  # records of a split that is kept: fewer are encoded in a moment
MANIFEST, PARTIAL = "manifest.json", ".partial"
ABANDONED = 24 * 3600  # seconds after which what a killed process left is removed
BLOCK = 1 << 24  # bytes that are checked at a time


class DamagedError(Exception):
    """An entry that is not what was written."""


@functools.cache
def code_of(task: type) -> str:
    """A digest of the source of everything that makes examples of records for a kind of task."""
    modules = [cls.__module__ for cls in task.__mro__ if cls.__module__.startswith("bertjax.")]
    modules += [module.__name__ for module in (examples_module, template, subword)]
    total = hashlib.sha256()
    for name in sorted(set(modules)):
        total.update(inspect.getsource(sys.modules[name]).encode())
    return total.hexdigest()[:16]


def open_or_make(
    folder: str,
    key: Mapping[str, Any],
    make: Callable[[], Iterable[Example]],
    shape: Shape,
    *,
    kept: type | None,
) -> LabelledExamples:
    """The examples by this key, from the folder if they are there and whole; `kept` is what they have on the host."""
    told = json.loads(json.dumps(key, default=str, sort_keys=True))
    name = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:20]
    path = pathlib.Path(folder) / name
    try:
        if not path.is_dir():
            _write(path, told, make(), shape, kept)
        try:
            return _read(path, told, shape, kept)
        except DamagedError:
            _remove(path)
            _write(path, told, make(), shape, kept)
            return _read(path, told, shape, kept)
    except OSError as error:
        raise ValueError(
            f"data.cache={folder} cannot be used ({error.strerror or error}): make room, name another, or none"
        ) from None


# ---------------------------------------------------------------------------------------------- writing


class _File:
    """An array that grows on disk."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path, self.rows, self.crc = path, 0, 0
        self.kind: tuple[str, list[int]] | None = None
        self.file = path.open("wb")

    def append(self, values: np.ndarray) -> None:
        kind = values.dtype.str, list(values.shape[1:])
        assert self.kind in (None, kind), f"{self.kind} goes on as {kind}"
        self.kind = kind
        data = np.ascontiguousarray(values).tobytes()
        self.file.write(data)
        self.crc, self.rows = zlib.crc32(data, self.crc), self.rows + len(values)

    def close(self) -> dict[str, Any]:
        finish(self.file)
        dtype, inner = self.kind or ("<i8", [])
        return {"file": self.path.name, "dtype": dtype, "inner": inner, "rows": self.rows, "crc": self.crc}


def _write(
    path: pathlib.Path, key: Mapping[str, Any], examples: Iterable[Example], shape: Shape, kept: type | None
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    _clear(path.parent)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    temporary.mkdir()
    files: dict[str, _File] = {}
    try:

        def append(name: str, values: np.ndarray) -> None:
            if name not in files:
                files[name] = _File(temporary / f"{len(files)}.bin")
            files[name].append(values)

        for name, (dtype, inner) in columns_of(shape).items():
            append(name, np.zeros((0, *inner), dtype))
        for made, about in chunks(examples, shape):
            for name, values in made.items():
                append(name, values)
            for name, values in _flat(about, kept).items():
                append(name, values)
        manifest = {"key": key, "arrays": {name: file.close() for name, file in files.items()}}
        with (temporary / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            finish(file)
        try:
            os.rename(temporary, path)
        except OSError:
            if not path.is_dir():  # else another process was first, and has written the same
                raise
    finally:
        for one in files.values():
            one.file.close()
        shutil.rmtree(temporary, ignore_errors=True)


def _clear(folder: pathlib.Path) -> None:
    """Removes what killed processes left long ago."""
    for path in folder.glob(f"*{PARTIAL}"):
        with contextlib.suppress(FileNotFoundError):  # another process is as tidy
            if time.time() - path.stat().st_mtime > ABANDONED:
                shutil.rmtree(path, ignore_errors=True)


def _remove(path: pathlib.Path) -> None:
    """Takes an entry away, for all processes at once."""
    away = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    with contextlib.suppress(FileNotFoundError):  # another process has found the same
        os.rename(path, away)
        shutil.rmtree(away, ignore_errors=True)


# ---------------------------------------------------------------------------------------------- reading


def _read(path: pathlib.Path, key: Mapping[str, Any], shape: Shape, kept: type | None) -> LabelledExamples:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        told, arrays = manifest["key"], manifest["arrays"]
    except (ValueError, KeyError, FileNotFoundError, NotADirectoryError) as error:
        raise DamagedError(f"{path}: no manifest ({error})") from None
    if told != key:
        raise DamagedError(f"{path} is of other records, settings or code")
    columns = {name: _map(path, name, one) for name, one in arrays.items()}
    missing = columns_of(shape).keys() - columns.keys()
    if missing:
        raise DamagedError(f"{path} lacks {', '.join(missing)}")
    return LabelledExamples.of(columns, _Kept(columns, kept, len(columns["record"])), shape)


def _map(path: pathlib.Path, name: str, told: Mapping[str, Any]) -> np.ndarray:
    """An array as it lies on disk, checked to be what was written."""
    dtype, shape = np.dtype(told["dtype"]), (told["rows"], *told["inner"])
    file = path / told["file"]
    size = dtype.itemsize * int(np.prod(shape))
    if not file.is_file() or file.stat().st_size != size:
        raise DamagedError(f"{file} of {name} has another size than was written")
    if not size:
        return np.zeros(shape, dtype)
    data = np.memmap(file, np.uint8, "r")
    crc = 0
    for start in range(0, size, BLOCK):
        crc = zlib.crc32(data[start : start + BLOCK].tobytes(), crc)
    if crc != told["crc"]:
        raise DamagedError(f"{file} of {name} has another content than was written")
    return np.memmap(file, dtype, "r", shape=shape)


# ---------------------------------------------------------------------------------------------- what stays on the host


def _fields(kept: type | None) -> dict[str, bool]:
    """Names of its parts, and whether each is an array."""
    if kept is None:
        return {}
    if kept is np.ndarray:
        return {"": True}
    assert dataclasses.is_dataclass(kept), (
        f"{kept} is neither an array nor a dataclass of arrays and whole numbers"
    )
    found = {field.name: field.type is np.ndarray for field in dataclasses.fields(kept)}
    assert all(
        array or field.type is int
        for array, field in zip(found.values(), dataclasses.fields(kept), strict=True)
    )
    return found


def _flat(about: Sequence[Any], kept: type | None) -> dict[str, np.ndarray]:
    """What examples keep, as arrays."""
    wanted = type(None) if kept is None else kept
    assert all(isinstance(one, wanted) for one in about), (
        f"examples keep {type(about[0])}: name it in Task.kept"
    )
    found: dict[str, np.ndarray] = {}
    for name, array in _fields(kept).items():
        values = [one if name == "" else getattr(one, name) for one in about]
        if array:
            found[f"about {name}"] = np.concatenate(values)
            found[f"sizes {name}"] = np.array([len(value) for value in values], np.int64)
        else:
            found[f"about {name}"] = np.array(values, np.int64)
    return found


class _Kept(Sequence[Any]):
    """What examples keep, one at a time."""

    def __init__(self, columns: Mapping[str, np.ndarray], kept: type | None, size: int) -> None:
        self.kept, self.size, self.fields = kept, size, _fields(kept) if size else {}
        self.values = {name: columns[f"about {name}"] for name in self.fields}
        self.ends = {
            name: np.cumsum(columns[f"sizes {name}"], dtype=np.int64)
            for name, array in self.fields.items()
            if array
        }

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: Any) -> Any:
        if not -self.size <= index < self.size:
            raise IndexError(index)
        index %= self.size
        found: dict[str, Any] = {}
        for name, values in self.values.items():
            if name not in self.ends:
                found[name] = int(values[index])
                continue
            start = int(self.ends[name][index - 1]) if index else 0
            found[name] = np.asarray(values[start : int(self.ends[name][index])])
        if self.kept is None:
            return None
        return found[""] if self.kept is np.ndarray else self.kept(**found)
