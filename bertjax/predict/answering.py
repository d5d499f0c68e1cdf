"""answer: the answer to a question in a text, by its place there.

    {"text": "1867", "start": 12, "end": 16, "probability": 0.91, "best": [{"text": ..., "start": ..., ...}, ...]}

`start` and `end` count characters of the context as it was given. Probabilities are a softmax over the scores of the
best spans (tasks/answer.py) and, for a model that may answer nothing, that of no answer. Such a model tells, too,

    "no_answer"                by how much no answer scores more than the best span
    "no_answer_probability"    of no answer

and where `no_answer` is above `threshold` its answer is the empty text; `best` has spans all the same. A long context
is read in windows. An empty one holds no answer.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

from bertjax.bundle import Bundle
from bertjax.data.labelled.split import Split
from bertjax.predict.base import Answer, Column, Item, Pipeline
from bertjax.predict.labelled import TaskWork, find_task, split_of
from bertjax.tasks import answer as answer_task
from bertjax.tasks.labelled import Prediction


@dataclasses.dataclass(frozen=True)
class FindAnswer(Pipeline):
    """Answers to questions, as spans of a text."""

    top: int = 3
    """Spans that are told under `best`."""
    no_answer: bool | None = None
    """Whether there may be no answer; none does as the model was trained to (a published one: there is always one)."""
    threshold: float | None = None
    """By how much no answer must score more than the best span to be the answer; none takes that of the run."""
    stride: int | None = None
    """Tokens that the windows of a long context share; none does as the model was trained to."""
    head: str | None = None
    """Which head, where a model has several for this."""

    columns: ClassVar[Mapping[str, Column]] = {
        "question": Column("the question"),
        "context": Column("the text that holds the answer"),
    }

    def __post_init__(self) -> None:
        """Refuses to tell nothing."""
        super().__post_init__()
        self.at_least("top", 1)
        self.at_least("stride", 0)

    def open(self, bundle: Bundle, length: int) -> "Answering":
        """Needs a head that scores where an answer begins and ends."""
        return Answering(self, bundle, length)

    def lines(self, answer: Answer) -> Iterator[str]:
        """The answer, and the best spans."""
        yield f"{answer['text'] or '(no answer)'} {answer['probability']:.2f}"
        for one in answer["best"]:
            yield f"    {one['probability']:.2f} [{one['start']}:{one['end']}] {one['text']}"


class Answering(TaskWork):
    """Questions under an extractive model."""

    def __init__(self, options: FindAnswer, bundle: Bundle, length: int) -> None:
        task = find_task(bundle, ("answer",), "answer", options.head)
        assert isinstance(task, answer_task.Answer)
        self.given = {"question": task.question, "context": task.context}
        changed = {
            "unanswerable": options.no_answer,
            "threshold": options.threshold,
            "stride": options.stride,
        }
        task = dataclasses.replace(
            task,
            question="question",
            context="context",
            best=max(task.best, options.top),
            **{name: value for name, value in changed.items() if value is not None},  # type: ignore[arg-type]
        )
        super().__init__(options, bundle, length, task)
        self.silent, self.top = bool(task.unanswerable), options.top

    def key(self, name: str, record: Mapping[str, Any]) -> str | None:
        """Its own name, or that of the column which the model was trained on."""
        return super().key(name, record) or super().key(self.given[name], record)

    def split(self, items: Sequence[Item]) -> Split:
        """Questions and contexts."""
        return split_of(items, **{name: [item.values[name] for item in items] for name in self.columns})

    def told(self, item: Item, found: Prediction) -> Answer:
        """What the task predicts, and whether it had rather said nothing."""
        del item
        answer = {name: found[name] for name in ("text", "start", "end", "probability")}
        if self.silent:
            spans = sum(span["probability"] for span in found["best"])
            answer["no_answer"] = found["no_answer"]
            answer["no_answer_probability"] = max(1.0 - spans, 0.0)
        answer["best"] = found["best"][: self.top]
        return answer
