"""Next-sentence prediction (BERT, 1810.04805, Section 3.1): does the second segment follow the first?

The pairs and their labels (0 = follows, 1 = random, as in BERT) come from a pair format with random negatives.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, weighted
from bertjax.models.heads import PooledHead
from bertjax.tasks.base import Task
from bertjax.types import Array, Batch, Float, Metrics


@dataclasses.dataclass(frozen=True)
class PairTask(Task):
    """Tells pairs apart that a format has labelled."""

    negatives: ClassVar[str]  # what the format must have put behind label 1

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """The rows must be pairs with labels of this kind."""
        del model, tasks
        found = getattr(format, "negatives", None)
        if found != self.negatives:
            has = "has no pairs" if found is None else f"has negatives={found}"
            raise ValueError(
                f"the task {self.name} needs pairs with negatives={self.negatives} and data.format {has}: set "
                f"data.format=segment_pair and data.format.negatives={self.negatives}, or leave out {self.name}"
            )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """Two classes from the pooled token."""
        return {self.name: PooledHead(config, 2)}

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of rows that hold an example."""
        return batch.mask[:, 0].sum().astype(jnp.float32)

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the rows."""
        label, real = batch.targets["pair"]["label"], batch.mask[:, 0].astype(jnp.float32)
        right = (outputs[self.name].argmax(-1) == label).astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(outputs[self.name], label), real),
            "accuracy": weighted(right, real),
        }


@dataclasses.dataclass(frozen=True)
class Nsp(PairTask):
    """Next-sentence prediction."""

    name: ClassVar[str] = "nsp"
    negatives: ClassVar[str] = "random"
