"""Predictions of a file: JSON lines in, answers out, resumable, with bad lines among good ones.

    {"text": "..."}                       a line of the input; blank ones are passed over
    {"line": 17, "id": ..., ...}          its answer, under the number of its line; an `id` of the record goes along
    {"line": 17, "error": "..."}          what is wrong with it

Answers come in the order of the lines, a window at a time; `sinks` says how they are kept and gone on with.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from typing import BinaryIO

import jax
import numpy as np

from bertjax import settings
from bertjax.bundle import Bundle
from bertjax.config import to_dict
from bertjax.data.progress import Progress
from bertjax.inherit import flat
from bertjax.predict.base import Pipeline
from bertjax.predict.run import Line, RunOptions, engine
from bertjax.predict.sinks import Count, JsonLines, Mark, Matrix, Sink

LONGEST = 1 << 26  # bytes of a line: bounds memory
PIECE = 1 << 20


def predict_file(
    kind: str,
    pipeline: Pipeline,
    bundle: Bundle,
    source: str,
    output: str,
    options: RunOptions,
) -> Count:
    """Writes the answers to all lines of a file, or goes on where an earlier run was interrupted."""
    if jax.process_count() > 1:
        raise ValueError("predictions of a file are made by one process, over all of its devices: start one")
    ready = engine(pipeline, bundle, options)
    made = {
        "pipeline": kind,
        "options": settings.to_dict(pipeline, {}),
        "length": ready.length,
        "model": fingerprint(bundle),
        "tokenizer": bundle.tokenizer.digest,
    }
    with opened(source) as given:
        sink: Sink
        if output.endswith(".npy"):
            sink = Matrix(output, made, bundle.config.model.width)
        else:
            sink = JsonLines(output, made)
        with sink.open(given) as there_is_more:
            if there_is_more:
                with Progress(f"predict {kind}", given.size) as progress:
                    progress.add(sink.mark.bytes)
                    for window in ready.run(given.lines()):
                        before = sink.mark.bytes
                        sink.write(window)
                        progress.add(sink.mark.bytes - before)
                sink.close()
    return sink.count


def fingerprint(bundle: Bundle) -> str:
    """Of a model's settings and of all of its parameters."""
    total = hashlib.sha256(json.dumps(to_dict(bundle.config)["model"], sort_keys=True).encode())
    for name, leaf in sorted(flat(bundle.params).items()):
        total.update(name.encode())
        total.update(np.ascontiguousarray(leaf).tobytes())
    return total.hexdigest()[:16]


@contextlib.contextmanager
def opened(path: str) -> Iterator["Input"]:
    """The input, or one line that says why there is none."""
    try:
        file = open(path, "rb")  # noqa: SIM115
        file.read(1)
    except OSError as error:
        raise ValueError(
            f"input={path} cannot be read ({error.strerror}): name a file with a JSON object a line"
        ) from None
    with file:
        yield Input(file)


class Input:
    """A file of records."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._total, self._mark = file, hashlib.sha256(), Mark()
        file.seek(0)

    @property
    def size(self) -> int:
        """Bytes of the whole."""
        return os.fstat(self._file.fileno()).st_size

    def skip(self, mark: Mark) -> bool:
        """Goes on behind a mark; whether what is before it is what it was."""
        self._file.seek(0)
        self._total, left = hashlib.sha256(), mark.bytes
        while left and (part := self._file.read(min(left, PIECE))):
            self._total.update(part)
            left -= len(part)
        self._mark = mark
        return self._total.hexdigest() == mark.digest

    def lines(self) -> Iterator[Line]:
        """The lines from here on that are not blank, each with the mark behind it."""
        number, place = self._mark.line, self._mark.bytes
        while line := self._file.readline(LONGEST):
            number += 1
            size = self._take(line)
            long = len(line) == LONGEST and not line.endswith(b"\n")
            rest = line
            while long and not rest.endswith(b"\n") and (rest := self._file.readline(PIECE)):
                size += self._take(rest)
            place += size
            if long or line.strip():
                mark = Mark(number, place, self._total.hexdigest())
                yield _too_long(number, mark) if long else _parsed(number, line, mark)

    def _take(self, part: bytes) -> int:
        self._total.update(part)
        return len(part)


def _too_long(number: int, mark: Mark) -> Line:
    return Line(number, error=f"the line has more than {LONGEST:,} bytes", mark=mark)


def _parsed(number: int, line: bytes, mark: Mark) -> Line:
    try:
        return Line(number, record=json.loads(line.rstrip(b"\r\n").decode("utf-8-sig")), mark=mark)
    except UnicodeDecodeError as error:
        reason = f"byte {error.start + 1} of the line is not UTF-8"
    except json.JSONDecodeError as error:
        reason = f"the line is no JSON ({error.msg.removesuffix(' at')} at character {error.pos + 1})"
    except RecursionError:
        reason = "the line is no JSON that can be read (too many brackets within brackets)"
    return Line(number, error=reason, mark=mark)
