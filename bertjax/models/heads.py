"""What stands on the encoder for pretraining (BERT, 1810.04805, Section 3.1).

    masked LM    logits = norm(act(h W + b)) Tᵀ + c, only at the masked positions; T is the token embedding, or the
                 head's own matrix, and W leads to its width
    sentence     logits = pooled W + b, two classes

A head is called with the encoder's output, the batch, and the token embedding.
"""

import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.einsum import add_bias, einsum, kernel_init
from bertjax.layers.mlp import ACTIVATIONS
from bertjax.layers.norm import Norm
from bertjax.types import Array, Batch, EncoderOutput, Float, Int

NEVER = -1e9  # the logit of embedding rows that are no tokens


def gather(hidden: Float[Array, "B L D"], where: Int[Array, "B S"]) -> Float[Array, "B S D"]:
    """The hidden states at given positions of each row."""
    hidden = sharding.shard(
        hidden, "batch", "length", "act_width"
    )  # and so is what is scattered back into it
    return jnp.take_along_axis(hidden, where[:, :, None], axis=1)


class MaskedLmHead(nn.Module):
    """Logits over the vocabulary, where `batch.targets[task]["positions"]` says or everywhere."""

    config: EncoderConfig
    task: str

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B S V"]:
        """Float32 logits; rows of the table past the vocabulary get one that is never chosen."""
        c = self.config
        targets = batch.targets.get(self.task, {})
        x = gather(output.hidden, targets["positions"]) if "positions" in targets else output.hidden
        x = sharding.shard(x, "batch", "predictions", "act_width")
        shape, axes = (c.width, c.table_width), ("width", "output")
        x = dense(c, "bsd,de->bse", shape, axes, "head", name="transform")(x)
        x = sharding.shard(x, "batch", "predictions", "act_width")
        x = Norm(c, name="norm")(ACTIVATIONS[c.head_activation or c.activation](x))
        return vocabulary_logits(self, x, table, c)


def vocabulary_logits(
    head: nn.Module, x: Float[Array, "B S E"], table: Float[Array, "V E"], config: EncoderConfig
) -> Float[Array, "B S V"]:
    """Float32 products with the token embedding, or a table of the head's own, plus a bias of its own."""
    if not config.tied:
        init, shape = kernel_init(config.init_std), (config.rows, config.table_width)
        table = sharding.param(head, "table", init, shape, ("vocab", "width"))
    bias = sharding.param(head, "bias", nn.initializers.zeros, (config.rows,), ("vocab",))
    # In the bias, the mask costs no pass over the logits, forward or backward: their softmax there is zero.
    bias = jnp.where(jnp.arange(config.rows) < config.vocab, bias, NEVER)
    logits = add_bias(einsum("bse,ve->bsv", x, table, config.compute).astype(jnp.float32), bias)
    return sharding.shard(logits, "batch", "predictions", "act_vocab")


class PooledHead(nn.Module):
    """Class logits from the pooled first token."""

    config: EncoderConfig
    classes: int

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B C"]:
        """Float32 logits."""
        del batch, table
        c, axes = self.config, ("width", "classes")
        layer = dense(c, "bd,dc->bc", (c.width, self.classes), axes, "head", name="output", bias=True)
        return layer(output.pooled).astype(jnp.float32)
