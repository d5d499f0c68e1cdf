"""classify: of which class, or of which classes, a text or a pair of texts is; of a regression its number.

    {"label": "sports", "probability": 0.93, "probabilities": {"sports": 0.93, ...}}      one class
    {"labels": ["sports", "money"], "probabilities": {...}}                               several: those above one half
    {"value": 3.1}                                                                        a regression

Probabilities are a softmax over the classes, or a sigmoid of each where several may hold. With `stride` a long text is
read in chunks, whose probabilities are averaged. Of an empty text the model sees its special tokens alone.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from bertjax.bundle import Bundle
from bertjax.data.labelled.examples import Example, LabelledExamples
from bertjax.predict.base import Answer, Column, Item, Outcomes, Pipeline
from bertjax.predict.labelled import TextWork, find_task, split_of
from bertjax.tasks.labelled import Prediction
from bertjax.tasks.texts import TextTask

SHOWN = 5  # classes that people are told of


@dataclasses.dataclass(frozen=True)
class Classify(Pipeline):
    """The classes of texts, or of pairs of texts, with their probabilities."""

    top: int | None = None
    """Classes that are told, likeliest first; none tells all, in their order."""
    stride: int | None = None
    """Tokens that the chunks of a long text share; none does as the model was trained to."""
    head: str | None = None
    """Which head, where a model has several for this."""

    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column("the text"),
        "pair": Column("a second text, for a model that judges pairs", needed=False),
    }

    def __post_init__(self) -> None:
        """Refuses to tell nothing."""
        super().__post_init__()
        self.at_least("top", 1)
        self.at_least("stride", 0)

    def open(self, bundle: Bundle, length: int) -> "Classes":
        """Needs a head that gives scores of a row."""
        return Classes(self, bundle, length)

    def lines(self, answer: Answer) -> Iterator[str]:
        """The likeliest classes in one line."""
        if "value" in answer:
            yield f"{answer['value']:.3f}"
        else:
            ranked = sorted(answer["probabilities"].items(), key=lambda one: -one[1])[:SHOWN]
            yield "   ".join(f"{label} {value:.2f}" for label, value in ranked)


class Classes(TextWork):
    """Texts and pairs under a classifier or a regression."""

    def __init__(self, options: Classify, bundle: Bundle, length: int) -> None:
        task = find_task(bundle, ("classify", "regress"), "classify", options.head)
        assert isinstance(task, TextTask)
        super().__init__(options, bundle, length, task, options.stride)
        self.top = options.top

    def check(self, number: int, record: Any) -> Item:
        """With a second text where the model was trained on pairs, and without one where it was not."""
        item = super().check(number, record)
        if self.paired is not None and self.paired != ("pair" in item.values):
            one = "pairs of texts: give 'pair', too" if self.paired else "single texts: leave 'pair' out"
            raise ValueError(f"this model was trained on {one}")
        return item

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """A row for each text, or for each chunk of one."""
        texts = [(item.values["text"], item.values.get("pair")) for item in items]
        return [Example((row,), {}, place) for place, row in self.rows(items, texts)]

    def found(
        self, items: Sequence[Item], examples: LabelledExamples, outcomes: Outcomes
    ) -> list[Prediction]:
        """The predictions of the task."""
        return self.task.predictions(examples, outcomes, split_of(items))

    def told(self, item: Item, found: Prediction) -> Answer:
        """What the task predicts, the likeliest classes first where not all are told."""
        del item
        if self.top is None or "probabilities" not in found:
            return found
        ranked = sorted(found["probabilities"].items(), key=lambda one: -one[1])
        return {**found, "probabilities": dict(ranked[: self.top])}
