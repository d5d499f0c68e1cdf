"""What pipelines share that use a labelled task: which task a model was trained on, and rows of its texts.

The task of a run knows its columns, classes and strides, and makes rows and predictions exactly as it does in an
evaluation. For the head of a published model a task is made up that stands for it: its classes have the names that the
model has, or LABEL_0, LABEL_1, ... as theirs are called.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bertjax.bundle import Bundle
from bertjax.data.labelled.examples import Example, LabelledExamples, Row
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.models import task_heads
from bertjax.predict.base import Item, OnePass, Outcomes, Pipeline, cut_warning, missing
from bertjax.settings import suggest
from bertjax.tasks import LabelledTask, labelled
from bertjax.tasks.answer import Answer
from bertjax.tasks.classify import Classify
from bertjax.tasks.labelled import Prediction
from bertjax.tasks.regress import Regress
from bertjax.tasks.tag import Tag
from bertjax.tasks.texts import TextTask
from bertjax.types import Array, Batch

LETTERS = "BIESLU"  # that tags of entities begin with, in any scheme


def tasks_of(bundle: Bundle) -> dict[str, LabelledTask]:
    """The task behind every head that a pipeline may use, by the name of the head."""
    made = (as_task(head, bundle.config.data.length) for head in bundle.config.heads)
    found = {task.name: task for task in made if task is not None}
    for task in labelled(bundle.config.tasks):
        found[task.name] = dataclasses.replace(task, records=Records())
    return {name: task for name, task in found.items() if name in bundle.model.heads}


def as_task(head: task_heads.HeadOptions, length: int) -> LabelledTask | None:
    """A task that stands for the head of a published model."""
    match head:
        case task_heads.Classify(problem="regression"):
            return Regress(called=head.name) if head.classes == 1 else None
        case task_heads.Classify():
            return Classify(labels=_names(head), problem="multi" if head.problem == "multi" else "single")
        case task_heads.Tag():
            labels = _names(head)
            entities = all(name == "O" or name.partition("-")[0] in LETTERS for name in labels)
            return Tag(labels=labels, scheme="IOB2" if entities else "none", stride=length // 8)
        case task_heads.Answer():
            quarter = max(length // 4, 1)
            return Answer(stride=min(128, quarter), question_tokens=min(64, quarter), unanswerable=False)
    return None


def _names(head: task_heads.Classify | task_heads.Tag) -> tuple[str, ...]:
    return head.labels or tuple(f"LABEL_{number}" for number in range(head.classes))


def find_task(bundle: Bundle, kinds: Sequence[str], use: str, head: str | None = None) -> LabelledTask:
    """The task that is called `head`, or the only one of the first of these kinds that there is."""
    found = {name: task for name, task in tasks_of(bundle).items() if task.kind in kinds}
    if not found:
        raise missing(bundle, kinds, use)
    if head is not None:
        if head not in found:
            raise ValueError(f"head={head!r} is none for {use}: {suggest(head, list(found))}")
        return found[head]
    first = next(kind for kind in kinds if any(task.kind == kind for task in found.values()))
    names = [name for name, task in found.items() if task.kind == first]
    if len(names) > 1:
        raise ValueError(f"this model has several heads for {use}: set head to one of {', '.join(names)}")
    return found[names[0]]


class Judged(OnePass):
    """What a task makes of its head's outputs."""

    def __init__(self, options: Pipeline, bundle: Bundle, length: int, task: LabelledTask) -> None:
        super().__init__(options, bundle, length, [task.name])
        self.task = task

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """Those of the task."""
        return self.task.outcomes(outputs, batch)


class TaskWork(Judged):
    """A task whose examples and predictions are those of an evaluation."""

    def __init__(self, options: Pipeline, bundle: Bundle, length: int, task: LabelledTask) -> None:
        super().__init__(options, bundle, length, task)
        self.name, self.targets, self.group = task.name, task.targets(), task.group

    @abc.abstractmethod
    def split(self, items: Sequence[Item]) -> Split:
        """Items as records of the task."""

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """Those of the task."""
        return list(self.task.encode(self.split(items), self.tokenizer, self.length))

    def found(
        self, items: Sequence[Item], examples: LabelledExamples, outcomes: Outcomes
    ) -> list[Prediction]:
        """The predictions of the task."""
        return self.task.predictions(examples, outcomes, self.split(items))


def split_of(items: Sequence[Item], **columns: Sequence[Any]) -> Split:
    """The texts of items as records of a task."""
    return Split("input", columns, lines=[item.number for item in items])


class TextWork(Judged):
    """A task that judges a text, or a pair of texts, whole."""

    def __init__(
        self, options: Pipeline, bundle: Bundle, length: int, task: TextTask, stride: int | None
    ) -> None:
        stride = task.stride if stride is None else stride
        alone = dataclasses.replace(task, text="text", pair=None, stride=stride)
        super().__init__(options, bundle, length, alone)
        trained = any(one.name == task.name for one in labelled(bundle.config.tasks))
        self.paired = (
            task.pair is not None if trained else None
        )  # what a published model judges, nobody tells
        self.given = {"text": task.text, "pair": task.pair or "pair"}
        self.alone, self.paired_task = alone, dataclasses.replace(alone, pair="pair")

    def key(self, name: str, record: Mapping[str, Any]) -> str | None:
        """Its own name, or that of the column which the model was trained on."""
        return super().key(name, record) or super().key(self.given.get(name, name), record)

    def rows(
        self, items: Sequence[Item], texts: Sequence[tuple[str, str | None]]
    ) -> Iterator[tuple[int, Row]]:
        """(place, row) of texts or pairs, several of one that is read in chunks; `items` are those they belong to."""
        for paired, task in ((False, self.alone), (True, self.paired_task)):
            some = [place for place, (_, second) in enumerate(texts) if (second is not None) == paired]
            columns = {"text": [texts[place][0] for place in some]}
            if paired:
                columns["pair"] = [texts[place][1] or "" for place in some]
            if some:
                split = split_of([items[place] for place in some], **columns)
                for number, row in task.rows(split, self.tokenizer, self.length):
                    place = some[number]
                    self._warn(items[place], texts[place], row)
                    yield place, row

    def _warn(self, item: Item, texts: tuple[str, str | None], row: Row) -> None:
        """Tells of a text that was cut: only then is a row full and the text longer."""
        if len(row.tokens) < self.length or self.alone.stride is not None:
            return
        parts = self.tokenizer.encode_batch([text for text in texts if text is not None])
        there, room = sum(map(len, parts)), self.length - self.template.special(len(parts))
        if there > room:
            item.warnings.append(cut_warning(there, room))
