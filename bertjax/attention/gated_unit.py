"""Gated attention unit (FLASH, 2202.10447): one head, one gate, no feed-forward part beside it.

    u = silu(x Wu),   v = silu(x Wv),   z = silu(x Wz)            u, v [L F],  z [L size]
    q = γ₁ z + β₁,    k = γ₂ z + β₂
    unit(x) = (u ∘ A v) Wo

    quadratic   A = relu(q kᵀ / sqrt(size))² / n                                       n keys seen
    chunked     A v = relu(q kᵀ / sqrt(size))² v / n   inside chunks of `chunk` tokens
                    + q' (k'ᵀ v) / n'                  over the whole row, linearly    with scales of their own

The unit takes the place of attention and feed-forward part together: a block holds nothing else, and F is
model.feedforward. With the default F = 4 D a block has as many parameters as a Transformer's; the paper's models are
twice as deep with F = 2 D (model.layers=24 model.feedforward=1536 for the base size).

Cost: O(L² (size + F)) time and O(L²) memory, or O(L chunk F) and O(L (chunk + F)) for `chunked`.

Deviations: γ begins at 1 and scores are divided by sqrt(size), where the paper begins γ at about 0.02; n counts the
keys that a query may see, not the padded row; positions are those of the model (RoPE turns q and k), the unit adds no
bias of its own; the linear sum of a causal chunked unit includes what precedes in the query's own chunk. Weights do
not sum to one, and a query that may see nothing gets zeros.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention.base import Attention, Context
from bertjax.attention.recurrence import hide, visible_sum
from bertjax.attention.window import to_blocks
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dense import dense
from bertjax.layers.dropout import Dropout
from bertjax.layers.mask import AttentionMask
from bertjax.sharding import shard
from bertjax.types import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class GatedUnit(AttentionOptions):
    """Single-head attention with a squared ReLU, inside a gate, in place of attention and feed-forward part."""

    form: Literal["quadratic", "chunked"] = "quadratic"
    """All pairs of tokens, or pairs inside chunks and a linear sum over the rest."""
    size: int = 128
    """Width of queries and keys."""
    chunk: int = 256
    """Tokens in a chunk."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        for name in ("size", "chunk"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.attention.{name}={getattr(self, name)}: 1 or more")


class GatedUnitAttention(Attention):
    """Gate, values, and one small projection that serves as queries and as keys."""

    options: GatedUnit

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        c, shape, axes = self.config, (self.config.width, self.config.hidden), ("width", "feedforward")
        gate = jax.nn.silu(dense(c, "bld,df->blf", shape, axes, "branch", name="gate")(x))
        gate = shard(gate, "batch", "length", "act_feedforward")
        value = jax.nn.silu(dense(c, "bld,df->blf", shape, axes, "branch", name="value")(x))
        v = hide(shard(value, "batch", "key_length", "act_feedforward"), context.mask)
        shape, axes = (c.width, self.options.size), ("width", "head_size")
        z = jax.nn.silu(dense(c, "bld,dk->blk", shape, axes, "score", name="base")(x))
        if self.options.form == "quadratic":
            q, k = self.views(z, 2, context)
            y = self.quadratic(q, k, v, context.mask, train=train)
        else:
            near_q, near_k, q, k = self.views(z, 4, context)
            y = self.inside_chunks(near_q, near_k, v, context.mask, train=train)
            y = y + self.over_the_row(q, k, v, context.mask)
        y = shard(gate * y.astype(gate.dtype), "batch", "length", "act_feedforward")
        shape, axes = (c.hidden, c.width), ("feedforward", "width")
        return dense(c, "blf,fd->bld", shape, axes, "exit", name="output")(y)

    def views(self, z: Float[Array, "B L K"], number: int, context: Context) -> list[Any]:
        """Queries and keys [B L 1 K]: z with a scale and an offset each, turned by their positions."""
        shape, axes = (number, z.shape[-1]), ("output", "head_size")
        scales = sharding.param(self, "scales", nn.initializers.ones, shape, axes).astype(z.dtype)
        offsets = sharding.param(self, "offsets", nn.initializers.zeros, shape, axes).astype(z.dtype)
        made = []
        for i in range(number):
            x = z * scales[i][None, None] + offsets[i][None, None]
            x = self.rotate(x[:, :, None], context.positions)
            made.append(shard(x, "batch", "length" if i % 2 == 0 else "key_length", None, "act_head_size"))
        return made

    def quadratic(
        self,
        q: Float[Array, "B L 1 K"],
        k: Float[Array, "B L 1 K"],
        v: Float[Array, "B L F"],
        mask: AttentionMask,
        *,
        train: bool,
    ) -> Float[Array, "B L F"]:
        """Every pair of tokens."""
        scores = jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32)
        weights = squared(scores, mask.matrix(q.shape[1], k.shape[1]), self.options.size).astype(v.dtype)
        self.sow("intermediates", "attention", weights)
        weights = Dropout(self.config.attention_dropout)(weights, train=train)
        return jnp.einsum("bhlm,bmf->blf", weights, v, preferred_element_type=jnp.float32)

    def inside_chunks(
        self,
        q: Float[Array, "B L 1 K"],
        k: Float[Array, "B L 1 K"],
        v: Float[Array, "B L F"],
        mask: AttentionMask,
        *,
        train: bool,
    ) -> Float[Array, "B L F"]:
        """Pairs of tokens of one chunk."""
        length = q.shape[1]
        chunk = min(self.options.chunk, length)
        q, k, v = (to_blocks(x, chunk) for x in (q, k, v))
        index = jnp.arange(q.shape[1] * chunk, dtype=jnp.int32).reshape(1, -1, chunk)
        allowed = mask.pairs(index[..., :, None], index[..., None, :]) & (index < length)[..., None, :]
        scores = jnp.einsum("bnshk,bnthk->bnst", q, k, preferred_element_type=jnp.float32)
        weights = squared(scores, allowed, self.options.size).astype(v.dtype)
        weights = Dropout(self.config.attention_dropout)(weights, train=train)
        y = jnp.einsum("bnst,bntf->bnsf", weights, v, preferred_element_type=jnp.float32)
        return y.reshape(y.shape[0], -1, y.shape[-1])[:, :length]

    def over_the_row(
        self,
        q: Float[Array, "B L 1 K"],
        k: Float[Array, "B L 1 K"],
        v: Float[Array, "B L F"],
        mask: AttentionMask,
    ) -> Float[Array, "B L F"]:
        """The linear sum over all that a query may see."""
        start, end = mask.intervals(q.shape[1], q.shape[0])
        number = jnp.maximum(end - start, 1).astype(jnp.float32)[:, :, None]
        return visible_sum(q, hide(k, mask), v[:, :, None], mask)[:, :, 0] / number


def squared(scores: Float[Array, "*n l m"], allowed: Bool[Array, "..."], size: int) -> Float[Array, "*n l m"]:
    """relu(scores / sqrt(size))² over the number of keys that are allowed."""
    number = jnp.maximum(allowed.sum(-1, keepdims=True), 1)
    weights = jnp.square(jax.nn.relu(scores / math.sqrt(size))) / number
    return jnp.where(allowed, weights, 0.0)
