"""The encoder: embeddings, a stack of blocks, and a pooled first token (BERT, 1810.04805)."""

import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention import Context, check_attention
from bertjax.layers.config import EncoderConfig
from bertjax.layers.einsum import Einsum, kernel_init
from bertjax.layers.embed import Embedder
from bertjax.layers.mask import AttentionMask
from bertjax.layers.norm import Norm
from bertjax.layers.position import scheme_of
from bertjax.models.stack import Stack
from bertjax.types import Array, Batch, EncoderOutput


class Encoder(nn.Module):
    """Tokens in, hidden states out."""

    config: EncoderConfig
    keep_states: bool = False

    def setup(self) -> None:
        """Declares the parts."""
        c = self.config
        self.position = scheme_of(c.position).module(c)
        self.embedder = Embedder(c, self.position)
        self.stack = Stack(c, self.keep_states)
        if c.block == "pre":
            self.final_norm = Norm(c)
        init, axes = kernel_init(c.init_std), ("width", "output")
        self.pooler = Einsum("bd,de->be", (c.width, c.width), axes, c.compute, init)

    def __call__(
        self, batch: Batch, *, train: bool, mask: AttentionMask | None = None, step: Array | int | None = None
    ) -> EncoderOutput:
        """Hidden states of every token; `mask` restricts attention beyond padding and packing.

        `step` is the step of training, for what changes on a schedule (the random features of a performer).
        """
        allowed = AttentionMask(valid=batch.mask, segments=batch.segments)
        allowed = allowed if mask is None else allowed & mask
        check_attention(self.config, causal=allowed.causal or allowed.window is not None)
        context = Context(
            mask=allowed,
            positions=batch.positions,
            scores=self.position.bias(batch.tokens.shape[1]),
            relative=self.position.relative(batch.tokens.shape[1]),
            step=step,
        )
        x, states = self.stack(self.embedder(batch, train=train), context, train=train)
        if self.config.block == "pre":
            x = self.final_norm(x)
        return EncoderOutput(hidden=x, pooled=jnp.tanh(self.pooler(x[:, 0])), states=states)
