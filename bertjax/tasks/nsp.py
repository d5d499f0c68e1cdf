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
class Nsp(Task):
    """Next-sentence prediction."""

    name: ClassVar[str] = "nsp"

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """The rows must be pairs, some of which are random."""
        del model, tasks
        if getattr(format, "negatives", None) != "random":
            raise ValueError(
                "the task nsp needs pairs with random negatives: set data.format=segment_pair or sentence_pair "
                "with data.format.negatives=random, or leave nsp out of tasks"
            )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """Two classes from the pooled first token."""
        return {"nsp": PooledHead(config, 2)}

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of rows that hold an example."""
        return batch.mask[:, 0].sum().astype(jnp.float32)

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the rows."""
        label, real = batch.targets["pair"]["label"], batch.mask[:, 0].astype(jnp.float32)
        right = (outputs["nsp"].argmax(-1) == label).astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(outputs["nsp"], label), real),
            "accuracy": weighted(right, real),
        }
