"""What the suites of this folder are tables of: a task, where its set lies on the hub, and where in published files."""

import dataclasses
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.labelled import LabelledTask
from experiments.finetune.recipe import recipe


@dataclasses.dataclass(frozen=True)
class Set:
    """A task of a suite."""

    task: LabelledTask  # with the names of columns that the hub has
    hub: Records
    files: Records  # whose path is below the folder of the data
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    renamed: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # columns that files call otherwise
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def records(self, data: str | None) -> Records:
        """Where its records are, for a folder of published files or none."""
        if data is None:
            return self.hub
        return dataclasses.replace(self.files, path=str(pathlib.Path(data) / self.files.path))

    def task_of(self, data: str | None) -> LabelledTask:
        """The task on these records."""
        columns = {} if data is None else self.renamed
        return dataclasses.replace(self.task, records=self.records(data), **columns)

    def entry(self, data: str | None) -> Entry:
        """The runs and what they are held against."""
        assert self.task.metric, "a suite says which number counts"
        return Entry(recipe(self.task_of(data), **self.recipe), self.task.metric, self.published)


def entries_of(sets: Mapping[str, Set], data: str | None) -> dict[str, Entry]:
    """The entries of a table of sets."""
    return {name: one.entry(data) for name, one in sets.items()}


def write_lines(path: pathlib.Path, lines: Iterable[str | Mapping[str, Any]]) -> None:
    """A file for a server: lines of text, or an object a line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = (line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines)
    path.write_text("".join(f"{line}\n" for line in shown), encoding="utf-8")
