"""The span boundary objective (SpanBERT, 1907.10529, Section 3.2): a hidden span from what stands at its two ends.

    h = norm(act(L x[s-1] + R x[e+1] + p[i-s+1] + b)),   g = norm(act(h W + d)),   logits = g Eᵀ + c

for the i-th token of the hidden span s ... e, beside the masked-LM loss of the same tokens. Spans are the maximal runs
of tokens that the task `mlm` has chosen, which are its spans with `tasks.mlm.masking=span`: a word stays visible
between two of them. Positions past the last of the table share its last row.

Deviation: the paper multiplies a position of 200 numbers by a part of one matrix; here the table holds the product.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.einsum import kernel_init
from bertjax.layers.mlp import ACTIVATIONS
from bertjax.layers.norm import Norm
from bertjax.models.heads import gather, vocabulary_logits
from bertjax.tasks.base import Task
from bertjax.tasks.mlm import token_metrics
from bertjax.types import Array, Batch, EncoderOutput, Float, Int, Metrics


@dataclasses.dataclass(frozen=True)
class Sbo(Task):
    """Predicts hidden spans from their boundaries."""

    positions: int = 20
    """Places inside a span that are told apart."""

    name: ClassVar[str] = "sbo"
    predicts_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses a table without rows."""
        if self.positions < 1:
            raise ValueError(
                f"tasks.sbo.positions={self.positions} must be at least 1; 20 serve spans of ten words"
            )

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """There must be hidden tokens."""
        del model, format
        if not any(task.name == "mlm" for task in tasks):
            raise ValueError(
                "the task sbo predicts what mlm has hidden, and mlm is not in tasks: set tasks=mlm,sbo and "
                "tasks.mlm.masking=span"
            )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """A distribution over the vocabulary at every hidden position."""
        return {"sbo": BoundaryHead(config, self.positions)}

    def predicted(self, tasks: Sequence[Task]) -> float:
        """As much as is hidden."""
        return sum(task.predicted(tasks) for task in tasks if task.name == "mlm")

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of hidden tokens."""
        return batch.targets["mlm"]["weights"].sum()

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the hidden tokens."""
        return token_metrics(outputs["sbo"], batch.targets["mlm"])


class BoundaryHead(nn.Module):
    """Logits over the vocabulary at the hidden positions, from the ends of their spans."""

    config: EncoderConfig
    positions: int

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B S V"]:
        """Float32 logits."""
        c = self.config
        act, square, axes = ACTIVATIONS[c.activation], (c.width, c.width), ("width", "output")
        left, right, place = boundaries(batch)
        before = dense(c, "bsd,de->bse", square, axes, "head", name="left")
        after = dense(c, "bsd,de->bse", square, axes, "head", name="right", bias=False)
        init, shape = kernel_init(c.init_std), (self.positions, c.width)
        rows = sharding.param(self, "positions", init, shape, ("table", "width"))
        rows = sharding.shard(
            rows, None, "act_width"
        )  # whole before it is read, or the places of all rows would meet
        x = before(gather(output.hidden, left)) + after(gather(output.hidden, right))
        x = x + jnp.take(rows, place, axis=0, mode="clip").astype(x.dtype)
        x = Norm(c, name="left_norm")(act(sharding.shard(x, "batch", "predictions", "act_width")))
        x = dense(c, "bsd,de->bse", (c.width, c.table_width), axes, "head", name="transform")(x)
        return vocabulary_logits(self, Norm(c, name="norm")(act(x)), table, c)


def boundaries(
    batch: Batch,
) -> tuple[Int[Array, "B S"], Int[Array, "B S"], Int[Array, "B S"]]:
    """For every hidden token the positions before and after its span, and its place in the span from 0."""
    target = batch.targets["mlm"]
    rows, length = batch.tokens.shape
    mark = jax.vmap(
        lambda where, real: jnp.zeros(length, bool).at[where].set(real)
    )  # row by row: nothing is gathered
    hidden = mark(target["positions"], target["weights"] > 0)
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    left = jax.lax.cummax(jnp.where(hidden, 0, index), axis=1)
    right = jax.lax.cummin(jnp.where(hidden, length - 1, index), axis=1, reverse=True)
    left, right = (jnp.take_along_axis(x, target["positions"], axis=1) for x in (left, right))
    return left, right, jnp.maximum(target["positions"] - left - 1, 0)
