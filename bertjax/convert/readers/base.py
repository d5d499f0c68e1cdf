"""What every reader of foreign weights is: names with shape and dtype, and the numbers of one at a time.

Opening reads what describes the tensors and checks it against the size of the file; `read` brings in one
tensor, so memory is bounded by the largest. Whatever is wrong with a file, the answer is a ValueError of one
line that names the file: no reader trusts a length that the file claims before it has compared it with the
bytes that are there.
"""

import abc
import contextlib
import dataclasses
import math
import os
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, Self

import numpy as np

__all__ = ["Entry", "Weights", "bad_file", "open_file", "quoted", "read_array", "shape_of"]

LONGEST = 80  # characters of a foreign name that an error shows
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxlist = 2, 32  # a shape is shown whole
POINTER = b"version https://git-lfs.github.com"


@dataclasses.dataclass(frozen=True)
class Entry:
    """What is known of a tensor before it is read."""

    shape: tuple[int, ...]
    dtype: np.dtype


class Weights(Mapping[str, Entry], abc.ABC):
    """The tensors of a model: a mapping from names to entries; `read` gives the numbers of one."""

    kind: str  # safetensors, pytorch, tensorflow

    def __init__(self, path: str, entries: dict[str, Entry]) -> None:
        self.path, self._entries = path, entries
        self.held = contextlib.ExitStack()  # what is given back when the weights are closed

    @abc.abstractmethod
    def read(self, name: str) -> np.ndarray:
        """The tensor in the shape and dtype of its entry; bfloat16 is that of ml_dtypes."""

    def close(self) -> None:
        """Gives back what the reader holds: files that were unpacked for it."""
        self.held.close()

    def __getitem__(self, name: str) -> Entry:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def bad_file(path: str, why: str, fix: str = "fetch it again") -> ValueError:
    """The error for a file that is not what it should be."""
    return ValueError(f"{path} {why}: {fix}")


def quoted(name: Any) -> str:
    """A name out of a foreign file, on one line and not too long."""
    text = repr(name[: 2 * LONGEST]) if isinstance(name, str | bytes) else _SHORT.repr(name)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def open_file(path: str) -> tuple[BinaryIO, int]:
    """The opened file and its size; a pointer that Git left in its place is told apart."""
    try:
        file = open(path, "rb")  # noqa: SIM115  the caller closes it
    except OSError as error:
        raise bad_file(path, f"cannot be read ({error.strerror})", "is the name right?") from None
    size = os.fstat(file.fileno()).st_size
    if file.read(len(POINTER)) == POINTER:
        file.close()
        raise bad_file(path, "is a Git LFS pointer, not the weights", "run git lfs pull there")
    file.seek(0)
    return file, size


def read_array(path: str, entry: Entry, offset: int) -> np.ndarray:
    """A tensor that lies in one piece at `offset`."""
    count = math.prod(entry.shape)
    file, size = open_file(path)
    with file:
        if offset + count * entry.dtype.itemsize > size:
            raise bad_file(path, "became shorter while it was read")
        # ml_dtypes have no file reader of their own
        data = np.fromfile(file, np.uint8, count * entry.dtype.itemsize, offset=offset)
    if data.size != count * entry.dtype.itemsize:
        raise bad_file(path, "became shorter while it was read")
    return data.view(entry.dtype).reshape(entry.shape)


def shape_of(sizes: Any) -> tuple[int, ...] | None:
    """The shape that a file claims; None where it is none, or none that numpy could have."""
    if not isinstance(sizes, list | tuple) or len(sizes) > 32:
        return None
    if any(type(size) is not int or not 0 <= size < 1 << 48 for size in sizes):
        return None
    shape = tuple(sizes)
    # numpy counts what is left of an empty array's other dimensions, too
    return shape if math.prod(size for size in shape if size) < 1 << 56 else None
