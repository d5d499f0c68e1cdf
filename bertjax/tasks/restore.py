"""Finding the text behind a generator's samples: ELECTRA's two forms between BERT and itself (2003.10555, Section 3.5).

    over=hidden    "Replace MLM": the tokens of the text at the sampled positions
    over=all       "All-Tokens MLM": all tokens of the text, by a distribution that may copy its input

                   p(x) = c 1[x = input] + (1 - c) softmax(logits)[x],     c = sigmoid(h . w + b)

Both are learned beside the generator: `tasks=generator,restore`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.metrics import cross_entropy, weighted
from bertjax.models.heads import MaskedLmHead
from bertjax.tasks.base import Task
from bertjax.tasks.generator import original
from bertjax.tasks.mlm import token_metrics
from bertjax.tasks.rtd import SampledTask
from bertjax.types import Array, Batch, EncoderOutput, Float, Metrics


class CopyHead(nn.Module):
    """A distribution over the vocabulary at every position, and the share of it that copies the input."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "rows width"]
    ) -> Mapping[str, Array]:
        """`logits` [B L V], `copy` [B L], the logit of c, and `input` [B L], the tokens read."""
        c = self.config
        copy = dense(c, "bld,dc->blc", (c.width, 1), ("width", "classes"), "head", name="copy")
        return {
            "logits": MaskedLmHead(c, "restore", name="head")(output, batch, table),
            "copy": copy(output.hidden)[:, :, 0].astype(jnp.float32),
            "input": batch.tokens,
        }


@dataclasses.dataclass(frozen=True)
class Restore(SampledTask):
    """Predicts the text from samples of a generator."""

    name: ClassVar[str] = "restore"
    predicts_tokens: ClassVar[bool] = True

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """A distribution over the vocabulary at the sampled positions, or everywhere with a share of copying."""
        return {"restore": MaskedLmHead(config, "generator") if self.over == "hidden" else CopyHead(config)}

    def predicted(self, tasks: Sequence[Task]) -> float:
        """Everything, or what the generator samples."""
        if self.over == "all":
            return 1.0
        return sum(task.predicted(tasks) for task in tasks if task.name == "generator")

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the tokens that count."""
        if self.over == "hidden":
            return token_metrics(outputs["restore"], batch.targets["generator"])
        output, text, counts = outputs["restore"], original(batch), self.counted(batch)
        logits, copy, kept = output["logits"], output["copy"], output["input"] == text
        written = -cross_entropy(logits, text) - jax.nn.softplus(copy)  # log (1 - c) softmax[x]
        copied = jnp.where(kept, -jax.nn.softplus(-copy), -jnp.inf)  # log c 1[x = input]
        # The likeliest token is the input or the best of the softmax, whichever has more.
        best = -jax.nn.softplus(copy) + logits.max(-1) - jax.nn.logsumexp(logits, -1)
        again = jnp.logaddexp(
            -jax.nn.softplus(-copy), -cross_entropy(logits, output["input"]) - jax.nn.softplus(copy)
        )
        guess = jnp.where(again >= best, output["input"], logits.argmax(-1))
        return {
            "loss": weighted(-jnp.logaddexp(written, copied), counts),
            "accuracy": weighted((guess == text).astype(jnp.float32), counts),
        }
