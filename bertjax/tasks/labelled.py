"""The protocol of a task that learns from labelled records: a fine-tuning task is a task that also owns its data.

    read(which)                records of a split
    resolve(train)             the task with all that only its records tell: the classes, how many choices there are
    encode(split, ...)         examples: rows of tokens, targets of fixed shapes, and what stays on the host
    heads, loss                as every task
    decode(apply, ...)         more outputs, of a text that is written token by token; most tasks have none
    outcomes(outputs, batch)   what the host needs of a batch's outputs, one entry an example; on the device
    predictions(...)           one plain record for each record of the split
    score(predictions, split)  what the field reports

A batch is of one task, whose targets it carries: `targets[task.name]`, among them `weight`, 0 for an example that is
empty or has no label. All tasks of a run share the encoder; the heads of those that a batch is not of do nothing.
"""

import abc
import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Format
from bertjax.data.labelled import cached, made_up
from bertjax.data.labelled.examples import Example, LabelledExamples, Shape, Target
from bertjax.data.labelled.records import SYNTHETIC, Records, read_split
from bertjax.data.labelled.split import Split
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig
from bertjax.tasks.base import Task
from bertjax.types import Array, Batch, Float

Prediction = dict[str, Any]
WEIGHT = Target(np.float32)
NOT_ENCODED = ("weight", "called", "records", "share", "metric")  # settings that change no example


@dataclasses.dataclass(frozen=True)
class LabelledTask(Task):
    """Base of the tasks that learn from labelled records."""

    called: str = ""
    """Its name among several of one kind; empty is the kind's."""
    records: Records = Records()
    """Where its records come from."""
    share: float | None = None
    """How often its batches come, relative to other tasks; none goes by its batches in an epoch (data.temperature)."""
    metric: str = ""
    """Score that stands for the task where there is one number for it; empty is the first that it reports."""

    kind: ClassVar[str]
    # What an example keeps on the host, as `about`: an array, a dataclass of arrays and whole numbers, or nothing.
    kept: ClassVar[type | None] = None

    @property
    def name(self) -> str:
        """Of its head, its targets and its metrics."""
        return self.called or self.kind

    @property
    def group(self) -> int:
        """Rows of an example."""
        return 1

    @abc.abstractmethod
    def targets(self) -> Mapping[str, Target]:
        """What a batch carries for it; has `weight`."""

    @abc.abstractmethod
    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """The examples of a split, in the order of its records."""

    def decode(
        self, apply: Callable[..., Any], outputs: Mapping[str, Any], batch: Batch, vocabulary: Vocabulary
    ) -> Mapping[str, Any]:
        """Outputs that take the network more than one pass; `apply` is the network with its parameters."""
        del apply, outputs, batch, vocabulary
        return {}

    @abc.abstractmethod
    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """What the predictions are made of, each with one entry an example."""

    @abc.abstractmethod
    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """One for each record, of plain values; `outcomes` has one entry for each example."""

    @abc.abstractmethod
    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """What the predictions are worth, the score that stands for the task first; only records with labels count."""

    # ------------------------------------------------------------------------------------------ what is common

    def read(self, which: str) -> Split:
        """The records of `train`, `heldout` or `test`."""
        if self.records.path == SYNTHETIC:
            return made_up.make_up(self.made_up, which)
        return read_split(self.records, which)

    def on_made_up_records(self) -> "LabelledTask":
        """The task with its defaults, on records that are made up in a moment."""
        return type(self)(weight=self.weight, called=self.called, share=self.share)

    @property
    def made_up(self) -> str:
        """Which kind of made-up records it learns from where there are no others."""
        return self.kind

    def resolve(self, train: Split) -> "LabelledTask":
        """The task with what only its training records tell; an error where those cannot be learned from."""
        del train
        return self

    def examples(
        self, split: Split, tokenizer: Tokenizer, length: int, cache: str | None = None
    ) -> LabelledExamples:
        """The examples of a split; those of a large one are kept in the folder `cache`, if there is one."""
        shape = Shape(self.targets(), self.group, tokenizer.vocabulary, len(split), tokenizer)
        if cache is None or len(split) < cached.LEAST:
            return LabelledExamples(self.encode(split, tokenizer, length), shape)
        names = [field.name for field in dataclasses.fields(self) if field.name not in NOT_ENCODED]
        key = {
            "records": split.digest,
            "tokenizer": tokenizer.digest,
            "length": length,
            "task": {name: getattr(self, name) for name in names},
            "code": cached.code_of(type(self)),
        }
        encode = functools.partial(self.encode, split, tokenizer, length)
        return cached.open_or_make(cache, key, encode, shape, kept=self.kept)

    def serves(self, batch: Batch) -> bool:
        """Whether a batch is its own."""
        return self.name in batch.targets

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The weight of the labelled examples in a batch."""
        return batch.targets[self.name]["weight"].sum()

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """A batch is of one task with labels, so none without can share it."""
        del model, format
        for task in tasks:
            if not isinstance(task, LabelledTask):
                raise ValueError(
                    f"tasks={','.join(task.name for task in tasks)}: {self.name} learns from labelled records and "
                    f"{task.name} from a corpus: train them one after the other, through model.init"
                )

    def at(self, field: str) -> str:
        """The path of one of its settings, for errors."""
        return f"tasks.{self.kind}.{field}"

    def stands(self, scores: Mapping[str, float]) -> float:
        """The score that stands for the task."""
        name = self.metric or next(iter(scores))
        if name not in scores:
            raise ValueError(
                f"{self.at('metric')}={name} is no score of this task: choose from {', '.join(scores)}"
            )
        return scores[name]


def labelled(tasks: Sequence[Task]) -> tuple[LabelledTask, ...]:
    """The tasks as labelled ones; none where the run learns from a corpus."""
    return tuple(task for task in tasks if isinstance(task, LabelledTask))
