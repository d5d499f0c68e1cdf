"""The protocol of a labelled task whose head gives scores: how one pass is judged, and how far two passes are apart.

    judge(scores, batch)          the metrics of one pass, among them "loss"
    apart(first, second, batch)   the symmetric divergence of two passes over the same examples, its sum and weight

    symmetric divergence of p and q   (KL(p, q) + KL(q, p)) / 2 = Σ (p - q) (log p - log q) / 2

R-Drop (2106.14448, Equation 4): every row is read twice with other dropout, and what is predicted is drawn together,

    loss = (loss of the first + loss of the second) / 2 + r_drop * apart

Numbers, which have no distribution, are (p - q)² apart. The same divergence is what SiFT trains against noise
(adversarial.py). What a head reads of the encoder, and its dropout, are settings of all such tasks.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.models.features import Features
from bertjax.models.task_heads import check_pooling
from bertjax.tasks.base import Task
from bertjax.tasks.labelled import LabelledTask
from bertjax.types import Array, Batch, Float, Int, Key, Metrics


@dataclasses.dataclass(frozen=True)
class ScoredTask(LabelledTask):
    """Base of the tasks whose heads give scores."""

    r_drop: float | None = None
    """Weight of the divergence between two passes with other dropout; none makes one pass."""
    head_dropout: float | None = None
    """Rate before the scores; none takes the encoder's."""
    features: Features | None = None
    """What the head reads: chosen layers, a BiLSTM over them; none reads the last layer."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        if self.r_drop is not None and self.r_drop <= 0:
            raise ValueError(f"{self.at('r_drop')}={self.r_drop} must be above 0, or none for one pass")
        check_pooling(f"tasks.{self.kind}", self.features, getattr(self, "pooling", "first"))

    @abc.abstractmethod
    def judge(self, scores: Array, batch: Batch) -> Metrics:
        """Sums and weights of one pass; contains "loss"."""

    @abc.abstractmethod
    def apart(self, first: Array, second: Array, batch: Batch) -> tuple[Array, Array]:
        """Sum and weight of how far apart two passes are, weighing as the loss does."""

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """Its features are of layers that there are."""
        super().check(model, format, tasks)
        if self.features is not None:
            self.features.numbers(model.layers)

    def on_made_up_records(self) -> "ScoredTask":
        """With the same features of a smaller encoder."""
        made = super().on_made_up_records()
        assert isinstance(made, ScoredTask)
        if self.features is None:
            return made
        changes: dict[str, Any] = {"features": self.features.small()}
        if hasattr(self, "pooling"):
            changes["pooling"] = self.pooling
        return dataclasses.replace(made, **changes)

    def corrupt(self, batch: Batch, key: Key, vocabulary: Vocabulary, step: Int[Array, ""]) -> Batch:
        """With R-Drop the rows of every example twice, one below the other."""
        del key, vocabulary, step
        if self.r_drop is None or self.name not in batch.targets:
            return batch

        def twice(x: Array) -> Array:
            apart = x.reshape(-1, self.group, *x.shape[1:])
            return jnp.repeat(apart, 2, axis=0).reshape(-1, *x.shape[1:])

        return jax.tree.map(twice, batch.replace(targets={})).replace(targets=batch.targets)

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """What the passes are worth, and with R-Drop what they are apart."""
        once = self.single(batch)
        first, *more = self.passes(outputs[self.name], batch)
        judged = self.judge(first, once)
        if not more:
            return judged
        assert self.r_drop is not None
        again = self.judge(more[0], once)
        metrics = {name: ((value + again[name][0]) / 2, weight) for name, (value, weight) in judged.items()}
        metrics["divergence"] = distance, weight = self.apart(first, more[0], once)
        return {**metrics, "loss": (metrics["loss"][0] + self.r_drop * distance, weight)}

    def passes(self, x: Array, batch: Batch) -> list[Array]:
        """What has an entry for every row, pass by pass: one, or in training with R-Drop two."""
        examples = len(next(iter(batch.targets[self.name].values())))
        number = len(batch.tokens) // (examples * self.group)
        apart = x.reshape(examples, number, self.group, *x.shape[1:])
        return [apart[:, one].reshape(-1, *x.shape[1:]) for one in range(number)]

    def single(self, batch: Batch) -> Batch:
        """The batch of one pass."""
        rows = jax.tree.map(lambda x: self.passes(x, batch)[0], batch.replace(targets={}))
        return rows.replace(targets=batch.targets)


def divergence(first: Float[Array, "*B C"], second: Float[Array, "*B C"]) -> Float[Array, "*B"]:
    """How far apart the distributions of two arrays of logits are, symmetrically."""
    logs, others = jax.nn.log_softmax(first), jax.nn.log_softmax(second)
    return 0.5 * ((jnp.exp(logs) - jnp.exp(others)) * (logs - others)).sum(-1)


def distance(
    tasks: Sequence[Task],
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    batch: Batch,
    counts: Mapping[str, Array],
) -> tuple[Array, Metrics]:
    """How far apart two outputs of a network are, in the measure of the loss, and the sums that it is made of."""
    total: Array = jnp.zeros((), jnp.float32)
    metrics: Metrics = {}
    for task in tasks:
        if not task.serves(batch):
            continue
        assert isinstance(task, ScoredTask)
        once = task.single(batch)
        pairs = zip(task.passes(first[task.name], batch), task.passes(second[task.name], batch), strict=True)
        found = [task.apart(one, other, once) for one, other in pairs]
        value, weight = sum(one[0] for one in found) / len(found), found[0][1]
        total = total + task.weight * value / counts[task.name]
        metrics[f"{task.name}_noise_divergence"] = value, weight
    return total, metrics
