"""From a unit's bytes to the text of its documents; a record that is bad is named by file and line."""

import json
import re
from collections.abc import Iterator
from typing import Literal

from bertjax.data.python_docs import documentation
from bertjax.data.sources import Unit

__all__ = ["BadRecords", "texts"]

_EMPTY_LINE = re.compile(rb"\n[ \t\r]*\n")
_LINE = re.compile(rb"\n")


class BadRecords:
    """What to do with a record that cannot be used: stop, or count it."""

    def __init__(self, policy: Literal["raise", "skip"]) -> None:
        self.policy, self.count = policy, 0
        self.first: str | None = None

    def __call__(self, where: str, why: str) -> None:
        """Reports one bad record."""
        message = f"{where}: {why}"
        if self.policy == "raise":
            raise ValueError(f"{message}; --on_bad_record=skip leaves such records out")
        self.count += 1
        self.first = self.first or message


def texts(unit: Unit, field: str, bad: BadRecords) -> Iterator[str]:
    """The text of every document of a unit, in order; empty ones are left out."""
    if unit.kind == "table":
        found = _rows(unit, bad)
    elif unit.kind == "python":
        assert isinstance(unit.payload, tuple)
        found = (text for name, content in unit.payload for text in documentation(name, content))
    elif unit.kind == "file":
        found = _files(unit, bad)
    elif unit.kind == "jsonl":
        found = _objects(unit, field, bad)
    else:
        found = (text for _, text in _decoded(unit, _EMPTY_LINE if unit.kind == "blank_line" else _LINE, bad))
    for text in found:
        stripped = text.replace("\r\n", "\n").strip()
        if stripped:
            yield stripped


def _decoded(unit: Unit, boundary: re.Pattern[bytes], bad: BadRecords) -> Iterator[tuple[int, str]]:
    """(byte at which it starts, text) of every piece between boundaries."""
    payload = unit.payload
    assert isinstance(payload, bytes)
    start = 3 if unit.first == 1 and payload.startswith(b"\xef\xbb\xbf") else 0
    while start < len(payload):
        found = boundary.search(payload, start)
        end, following = found.span() if found else (len(payload), len(payload))
        try:
            yield start, payload[start:end].decode()
        except UnicodeDecodeError as error:
            bad(_line(unit, start + error.start), f"not UTF-8 (byte 0x{payload[start + error.start]:02x})")
        start = following


def _line(unit: Unit, position: int) -> str:
    assert isinstance(unit.payload, bytes)
    line = unit.first + unit.payload.count(b"\n", 0, position)
    return f"{unit.name} line {line}"


def _objects(unit: Unit, field: str, bad: BadRecords) -> Iterator[str]:
    for position, line in _decoded(unit, _LINE, bad):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            bad(_line(unit, position), f"broken JSON ({error.msg} at column {error.colno})")
            continue
        if not isinstance(record, dict):
            bad(
                _line(unit, position),
                f"{type(record).__name__} instead of an object with the field {field!r}",
            )
        elif field not in record:
            bad(
                _line(unit, position), f"no field {field!r} (it has {', '.join(map(repr, record)) or 'none'})"
            )
        elif not isinstance(record[field], str):
            bad(_line(unit, position), f"field {field!r} holds {type(record[field]).__name__}, not text")
        elif "\\u" in line and not _encodable(record[field]):
            bad(_line(unit, position), f"field {field!r} holds half of a surrogate pair")
        else:
            yield record[field]


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _files(unit: Unit, bad: BadRecords) -> Iterator[str]:
    assert isinstance(unit.payload, tuple)
    for name, content in unit.payload:
        try:
            yield content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            bad(f"{name} line {line}", f"not UTF-8 (byte 0x{content[error.start]:02x})")


def _rows(unit: Unit, bad: BadRecords) -> Iterator[str]:
    import pyarrow as pa

    row = unit.first
    for batch in pa.ipc.open_stream(unit.payload):
        for value in batch.column(0):
            try:
                text = value.as_py()
                if text is None:
                    bad(f"{unit.name} row {row}", "no text")
                else:
                    yield text
            except UnicodeDecodeError as error:
                bad(f"{unit.name} row {row}", f"not UTF-8 (byte 0x{error.object[error.start]:02x})")
            row += 1
