"""The encoder: embeddings, a stack of blocks, and a pooled first token (BERT, 1810.04805).

    post-norm   x = norm(x + attention(x)),  x = norm(x + mlp(x))                  (BERT)
    pre-norm    x = x + attention(norm(x)),  x = x + mlp(norm(x)),  norm at the end

Layers may differ by a pattern (`AttentionOptions.period`); the unit of the stack is one period of it, so that depth
stays free. With `scan` the periods are one compiled loop over stacked parameters, without it they are unrolled;
`models/stacking.py` turns the parameters of one into those of the other.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention import Context, check_attention, make_attention
from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.dropout import Dropout
from bertjax.layers.einsum import Einsum, kernel_init
from bertjax.layers.embed import Embedder
from bertjax.layers.mask import AttentionMask
from bertjax.layers.mlp import Mlp
from bertjax.layers.norm import Norm
from bertjax.layers.position import scheme_of
from bertjax.sharding import shard
from bertjax.types import Array, Batch, EncoderOutput, Float

REMAT_POLICIES = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Block(nn.Module):
    """One layer: attention and feed-forward, each a residual branch."""

    config: EncoderConfig
    options: AttentionOptions

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, train: bool) -> Float[Array, "B L D"]:
        """The residual stream after this layer."""
        c = self.config
        attention = make_attention(c, self.options, name="attention")
        mlp, drop = Mlp(c, name="mlp"), Dropout(c.dropout)
        first, second = Norm(c, name="attention_norm"), Norm(c, name="mlp_norm")
        if c.block == "pre":
            x = x + drop(attention(first(x), context, train=train), train=train)
            x = x + drop(mlp(second(x)), train=train)
        else:
            x = first(x + drop(attention(x, context, train=train), train=train))
            x = second(x + drop(mlp(x), train=train))
        return shard(x, "batch", "length", "act_width")


class Period(nn.Module):
    """The blocks after which the pattern of layers repeats."""

    config: EncoderConfig
    keep_states: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, train: bool) -> tuple[Array, Array | None]:
        """The residual stream at the end and, if they are kept, after each block [P B L D]."""
        states = []
        for index, options in enumerate(self.config.attention.period()):
            x = Block(self.config, options, name=f"block_{index}")(x, context, train)
            states.append(x)
        return x, jnp.stack(states) if self.keep_states else None


class Stack(nn.Module):
    """All blocks: periods under a scan (`layers`, parameters stacked) or one after the other (`layers_0` ...)."""

    config: EncoderConfig
    keep_states: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], context: Context, *, train: bool
    ) -> tuple[Array, Array | None]:
        """The residual stream at the end and, if they are kept, before and after every block [N+1 B L D]."""
        c, first = self.config, x
        repeats = c.layers // len(c.attention.period())
        period: Any = Period
        if c.remat != "none":
            # Static arguments are counted with self: the third is `train`. Inside a scan nothing can be merged away.
            period = nn.remat(
                period, policy=REMAT_POLICIES[c.remat], static_argnums=(3,), prevent_cse=not c.scan
            )
        if c.scan:
            scanned = nn.scan(
                period,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast),
                length=repeats,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, stacked = scanned(c, self.keep_states, name="layers")(x, context, train)
            collected = [stacked.reshape(-1, *x.shape)] if self.keep_states else []
        else:
            collected = []
            for index in range(repeats):
                x, stacked = period(c, self.keep_states, name=f"layers_{index}")(x, context, train)
                collected.append(stacked)
        return x, jnp.concatenate([first[None], *collected]) if self.keep_states else None


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

    def __call__(self, batch: Batch, *, train: bool, mask: AttentionMask | None = None) -> EncoderOutput:
        """Hidden states of every token; `mask` restricts attention beyond padding and packing."""
        allowed = AttentionMask(valid=batch.mask, segments=batch.segments)
        allowed = allowed if mask is None else allowed & mask
        check_attention(self.config, causal=allowed.causal or allowed.window is not None)
        context = Context(
            mask=allowed,
            positions=batch.positions,
            bias=self.position.bias(batch.positions),
        )
        x, states = self.stack(self.embedder(batch, train=train), context, train=train)
        if self.config.block == "pre":
            x = self.final_norm(x)
        return EncoderOutput(hidden=x, pooled=jnp.tanh(self.pooler(x[:, 0])), states=states)
