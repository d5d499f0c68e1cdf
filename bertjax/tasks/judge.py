"""Options that are judged one by one (MultiRC, ReCoRD; 1905.00537): is this an answer to that question?

A record is one option; what it is learned by is classification into two classes, of which the second in order (1, true)
says that the option is right. What it is worth counts by question:

    f1a, exact    every option is right or wrong; F1 over all options, and the share of questions all of whose options
                  are judged correctly (MultiRC)
    f1, exact     the likeliest option is the answer, held against all texts that answer the question (ReCoRD)
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from bertjax.data.labelled.split import Split
from bertjax.scores import superglue
from bertjax.tasks.classify import Classify
from bertjax.tasks.labelled import Prediction


@dataclasses.dataclass(frozen=True)
class Judge(Classify):
    """Judges every option of a question by itself."""

    group_by: str = "group"
    """Column of the question that a record is an option of."""
    option: str | None = None
    """Column of the option, of which the likeliest is the answer; none judges each for itself."""
    answers: str = "answers"
    """Column of all texts that answer the question, a list, where the likeliest option is the answer."""

    kind: ClassVar[str] = "judge"

    def __post_init__(self) -> None:
        """Refuses more than one class a record."""
        super().__post_init__()
        if self.problem != "single":
            raise ValueError(f"{self.at('problem')}={self.problem}: an option is right or wrong, set single")

    @property
    def made_up(self) -> str:
        """Questions with options of which some are right."""
        return "judge"

    def on_made_up_records(self) -> "Judge":
        """With the columns that those have."""
        made = super().on_made_up_records()
        assert isinstance(made, Judge)
        return dataclasses.replace(made, pair="pair", option=None if self.option is None else "option")

    def resolve(self, train: Split) -> "Judge":
        """With the names of its two classes."""
        resolved = super().resolve(train)
        assert isinstance(resolved, Judge)
        if len(resolved.labels) != 2:
            raise ValueError(
                f"{train.name}: options are right or wrong, and the column {self.label!r} has the classes "
                f"{', '.join(resolved.labels)}: set {self.at('label')}"
            )
        return resolved

    def chosen(self, predictions: Sequence[Mapping[str, Any]], split: Split) -> dict[str, str]:
        """The likeliest option of every question."""
        assert self.option is not None
        options = split.texts(self.option, self.at("option"))
        best: dict[str, tuple[float, str]] = {}
        for question, option, prediction in zip(self._questions(split), options, predictions, strict=True):
            likely = prediction["probabilities"][self.labels[1]]
            if question not in best or likely > best[question][0]:
                best[question] = likely, option
        return {question: option for question, (_, option) in best.items()}

    def _questions(self, split: Split) -> list[str]:
        return [str(question) for question in split.column(self.group_by, self.at("group_by"))]

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """By question; and the accuracy and so on over all options."""
        over_options = super().score(predictions, split)
        questions = self._questions(split)
        if self.option is not None:
            answers = dict(zip(questions, split.lists(self.answers, self.at("answers")), strict=True))
            judged = {question: some for question, some in answers.items() if some}
            chosen = self.chosen(predictions, split)
            found = superglue.record({question: chosen[question] for question in judged}, judged)
            over_options.pop("f1")  # of the class; that of the answers takes its place
            return {"f1": found["f1"], "exact": found["exact"], **over_options}
        labels, real = self.numbers(split)
        rows = np.flatnonzero(real).tolist()
        right = [int(predictions[row]["label"] == self.labels[1]) for row in rows]
        return {**superglue.multirc(right, labels[rows], [questions[row] for row in rows]), **over_options}
