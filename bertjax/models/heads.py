"""What stands on the encoder for pretraining (BERT, 1810.04805, Section 3.1).

    masked LM    logits = norm(act(h W + b)) Eᵀ + c, with E the token embedding, only at the masked positions
    sentence     logits = pooled W + b, two classes

A head is called with the encoder's output, the batch, and the token embedding.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.einsum import Einsum, einsum, kernel_init
from bertjax.layers.mlp import ACTIVATIONS
from bertjax.layers.norm import Norm
from bertjax.types import Array, Batch, EncoderOutput, Float, Int

NEVER = -1e9  # the logit of embedding rows that are no tokens


def gather(hidden: Float[Array, "B L D"], where: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """The hidden states at given positions of each row."""
    return jnp.take_along_axis(hidden, where[:, :, None], axis=1)


class MaskedLmHead(nn.Module):
    """Logits over the vocabulary, where `batch.targets[task]["positions"]` says or everywhere."""

    config: EncoderConfig
    task: str

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V D"]
    ) -> Float[Array, "B S V"]:
        """Float32 logits; rows of the embedding past the vocabulary get a logit that is never chosen."""
        c, init = self.config, kernel_init(self.config.init_std)
        targets = batch.targets.get(self.task, {})
        x = gather(output.hidden, targets["positions"]) if "positions" in targets else output.hidden
        x = sharding.shard(x, "batch", "predictions", "act_width")
        x = Einsum("bsd,de->bse", (c.width, c.width), ("width", "output"), c.compute, init, name="transform")(
            x
        )
        x = Norm(c, name="norm")(ACTIVATIONS[c.activation](x))
        bias = sharding.param(self, "bias", nn.initializers.zeros, (c.rows,), ("vocab",))
        logits = einsum("bsd,vd->bsv", x, table, c.compute).astype(jnp.float32) + bias[None, None, :]
        is_token = (jnp.arange(c.rows) < c.vocab)[None, None, :]
        return sharding.shard(jnp.where(is_token, logits, NEVER), "batch", "predictions", "act_vocab")


class PooledHead(nn.Module):
    """Class logits from the pooled first token."""

    config: EncoderConfig
    classes: int

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V D"]
    ) -> Float[Array, "B C"]:
        """Float32 logits."""
        del batch, table
        c, init = self.config, kernel_init(self.config.init_std)
        axes = ("width", "classes")
        logits = Einsum("bd,dc->bc", (c.width, self.classes), axes, c.compute, init, name="output")(
            output.pooled
        )
        return logits.astype(jax.numpy.float32)
