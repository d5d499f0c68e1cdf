"""similar and rerank: how alike two texts are, and which of many texts goes best with one.

    similar    {"similarity": 0.67}
    rerank     {"ranking": [{"candidate": 2, "score": 0.71, "text": "..."}, ...]}       best first, counted from 0

    bi-encoder       each text has a vector, and the cosine of two is their similarity, from -1 to 1
    cross-encoder    the model reads both texts in one row: the number that a regression gives, or of a classifier of
                     pairs the probability of the class `label` (1908.10084, Section 6, compares both)

A model with a head for embeddings is taken for a bi-encoder, unless `head` or `label` asks for another of its heads;
one without such a head is a cross-encoder, unless `pooling` is given.
"""

import abc
import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import numpy as np

from bertjax.bundle import Bundle
from bertjax.convert.model import heads_of
from bertjax.data.labelled.examples import Example
from bertjax.models import task_heads
from bertjax.predict.base import Answer, Column, Item, Part, Pipeline, Work, check_name, missing
from bertjax.predict.labelled import TextWork, find_task, tasks_of
from bertjax.predict.vectors import Vectors, pooling_of
from bertjax.tasks.classify import Classify
from bertjax.tasks.texts import TextTask

CROSS = ("regress", "classify")


@dataclasses.dataclass(frozen=True)
class Comparison(Pipeline):
    """Base of what compares one text with others."""

    label: str | None = None
    """Class whose probability counts, of a model that classifies pairs."""
    pooling: task_heads.Pooling | None = None
    """What stands for a text of its own; none does as the model was trained to."""
    head: str | None = None
    """Which head, where a model has several for this."""

    use: ClassVar[str]

    def open(self, bundle: Bundle, length: int) -> Work:
        """Needs a head for embeddings, or one that judges pairs."""
        kinds = [kind for kind, _ in heads_of(bundle.model).values()]
        judges = self.head is not None or self.label is not None
        if not judges and (self.pooling is not None or "embed" in kinds):
            return BiEncoder(self, bundle, length)
        if not any(task.kind in CROSS for task in tasks_of(bundle).values()):
            hint = "set pooling=mean to compare the means of their tokens, or train it with tasks=embed"
            raise missing(bundle, ("embed", *CROSS), self.use, hint)
        return CrossEncoder(self, bundle, length)

    @abc.abstractmethod
    def sides(self, item: Item) -> tuple[str, list[str]]:
        """The text, and those that it is compared with."""

    @abc.abstractmethod
    def told(self, item: Item, scores: Sequence[float]) -> Answer:
        """The answer for a text from the scores of the others."""


@dataclasses.dataclass(frozen=True)
class Similar(Comparison):
    """How alike two texts are."""

    use: ClassVar[str] = "similar"
    columns: ClassVar[Mapping[str, Column]] = {
        "text": Column("the first text"),
        "pair": Column("the second text"),
    }

    def sides(self, item: Item) -> tuple[str, list[str]]:
        """Two texts."""
        return item.values["text"], [item.values["pair"]]

    def told(self, item: Item, scores: Sequence[float]) -> Answer:
        """One number."""
        del item
        return {"similarity": scores[0]}

    def lines(self, answer: Answer) -> Iterator[str]:
        """One number."""
        yield f"{answer['similarity']:.3f}"


@dataclasses.dataclass(frozen=True)
class Rerank(Comparison):
    """Texts in the order in which they go with a query."""

    top: int | None = None
    """Candidates that are told; none tells all."""

    use: ClassVar[str] = "rerank"
    columns: ClassVar[Mapping[str, Column]] = {
        "query": Column("the text that is searched with"),
        "candidates": Column("the texts to choose from, a list", several=True, flag="candidate"),
    }

    def __post_init__(self) -> None:
        """Refuses to tell nothing."""
        super().__post_init__()
        self.at_least("top", 1)

    def sides(self, item: Item) -> tuple[str, list[str]]:
        """The query and its candidates."""
        return item.values["query"], item.values["candidates"]

    def told(self, item: Item, scores: Sequence[float]) -> Answer:
        """The candidates, best first; of equal ones the first."""
        ranked = sorted(range(len(scores)), key=lambda number: (-scores[number], number))[: self.top]
        texts = item.values["candidates"]
        return {
            "ranking": [
                {"candidate": number, "score": scores[number], "text": texts[number]} for number in ranked
            ]
        }

    def lines(self, answer: Answer) -> Iterator[str]:
        """A line for each candidate."""
        for one in answer["ranking"]:
            yield f"{one['score']:.3f}   {one['text']}"


class BiEncoder(Vectors):
    """Cosines of vectors."""

    chunk = 16

    def __init__(self, options: Comparison, bundle: Bundle, length: int) -> None:
        head = pooling_of(bundle, options.pooling, options.use)
        super().__init__(options, bundle, length, head, normalise=True)
        self.options = options

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """A row of each text, that which the others are compared with first."""
        sides = [self.options.sides(item) for item in items]
        return self.rows(items, [[first, *others] for first, others in sides])

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """Products of vectors of length one."""
        first, *others = (part.values["vector"] for part in found)
        return self.options.told(item, [float(np.dot(first, other)) for other in others])


class CrossEncoder(TextWork):
    """Scores of pairs that are read in one row."""

    chunk = 16

    def __init__(self, options: Comparison, bundle: Bundle, length: int) -> None:
        task = find_task(bundle, CROSS, options.use, options.head)
        assert isinstance(task, TextTask)
        super().__init__(options, bundle, length, task, None)
        if self.paired is False:
            raise ValueError(
                f"{options.use} needs a model of pairs and {task.name!r} was trained on single texts"
            )
        self.options, self.which = options, 0
        if isinstance(task, Classify):
            if options.label is None:
                raise ValueError(
                    f"this model sorts into {', '.join(task.labels)}: set label to the one whose probability counts"
                )
            check_name("label", options.label, task.labels)
            self.which = task.labels.index(options.label)
        elif options.label is not None:
            raise ValueError(
                f"label={options.label!r} is for classifiers and this model gives a number: leave it out"
            )

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """A row for each pair, or for each chunk of one."""
        sides = [self.options.sides(item) for item in items]
        owners = [(place, number) for place, (_, others) in enumerate(sides) for number in range(len(others))]
        pairs = [(sides[place][0], sides[place][1][number]) for place, number in owners]
        found = []
        for pair, row in self.rows([items[place] for place, _ in owners], pairs):
            place, number = owners[pair]
            found.append(Example((row,), {}, place, number))
        return found

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """The mean score of the chunks of each pair."""
        each: dict[int, list[float]] = {}
        for pair, values in found:
            numbers = values["value"] if "value" in values else values["probabilities"]
            each.setdefault(pair, []).append(float(np.asarray(numbers).reshape(-1)[self.which]))
        return self.options.told(item, [float(np.mean(each[pair])) for pair in sorted(each)])
