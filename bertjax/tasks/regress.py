"""Regression of a number from a text or a pair, as similarity in STS-B (BERT, 1810.04805, Section 4.1).

    loss = (W h + b - y)²

The score is the correlation over all held-out records, so scale and offset of y do not matter for it.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.labelled.examples import Example, LabelledExamples, Target
from bertjax.data.labelled.split import Split
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import weighted
from bertjax.models import task_heads
from bertjax.scores import correlation
from bertjax.tasks.labelled import WEIGHT, Prediction
from bertjax.tasks.texts import TextTask, pooled
from bertjax.types import Array, Batch, Float, Metrics


@dataclasses.dataclass(frozen=True)
class Regress(TextTask):
    """Gives a text, or a pair of texts, a number."""

    pooling: task_heads.Pooling = "pooled"
    """What stands for a row: the pooled token, the first, or the mean or maximum of all."""
    hidden: task_heads.Activation | None = None
    """A layer with this nonlinearity before the score (RoBERTa: tanh); none for no such layer."""

    kind: ClassVar[str] = "regress"

    def on_made_up_records(self) -> "Regress":
        """With the pairs that those have."""
        made = super().on_made_up_records()
        assert isinstance(made, Regress)
        return dataclasses.replace(made, pair="pair")

    def resolve(self, train: Split) -> "Regress":
        """As it is, if there is anything to learn."""
        values = train.numbers(self.label, self.at("label"))
        if not np.isfinite(values).any() or np.nanstd(values) == 0:
            raise ValueError(
                f"{train.name}: all numbers in {self.label!r} are equal or missing: nothing can be learned"
            )
        return self

    def targets(self) -> Mapping[str, Target]:
        """The number."""
        return {"label": Target(np.float32), "weight": WEIGHT}

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """A row for each record, or for each chunk of one."""
        values = split.numbers(self.label, self.at("label"))
        for index, row in self.rows(split, tokenizer, length):
            real = np.isfinite(values[index])
            yield Example((row,), {"label": values[index] if real else 0.0, "weight": float(real)}, index)

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """One score of a row."""
        options = task_heads.Classify(
            classes=1,
            problem="regression",
            pooling=self.pooling,
            hidden=self.hidden,
            dropout=self.head_dropout,
            features=self.features,
        )
        return {self.name: options.module(config)}

    def judge(self, scores: Float[Array, "B 1"], batch: Batch) -> Metrics:
        """The mean squared error."""
        target = batch.targets[self.name]
        return {"loss": weighted(jnp.square(scores[:, 0] - target["label"]), target["weight"])}

    def apart(
        self, first: Float[Array, "B 1"], second: Float[Array, "B 1"], batch: Batch
    ) -> tuple[Array, Array]:
        """The squared difference."""
        return weighted(jnp.square(first - second)[:, 0], batch.targets[self.name]["weight"])

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The number."""
        del batch
        return {"value": outputs[self.name][:, 0]}

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The number."""
        del split
        return [{"value": float(value)} for value in pooled(examples, outcomes["value"], self.chunks)]

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """Correlations, of the numbers and of their ranks, and the error."""
        wanted = split.numbers(self.label, self.at("label"))
        rows = np.flatnonzero(np.isfinite(wanted)).tolist()
        if not len(rows):
            raise ValueError(
                f"{split.name} has no numbers in the column {self.label!r} to score predictions with"
            )
        found, wanted = np.array([predictions[row]["value"] for row in rows]), wanted[rows]
        return {
            "pearson": correlation.pearson(found, wanted),
            "spearman": correlation.spearman(found, wanted),
            "squared_error": float(np.square(found - wanted).mean()),
        }
