"""Where predictions of a file go, and how a run that was interrupted goes on.

    OUTPUT             the answers, JSON lines, in the order of the input
    OUTPUT.progress    replaced behind each window: how far input and output are, a digest of the input up to there, and
                       what the answers are made by: model, tokenizer, pipeline and its options

A run that was killed goes on behind the last window that is noted. What stands in the output beyond it is cut off and
made again, so that the file is, byte for byte, that of a run that was never interrupted (on the same devices; on others
its numbers may differ in their last digits). An output of another model or of other options is refused, and so is an
input whose beginning has changed. One that has grown is gone on with.

An OUTPUT.npy is a float32 matrix with a row for each line that is not blank, in their order; rows of bad lines are nan.
It lies in OUTPUT.npy.partial, without a header, until the number of its rows is known.
"""

import abc
import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Protocol

import numpy as np

from bertjax import settings
from bertjax.data.files import finish, replace_file
from bertjax.predict.base import to_json
from bertjax.predict.run import Told


@dataclasses.dataclass(frozen=True)
class Mark:
    """A place in the input, behind a line."""

    line: int = 0
    bytes: int = 0
    digest: str = hashlib.sha256().hexdigest()
    """Of all bytes before."""


@dataclasses.dataclass(frozen=True)
class Count:
    """What became of the lines of a file."""

    good: int = 0
    bad: int = 0
    first: str | None = None
    """What is wrong with the first bad one."""

    def add(self, window: Sequence[Told]) -> "Count":
        """With those of a window."""
        bad = [f"line {told.line.number}: {told.error}" for told in window if told.answer is None]
        first = self.first if self.first is not None or not bad else bad[0]
        return Count(self.good + len(window) - len(bad), self.bad + len(bad), first)


class Source(Protocol):
    """What a sink asks of the input."""

    @property
    def size(self) -> int:
        """Bytes of the whole."""

    def skip(self, mark: Mark) -> bool:
        """Goes on behind a mark; whether what is before it is what it was."""


class Sink(abc.ABC):
    """An output with the note of how far it is."""

    def __init__(self, path: str, made: Mapping[str, Any]) -> None:
        """`made` is all that decides about the answers."""
        self.path, self.made = path, dict(made)
        self.note, self.growing = f"{path}.progress", path
        self.count, self.mark = Count(), Mark()
        self.bytes, self.finished = 0, False
        self._file: BinaryIO | None = None

    @contextlib.contextmanager
    def open(self, source: Source) -> Iterator[bool]:
        """Whether there is more to do; the source then stands where it goes on."""
        self._resume(source)
        if self.finished and self.mark.bytes == source.size:
            yield False
            return
        self._reopen()
        with _writing(self.path):
            pathlib.Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            self._tell()
            self._file = open(self.growing, "r+b" if os.path.exists(self.growing) else "x+b")  # noqa: SIM115
            self._file.truncate(self.bytes)
            self._file.seek(self.bytes)
        with self._file:
            yield True

    def write(self, window: Sequence[Told]) -> None:
        """Appends the answers of a window, and notes that they are there."""
        assert self._file is not None
        content = b"".join(map(self.encoded, window))
        with _writing(self.path):
            self._file.write(content)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.bytes += len(content)
            self.count, self.mark = self.count.add(window), window[-1].line.mark
            self._tell()

    def close(self) -> None:
        """Notes that all is there."""
        self.finished = True
        with _writing(self.path):
            self._tell()

    @abc.abstractmethod
    def encoded(self, told: Told) -> bytes:
        """What is appended for a line."""

    def _reopen(self) -> None:
        """Prepares to append to what is finished."""
        self.finished = False

    def _tell(self) -> None:
        record = {
            "made": self.made,
            "input": dataclasses.asdict(self.mark),
            "count": dataclasses.asdict(self.count),
            "bytes": self.bytes,
            "finished": self.finished,
        }
        replace_file(self.note, json.dumps(record, indent=1, ensure_ascii=True).encode())

    def _resume(self, source: Source) -> None:
        """Goes on from what an earlier run has left; an error where that cannot be."""
        if not os.path.exists(self.note):
            for path in (self.path, self.growing):
                if os.path.exists(path):
                    raise ValueError(
                        f"output={path} exists without {self.note}, which would say how it was made: remove it, or "
                        f"name another"
                    )
            return
        try:
            with open(self.note, encoding="utf-8") as file:
                done = json.load(file)
            different = list(settings.differences(self.made, done["made"]))
            self.mark, self.count = Mark(**done["input"]), Count(**done["count"])
            self.bytes, self.finished = int(done["bytes"]), bool(done["finished"])
        except (OSError, ValueError, KeyError, TypeError):
            raise ValueError(
                f"{self.note} cannot be read: remove it and {self.path}, or name another"
            ) from None
        if different:
            raise ValueError(
                f"output={self.path} was made otherwise ({different[0]}): name another, or remove it and {self.note}"
            )
        if self._size() < self.bytes:
            raise ValueError(
                f"output={self.path} has lost some of what {self.note} says it holds: remove both and begin again"
            )
        if not source.skip(self.mark):
            raise ValueError(
                f"output={self.path} is of another input, whose first {self.mark.line} lines were others: name another"
            )

    def _size(self) -> int:
        return os.path.getsize(self.growing) if os.path.exists(self.growing) else 0


class JsonLines(Sink):
    """An object a line."""

    def encoded(self, told: Told) -> bytes:
        """The line."""
        return json_line(told)


class Matrix(Sink):
    """A row of float32 a line."""

    def __init__(self, path: str, made: Mapping[str, Any], width: int) -> None:
        super().__init__(path, {**made, "output": "npy"})
        if made["pipeline"] != "embed":
            raise ValueError(f"output={path}: only embed gives a matrix; name a .jsonl")
        self.growing, self.width = f"{path}.partial", width

    def encoded(self, told: Told) -> bytes:
        """The numbers of a line."""
        empty = np.full(self.width, np.nan) if told.answer is None else told.answer["embedding"]
        return np.asarray(empty, "<f4").tobytes()

    def close(self) -> None:
        """Puts a header before the numbers."""
        shape = (self.bytes // (4 * self.width), self.width)
        with _writing(self.path):
            with open(self.growing, "rb") as numbers, open(f"{self.path}.tmp", "wb") as file:
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                shutil.copyfileobj(numbers, file)
                finish(file)
            os.replace(f"{self.path}.tmp", self.path)
        super().close()
        os.remove(self.growing)

    def _reopen(self) -> None:
        if self.finished:
            raise ValueError(f"output={self.path} is finished and its input has grown: name another output")

    def _size(self) -> int:
        if self.finished and os.path.exists(self.path):
            return os.path.getsize(self.path)
        return super()._size()


def json_line(told: Told) -> bytes:
    """What is written of a line: its number, the `id` of its record if it has one, and the answer or the error."""
    line = told.line
    head: dict[str, Any] = {"line": line.number}
    if isinstance(line.record, Mapping) and "id" in line.record:
        head["id"] = line.record["id"]
    whole = {**head, **(told.answer if told.answer is not None else {"error": told.error})}
    # Half of a character, which an id may hold, is written as JSON writes it.
    return (to_json(whole) + "\n").encode(errors="backslashreplace")


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"output={path} cannot be written ({error.strerror or error}): make room, or choose another"
        ) from None
