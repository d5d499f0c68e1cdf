"""Causal language modelling: every token is predicted from those before it, or from those after it.

    left to right    sum over i of -log p(x[i] | x[1 .. i-1])      BERT's "LTR" ablation (1810.04805, Section 5.1)
    right to left    sum over i of -log p(x[i] | x[i+1 .. n])

The direction is the encoder's (`model.direction`), so that whatever reads the model later reads the same way. All
tokens of a sequence but the first one read are predicted, the special ones included; of packed rows each sequence is
its own. No task that hides tokens can share the pass: the text to predict would not be there.

Deviation: the logits are those of the masked-LM head, with its extra layer, so that the two objectives compare.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.models.heads import MaskedLmHead
from bertjax.tasks.base import Task
from bertjax.tasks.mlm import token_metrics
from bertjax.types import Array, Batch, Bool, EncoderOutput, Float, Metrics

NO_TARGETS = Batch(None, None, None, None, None, {}, None, None)


class NextTokenHead(nn.Module):
    """Logits at every position, and what they should say: the neighbour that the encoder has not read yet."""

    config: EncoderConfig
    task: str

    def setup(self) -> None:
        """Declares the masked-LM head."""
        self.head = MaskedLmHead(self.config, self.task)

    def after(
        self, hidden: Float[Array, "B L D"], table: Float[Array, "rows width"]
    ) -> Float[Array, "B L V"]:
        """The logits of what comes next, for hidden states that are given."""
        return self.head(EncoderOutput(hidden=hidden, pooled=None), NO_TARGETS, table)

    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "rows width"]
    ) -> Mapping[str, Array]:
        """`logits` [B L V], `labels` and `weights` [B L]."""
        logits = self.head(output, batch, table)
        joined, ahead = neighbours(batch).astype(jnp.float32), self.config.direction == "left_to_right"
        shift = -1 if ahead else 1
        return {
            "logits": logits,
            "labels": jnp.roll(batch.tokens, shift, axis=1),
            "weights": jnp.pad(joined, ((0, 0), (0, 1) if ahead else (1, 0))),
        }


@dataclasses.dataclass(frozen=True)
class Clm(Task):
    """Causal language modelling."""

    name: ClassVar[str] = "clm"
    predicts_tokens: ClassVar[bool] = True

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """The encoder reads in one direction, and the text is all there."""
        del format
        if model.direction == "both":
            raise ValueError(
                "the task clm predicts what the encoder has not read, and model.direction=both reads everything: "
                "set model.direction=left_to_right or right_to_left"
            )
        for task in tasks:
            if task.hides_tokens:
                raise ValueError(
                    f"the task clm predicts the tokens of the text, and {task.name} hides some in the same pass: "
                    f"keep one of them"
                )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """A distribution over the vocabulary at every position."""
        return {"clm": NextTokenHead(config, "clm")}

    def predicted(self, tasks: Sequence[Task]) -> float:
        """Everything."""
        del tasks
        return 1.0

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of tokens that are not the first of their sequence."""
        return neighbours(batch).sum().astype(jnp.float32)

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over all predictions."""
        del batch
        return token_metrics(outputs["clm"]["logits"], outputs["clm"])


def neighbours(batch: Batch) -> Bool[Array, "B pairs"]:
    """Whether a token and the next one are of one sequence."""
    joined = batch.mask[:, :-1] & batch.mask[:, 1:]
    if batch.segments is not None:
        joined = joined & (batch.segments[:, :-1] == batch.segments[:, 1:])
    return joined
