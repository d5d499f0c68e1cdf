"""Sequence classification (BERT, 1810.04805, Section 4.1): a text, or a pair of texts, is of a class, or of several.

    one class     p = softmax(W h + b)    loss = - sum over c of w[y] ((1 - e) [c = y] + e / C) log p[c]
    several       p = sigmoid(W h + b)    loss = mean over c of the cross-entropy of each

h is what the head pools, e the label smoothing (1512.00567), w the weights of the classes.

The classes are those that the data set lists or, sorted, those of the training records; they are kept with the model.
A class that only the held-out records have is an error, and so are training records of one class only.
"""

import collections
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.labelled.examples import Example, LabelledExamples, Target
from bertjax.data.labelled.split import Split
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import weighted
from bertjax.models import task_heads
from bertjax.scores import calibration, classification, multilabel
from bertjax.tasks.labelled import WEIGHT, Prediction
from bertjax.tasks.scored import divergence
from bertjax.tasks.texts import TextTask, pooled
from bertjax.types import Array, Batch, Float, Int, Metrics


@dataclasses.dataclass(frozen=True)
class Classify(TextTask):
    """Sorts texts, or pairs of texts, into classes."""

    labels: tuple[str, ...] = ()
    """The classes in their order; empty finds them in the data."""
    problem: Literal["single", "multi"] = "single"
    """A text has one class, or any number of them."""
    smoothing: float = 0.0
    """Share of the probability that is spread over all classes in the target."""
    balance: Literal["none", "inverse"] = "none"
    """Weight of a class in the loss: one, or inverse to how often it occurs."""
    class_weights: tuple[float, ...] = ()
    """Weight of every class in the loss; empty is as `balance` says."""
    pooling: task_heads.Pooling = "pooled"
    """What stands for a row: the pooled token, the first, or the mean or maximum of all."""
    hidden: task_heads.Activation | None = None
    """A layer with this nonlinearity before the scores (RoBERTa: tanh); none for no such layer."""
    kind: ClassVar[str] = "classify"

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        super().__post_init__()
        if not 0 <= self.smoothing < 1:
            raise ValueError(
                f"{self.at('smoothing')}={self.smoothing} is a share: 0 <= smoothing < 1, as 0.1"
            )
        if self.class_weights and min(self.class_weights) <= 0:
            raise ValueError(
                f"{self.at('class_weights')}: the weight {min(self.class_weights)} must be above 0"
            )
        if self.problem == "multi" and (self.smoothing or self.class_weights or self.balance != "none"):
            raise ValueError(
                f"{self.at('problem')}=multi has neither smoothing nor class weights: leave them out"
            )

    @property
    def made_up(self) -> str:
        """With several classes a text, other records."""
        return "several" if self.problem == "multi" else "classify"

    def on_made_up_records(self) -> "Classify":
        """With one class a text, or with several."""
        made = super().on_made_up_records()
        assert isinstance(made, Classify)
        return dataclasses.replace(made, problem=self.problem)

    def resolve(self, train: Split) -> "Classify":
        """With the classes of the data, and their weights."""
        names = self._names(train)
        found = collections.Counter(name for some in names if some is not None for name in some)
        labels = self.labels or train.known_classes(self.label, set(found))
        unknown = next((name for name in found if name not in labels), None)
        if unknown is not None:
            place = next(i for i, some in enumerate(names) if some is not None and unknown in some)
            raise train.unknown(place, self.label, unknown, labels, self.at("labels"))
        if len(found) < (1 if self.problem == "multi" else 2):
            has = f"have the class {next(iter(found))!r}" if found else "are without a class"
            raise ValueError(
                f"{train.name}: all {len(train)} records {has}: there is nothing to learn, give records of two or more"
            )
        weights = self.class_weights
        if not weights and self.balance == "inverse":
            total = sum(found.values())
            weights = tuple(total / (len(labels) * found[name]) if found[name] else 1.0 for name in labels)
        if weights and len(weights) != len(labels):
            raise ValueError(
                f"{self.at('class_weights')} has {len(weights)} weights for {len(labels)} classes ({', '.join(labels)})"
            )
        return dataclasses.replace(self, labels=labels, class_weights=weights)

    def _names(self, split: Split) -> Sequence[Sequence[str] | None]:
        """The classes of every record; None where it has no label."""
        if self.problem == "multi":
            return split.several(self.label, self.at("label"))
        return [None if name is None else [name] for name in split.class_names(self.label, self.at("label"))]

    # ------------------------------------------------------------------------------------------ rows

    def targets(self) -> Mapping[str, Target]:
        """The class, or a flag for each."""
        shape = (len(self.labels),) if self.problem == "multi" else ()
        return {"label": Target(np.int32, shape), "weight": WEIGHT}

    def numbers(self, split: Split) -> tuple[Int[np.ndarray, "records ..."], Float[np.ndarray, "records"]]:
        """The targets of all records."""
        if split.unlabelled(self.label):
            names: Sequence[Sequence[str] | None] = [None] * len(split)
        else:
            names = self._names(split)
        real = np.array([name is not None for name in names], np.float32)
        if self.problem == "single":
            flat = [None if name is None else name[0] for name in names]
            found = split.class_numbers(flat, self.labels, self.label, self.at("labels"))
            return np.maximum(found, 0), real
        flags = np.zeros((len(split), len(self.labels)), np.int32)
        for index, several in enumerate(names):
            for name in several or ():
                if name not in self.labels:
                    raise split.unknown(index, self.label, name, self.labels, self.at("labels"))
                flags[index, self.labels.index(name)] = 1
        return flags, real

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """A row for each record, or for each chunk of one."""
        labels, real = self.numbers(split)
        for index, row in self.rows(split, tokenizer, length):
            yield Example((row,), {"label": labels[index], "weight": real[index]}, index)

    # ------------------------------------------------------------------------------------------ learning

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """Scores of a row."""
        options = task_heads.Classify(
            classes=len(self.labels),
            labels=self.labels,
            problem=self.problem,
            pooling=self.pooling,
            hidden=self.hidden,
            dropout=self.head_dropout,
            features=self.features,
        )
        return {self.name: options.module(config)}

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The weight of the labelled examples; classes weigh differently where that was asked for."""
        return self._weights(batch).sum()

    def _weights(self, batch: Batch) -> Float[Array, "B"]:
        target = batch.targets[self.name]
        weight = jnp.asarray(target["weight"])
        if not self.class_weights:
            return weight
        return weight * jnp.asarray(self.class_weights, jnp.float32)[target["label"]]

    def judge(self, scores: Float[Array, "B C"], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the examples."""
        target = batch.targets[self.name]
        if self.problem == "multi":
            flags = target["label"].astype(jnp.float32)
            loss = (jax.nn.softplus(scores) - flags * scores).mean(-1)
            right = ((scores > 0) == (flags > 0)).all(-1)
        else:
            logs = jax.nn.log_softmax(scores)
            chosen = jnp.take_along_axis(logs, target["label"][:, None], axis=-1)[:, 0]
            loss = -((1 - self.smoothing) * chosen + self.smoothing * logs.mean(-1))
            right = scores.argmax(-1) == target["label"]
        return {
            "loss": weighted(loss, self._weights(batch)),
            "accuracy": weighted(right.astype(jnp.float32), target["weight"]),
        }

    def apart(
        self, first: Float[Array, "B C"], second: Float[Array, "B C"], batch: Batch
    ) -> tuple[Array, Array]:
        """The divergence of the classes; of several the mean of theirs."""
        if self.problem == "multi":
            spread = (jax.nn.sigmoid(first) - jax.nn.sigmoid(second)) * (first - second)
            return weighted(0.5 * spread.mean(-1), self._weights(batch))
        return weighted(divergence(first, second), self._weights(batch))

    # ------------------------------------------------------------------------------------------ using

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The probabilities of the classes."""
        del batch
        one = self.problem == "single"
        return {"probabilities": (jax.nn.softmax if one else jax.nn.sigmoid)(outputs[self.name])}

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The class or the classes with their probabilities."""
        del split
        found = []
        for row in pooled(examples, outcomes["probabilities"], self.chunks):
            row = (
                row / row.sum() if self.problem == "single" else row
            )  # the largest of several need not add up
            spread = {name: float(value) for name, value in zip(self.labels, row, strict=True)}
            if self.problem == "single":
                best = int(row.argmax())
                found.append(
                    {"label": self.labels[best], "probability": float(row[best]), "probabilities": spread}
                )
            else:
                labels = [name for name, value in spread.items() if value > 0.5]
                found.append({"labels": labels, "probabilities": spread})
        return found

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """Accuracy, F1, Matthews correlation, calibration; of several classes F1 and exact matches."""
        labels, real = self.numbers(split)
        rows = np.flatnonzero(real).tolist()
        if not len(rows):
            raise ValueError(
                f"{split.name} has no labels in the column {self.label!r} to score predictions with"
            )
        spread = np.array([list(predictions[row]["probabilities"].values()) for row in rows])
        labels = labels[rows]
        if self.problem == "multi":
            flags = spread > 0.5
            return {
                "f1_micro": multilabel.f1(flags, labels, average="micro"),
                "f1_macro": multilabel.f1(flags, labels, average="macro"),
                "exact": multilabel.exact_match(flags, labels),
            }
        best = spread.argmax(1)
        binary = {"f1": classification.f1(best, labels, average="binary")} if len(self.labels) == 2 else {}
        return {
            "accuracy": classification.accuracy(best, labels),
            **binary,
            "f1_macro": classification.f1(best, labels, average="macro"),
            "matthews": classification.matthews(best, labels),
            "calibration_error": calibration.expected_calibration_error(spread, labels),
        }
