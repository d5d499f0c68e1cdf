"""Multiple choice (BERT, 1810.04805, Section 4.4; SWAG, RACE, COPA): which of several texts goes with another?

    score[i] = w · h(text, choice i)     p = softmax over the choices

Every choice is a row of its own, and the rows of a question stay together. Choices stand in one column that holds a
list, or in several columns. With `question` the row is [CLS] text [SEP] question choice [SEP], as for RACE. A record
with fewer choices than others has empty rows in their place.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.labelled.examples import Example, LabelledExamples, Row, Target
from bertjax.data.labelled.split import Split
from bertjax.data.labelled.template import Template
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, weighted
from bertjax.models import task_heads
from bertjax.models.heads import NEVER
from bertjax.scores import classification
from bertjax.tasks.labelled import WEIGHT, Prediction
from bertjax.tasks.scored import ScoredTask, divergence
from bertjax.types import Array, Batch, Float, Metrics

LETTERS = "ABCDEFGHIJ"  # by which RACE names its answers


@dataclasses.dataclass(frozen=True)
class Choose(ScoredTask):
    """Chooses the text that goes with another."""

    text: str = "text"
    """Column of the text that all choices are judged with."""
    question: str | None = None
    """Column of what stands before every choice; none where there is nothing."""
    choices: tuple[str, ...] = ("choices",)
    """Column of the choices, a list; or the columns of one each."""
    label: str = "label"
    """Column of the right one: its number from 0, its letter from A, or the name of its column."""
    number: int | None = None
    """Choices of a record at most; none finds out from the training records."""
    pooling: task_heads.Pooling = "pooled"
    """What stands for a row: the pooled token, the first, or the mean or maximum of all."""

    kind: ClassVar[str] = "choose"

    @property
    def group(self) -> int:
        """A row for each choice."""
        return self.number or 2

    def offered(self, split: Split) -> list[list[str]]:
        """The choices of every record."""
        if len(self.choices) == 1:
            found = split.lists(self.choices[0], self.at("choices"))
        else:
            columns = [split.texts(name, self.at("choices")) for name in self.choices]
            found = [list(some) for some in zip(*columns, strict=True)]
        for index, some in enumerate(found):
            if len(some) < 2:
                raise ValueError(
                    f"{split.where(index)} has {len(some)} choices: there are two or more to choose from"
                )
        return found

    def right(self, split: Split) -> list[int | None]:
        """The number of the right choice of every record; None without a label."""
        if split.unlabelled(self.label):
            return [None] * len(split)
        names, offered = split.class_names(self.label, self.at("label")), self.offered(split)
        known = list(split.classes.get(self.label, self.choices))  # as the hub has it for COPA
        found: list[int | None] = []
        for index, name in enumerate(names):
            if name is None:
                found.append(None)
                continue
            number = LETTERS.find(name.upper()) if len(name) == 1 and name.isalpha() else -1
            number = int(name) if name.isdigit() else number
            number = known.index(name) if name in known else number
            if not 0 <= number < len(offered[index]):
                raise split.unknown(
                    index, self.label, name, [str(i) for i in range(len(offered[index]))], self.at("label")
                )
            found.append(number)
        return found

    def resolve(self, train: Split) -> "Choose":
        """Knowing how many choices there are."""
        most = max(map(len, self.offered(train)))
        if self.number is not None and most > self.number:
            raise ValueError(f"{train.name} has records of {most} choices: set {self.at('number')}={most}")
        if all(label is None for label in self.right(train)):
            raise ValueError(
                f"{train.name}: no record has a label in {self.label!r}: there is nothing to learn"
            )
        return dataclasses.replace(self, number=self.number or most)

    def targets(self) -> Mapping[str, Target]:
        """The right choice, and which there are."""
        return {"label": Target(np.int32), "offered": Target(bool, (self.group,)), "weight": WEIGHT}

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """A row for each choice of a record."""
        template, group, nothing = Template.of(tokenizer), self.group, np.zeros(0, np.int32)
        texts, offered = split.texts(self.text, self.at("text")), self.offered(split)
        asked = None if self.question is None else split.texts(self.question, self.at("question"))
        right = self.right(split)
        for index, some in enumerate(offered):
            if len(some) > group:
                raise ValueError(
                    f"{split.where(index)} has {len(some)} choices and the model {group}: too many"
                )
            before = "" if asked is None else f"{asked[index].strip()} "
            parts = tokenizer.encode_batch([texts[index], *(f"{before}{choice}" for choice in some)])
            rows = []
            for choice in parts[1:]:
                keep = template.fit([len(parts[0]), len(choice)], length)
                rows.append(Row(*template.row(parts[0][: keep[0]], choice[: keep[1]])[:2]))
            rows += [Row(nothing, nothing)] * (group - len(some))
            label = right[index]
            targets = {
                "label": label or 0,
                "offered": np.arange(group) < len(some),
                "weight": float(label is not None),
            }
            yield Example(rows, targets, index)

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """One score of a row."""
        options = task_heads.Choose(pooling=self.pooling, dropout=self.head_dropout, features=self.features)
        return {self.name: options.module(config)}

    def _logits(self, scores: Float[Array, "*B 1"], batch: Batch) -> Float[Array, "B C"]:
        """One score of each choice, never of one that is not offered."""
        return jnp.where(batch.targets[self.name]["offered"], scores.reshape(-1, self.group), NEVER)

    def apart(
        self, first: Float[Array, "*B 1"], second: Float[Array, "*B 1"], batch: Batch
    ) -> tuple[Array, Array]:
        """The divergence of the choices."""
        both = (self._logits(scores, batch) for scores in (first, second))
        return weighted(divergence(*both), batch.targets[self.name]["weight"])

    def judge(self, scores: Float[Array, "*B 1"], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the records."""
        target, logits = batch.targets[self.name], self._logits(scores, batch)
        right = (logits.argmax(-1) == target["label"]).astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(logits, target["label"]), target["weight"]),
            "accuracy": weighted(right, target["weight"]),
        }

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The probabilities of the choices."""
        return {"probabilities": jax.nn.softmax(self._logits(outputs[self.name], batch))}

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The number of the choice, and the probability of each."""
        del examples
        found = []
        for some, row in zip(self.offered(split), outcomes["probabilities"], strict=True):
            spread = [float(value) for value in row[: len(some)]]
            best = int(np.argmax(spread))
            found.append({"choice": best, "probability": spread[best], "probabilities": spread})
        return found

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """Accuracy."""
        right = self.right(split)
        rows = [(row, label) for row, label in enumerate(right) if label is not None]
        if not rows:
            raise ValueError(
                f"{split.name} has no labels in the column {self.label!r} to score predictions with"
            )
        found = [predictions[row]["choice"] for row, _ in rows]
        return {"accuracy": classification.accuracy(found, [label for _, label in rows])}
