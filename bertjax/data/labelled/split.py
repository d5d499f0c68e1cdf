"""The records of one split as columns, and typed access to them that names the file and the line of what is wrong.

A column is read by what it should hold: text, a number, a class, several classes, a list of words. A record whose
value is of another kind ends the reading with one line. What is missing on purpose is allowed where it says so: the
label of a record to predict may be absent, null, or -1 (as the hub has it).
"""

import functools
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.settings import suggest
from bertjax.types import Float, Int

__all__ = ["NONE", "Split"]

NONE = -1  # the class of a record without one


class Split:
    """One split of a data set: columns of equal length."""

    def __init__(
        self,
        name: str,
        columns: Mapping[str, Sequence[Any]],
        *,
        lines: Sequence[int] | None = None,
        classes: Mapping[str, Sequence[str]] | None = None,
        unit: str = "line",
    ) -> None:
        """`lines` are those of the file, or numbers of another `unit`; `classes` what numbers in a column stand for."""
        self.name, self.columns, self.lines, self.unit = name, dict(columns), lines, unit
        self.classes = {} if classes is None else dict(classes)
        sizes = {len(column) for column in self.columns.values()}
        assert len(sizes) <= 1, f"columns of {sorted(sizes)} values"
        self.size = sizes.pop() if sizes else 0

    def __len__(self) -> int:
        return self.size

    def record(self, index: int) -> dict[str, Any]:
        """One record."""
        return {name: column[index] for name, column in self.columns.items()}

    def where(self, index: int) -> str:
        """File and line, or the record's number, of a record."""
        if self.lines is None:
            return f"{self.name} record {index + 1}"
        return f"{self.name} {self.unit} {self.lines[index]}"

    def select(self, indices: Sequence[int] | np.ndarray) -> "Split":
        """Some of the records."""
        chosen = [int(index) for index in indices]
        columns = {name: [column[index] for index in chosen] for name, column in self.columns.items()}
        if self.lines is None:
            lines, unit = [index + 1 for index in chosen], "record"
        else:
            lines, unit = [self.lines[index] for index in chosen], self.unit
        return Split(self.name, columns, lines=lines, classes=self.classes, unit=unit)

    @functools.cached_property
    def digest(self) -> str:
        """Of everything in it."""
        total = hashlib.sha256()
        for name, column in self.columns.items():
            for start in range(0, self.size, 4096):
                part = [name, self.classes.get(name), list(column[start : start + 4096])]
                total.update(json.dumps(part, default=str).encode())
        return total.hexdigest()[:16]

    # ------------------------------------------------------------------------------------------ columns

    def column(self, name: str, setting: str) -> Sequence[Any]:
        """A column by its name; `setting` is the option that named it."""
        if name not in self.columns:
            raise ValueError(
                f"{self.name} has no column {name!r}: {suggest(name, list(self.columns) or ['none'])}; set {setting}"
            )
        return self.columns[name]

    def texts(self, name: str, setting: str) -> list[str]:
        """A column of text. An empty text is one; a number is not."""
        column = self.column(name, setting)
        for index, value in enumerate(column):
            if not isinstance(value, str):
                raise self.wrong(index, name, value, "text", setting)
        return list(column)

    def numbers(self, name: str, setting: str) -> Float[np.ndarray, "records"]:
        """A column of numbers, in words or not; nan where there is none."""
        result = np.full(self.size, np.nan)
        for index, value in enumerate(
            self.columns.get(name, ()) if self.unlabelled(name) else self.column(name, setting)
        ):
            if value is None or value == "":
                continue
            try:
                if isinstance(value, bool):
                    raise ValueError
                result[index] = float(value)
            except (TypeError, ValueError):
                raise self.wrong(index, name, value, "a number", setting) from None
            if not math.isfinite(result[index]):
                raise self.wrong(index, name, value, "a finite number", setting)
        return result

    def lists(self, name: str, setting: str) -> list[list[str]]:
        """A column of lists of text."""
        column = self.column(name, setting)
        result = []
        for index, value in enumerate(column):
            items = value.tolist() if isinstance(value, np.ndarray) else value
            if not isinstance(items, list | tuple) or not all(isinstance(item, str) for item in items):
                raise self.wrong(index, name, value, "a list of texts", setting)
            result.append(list(items))
        return result

    # ------------------------------------------------------------------------------------------ classes

    def unlabelled(self, name: str) -> bool:
        """Whether the column is not there."""
        return name not in self.columns

    def class_name(self, index: int, column: str, value: Any, setting: str) -> str | None:
        """What a value in a column of classes says; None for a record that has no class."""
        names = self.classes.get(column)
        if isinstance(value, np.generic):
            value = value.item()
        if value is None or value == "":
            return None
        if isinstance(value, bool):
            return "true" if value else "false"
        if isinstance(value, int):
            if value == NONE:
                return None
            if names is None:
                return str(value)
            if not 0 <= value < len(names):
                raise ValueError(
                    f"{self.where(index)}: {column!r} is {value} and there are {len(names)} classes, from 0"
                )
            return names[value]
        if isinstance(value, str):
            return value.strip() or None  # of white space alone it says nothing
        raise self.wrong(index, column, value, "the name or number of a class", setting)

    def class_names(self, column: str, setting: str) -> list[str | None]:
        """What each record says in a column of classes."""
        values = self.column(column, setting)
        return [self.class_name(index, column, value, setting) for index, value in enumerate(values)]

    def several(self, column: str, setting: str) -> list[list[str] | None]:
        """The same for a column of several classes a record: a list, or names with commas between."""
        result: list[list[str] | None] = []
        for index, value in enumerate(self.column(column, setting)):
            if value is None:
                result.append(None)
                continue
            if isinstance(value, np.ndarray):
                value = value.tolist()
            if isinstance(value, str):
                value = [part for part in value.split(",") if part.strip()]
            if not isinstance(value, list | tuple):
                raise self.wrong(index, column, value, "a list of classes", setting)
            names = (self.class_name(index, column, item, setting) for item in value)
            result.append([name for name in names if name is not None])
        return result

    def known_classes(self, column: str, found: set[str]) -> tuple[str, ...]:
        """The classes of a column: as the data set lists them, else those that were found, in order."""
        if column in self.classes:
            return tuple(self.classes[column])
        numeric = all(name.lstrip("-").isdigit() for name in found)
        return tuple(sorted(found, key=(lambda name: (int(name), name)) if numeric else None))

    def class_numbers(
        self, names: Sequence[str | None], labels: Sequence[str], column: str, setting: str
    ) -> Int[np.ndarray, "records"]:
        """The number of each record's class among `labels`, or NONE."""
        numbers = {label: number for number, label in enumerate(labels)}
        result = np.full(len(names), NONE, np.int32)
        for index, name in enumerate(names):
            if name is not None:
                if name not in numbers:
                    raise self.unknown(index, column, name, labels, setting)
                result[index] = numbers[name]
        return result

    # ------------------------------------------------------------------------------------------ errors

    def unknown(self, index: int, column: str, name: str, labels: Sequence[str], setting: str) -> ValueError:
        """A class that is none."""
        shown = list(labels) if len(labels) <= 20 else [*labels[:20], "..."]
        return ValueError(
            f"{self.where(index)}: {column} {name!r} is not a class of {setting}: {suggest(name, shown)}"
        )

    def wrong(self, index: int, column: str, value: Any, wanted: str, setting: str) -> ValueError:
        """A value of another kind than its column should have."""
        shown = repr(value)
        shown = shown if len(shown) <= 40 else f"{shown[:37]}..."
        return ValueError(
            f"{self.where(index)}: {column!r} holds {type(value).__name__} {shown} and not {wanted}: "
            f"mend it, or set {setting} to another column"
        )
