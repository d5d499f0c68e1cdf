"""Longformer: a sliding window, and a few global tokens that see all and are seen by all (2004.05150, Section 3.1).

    local query i    softmax over j in window(i) and j global of (q_i kᵀ_j / sqrt(K)) v
    global query g   softmax over all j of (q'_g k'ᵀ_j / sqrt(K)) v',     q' = x Wq', k' = x Wk', v' = x Wv'

Cost: O(L (size + slots)) time and memory. The global queries have projections of their own, as in the paper; local
queries meet global keys through the ordinary ones.

The caller may name the global tokens (`AttentionMask.globals`: the question of a pair, say). Otherwise they are the
first `tokens` tokens of every packed document: the [CLS] of BERT. A row has room for `slots` of them; those past that
number stay local. A global token, too, sees only its own document.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention.base import Attention, Context
from bertjax.attention.full import FORBIDDEN, normalise
from bertjax.attention.window import band_index, band_scores, band_values, to_blocks
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dropout import Dropout
from bertjax.layers.mask import AttentionMask
from bertjax.sharding import shard
from bertjax.types import Array, Bool, Float, Int


@dataclasses.dataclass(frozen=True)
class Longformer(AttentionOptions):
    """A sliding window and a few global tokens with projections of their own."""

    size: int = 512
    """Width of the window, both sides together."""
    tokens: int = 1
    """Global tokens at the beginning of every document, unless the caller names others."""
    slots: int = 16
    """Most global tokens in one row, all packed documents together."""

    def __post_init__(self) -> None:
        """Refuses sizes that leave nothing to see."""
        if self.size < 2:
            raise ValueError(f"model.attention.size={self.size}: a window is 2 tokens wide or more")
        if self.tokens < 0 or self.slots < max(1, self.tokens):
            raise ValueError(
                f"model.attention.slots={self.slots} has no room for model.attention.tokens={self.tokens}: "
                f"slots is 1 or more and not less than tokens"
            )


class LongformerAttention(Attention):
    """Band and global keys under one softmax; the rows of global queries are replaced."""

    options: Longformer

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        half, length = self.options.size // 2, x.shape[1]
        special = context.mask.globals
        special = context.positions < self.options.tokens if special is None else special
        if context.mask.valid is not None:
            special = special & context.mask.valid
        where, used = first_true(special, min(self.options.slots, length))
        rank = jnp.cumsum(special, axis=1) - 1  # the slot of each global token
        special = special & (rank < where.shape[1])
        near = AttentionMask(window=(half, half), globals=special)
        context = dataclasses.replace(context, mask=dataclasses.replace(context.mask, globals=None) & near)

        q, k, v = (self.project(x, name) for name in ("query", "key", "value"))
        y = self.local(
            self.rotate(q, context.positions),
            self.rotate(k, context.positions),
            v,
            where,
            used,
            context,
            train,
        )
        seen = self.of_globals(x, where, context, train)
        chosen = jnp.take_along_axis(seen, jnp.clip(rank, 0, where.shape[1] - 1)[:, :, None, None], axis=1)
        return self.output(jnp.where(special[:, :, None, None], chosen, y))

    def local(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B L H K"],
        v: Float[Array, "B L H K"],
        where: Int[Array, "B S"],
        used: Bool[Array, "B S"],
        context: Context,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """What every token gathers from its window and from the global tokens."""
        length, dtype, mask = q.shape[1], q.dtype, context.mask
        block = min(self.options.size // 2, length)
        queries, keys = band_index(length, block)
        # A global key has its column among the global ones, so it must not count once more inside the band.
        once = dataclasses.replace(mask, globals=None, valid=rest_of(mask))
        band_allowed = once.pairs(queries, keys) & (keys < length)
        every = jnp.arange(length)[None, :, None]
        wide_allowed = mask.pairs(every, where[:, None, :]) & used[:, None, :]

        band = band_scores(q, k, block)
        few_k, few_v = take_tokens(k, where), take_tokens(v, where)
        wide: Array = jnp.einsum("blhk,bshk->blhs", q, few_k, preferred_element_type=jnp.float32)
        wide = wide / math.sqrt(q.shape[-1])
        if context.scores is not None:
            band = band + context.bias_at((keys - queries)[0, 0])[None, None]
            wide = wide + context.bias_at(where[:, None, :] - every).transpose(1, 2, 0, 3)
        wide = to_blocks(jnp.where(wide_allowed[:, :, None, :], wide, FORBIDDEN), block).swapaxes(2, 3)
        both = jnp.concatenate([jnp.where(band_allowed[:, :, None], band, FORBIDDEN), wide], axis=-1)
        weights = Dropout(self.config.attention_dropout)(jax.nn.softmax(both).astype(dtype), train=train)
        near, far = weights[..., : 3 * block], weights[..., 3 * block :]
        y = jnp.einsum("bnhst,bthk->bnshk", far, few_v, preferred_element_type=jnp.float32)
        y = y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length]
        return (band_values(near, v, length).astype(jnp.float32) + y).astype(dtype)

    def of_globals(
        self, x: Float[Array, "B L D"], where: Int[Array, "B S"], context: Context, train: bool
    ) -> Float[Array, "B S H K"]:
        """What the global tokens gather from the whole row."""
        few = jnp.take_along_axis(x, where[:, :, None], axis=1)
        places = jnp.take_along_axis(context.positions, where, axis=1)
        c = self.config
        q = self.rotate(self.project(few, "global_query"), places)
        k = self.rotate(self.project(x, "global_key"), context.positions)
        v = self.project(x, "global_value")
        scores = jnp.einsum("bshk,bmhk->bhsm", q, k, preferred_element_type=jnp.float32)
        scores = scores / math.sqrt(q.shape[-1])
        keys = jnp.arange(x.shape[1])[None, None, :]
        if context.scores is not None:
            scores = scores + context.bias_at(keys - where[:, :, None]).swapaxes(0, 1)
        allowed = context.mask.pairs(where[:, :, None], keys)
        weights = normalise(scores, allowed[:, None]).astype(c.compute)
        weights = Dropout(c.attention_dropout)(weights, train=train)
        return jnp.einsum("bhsm,bmhk->bshk", weights, v, preferred_element_type=jnp.float32).astype(c.compute)


def first_true(chosen: Bool[Array, "B L"], number: int) -> tuple[Int[Array, "B S"], Bool[Array, "B S"]]:
    """Positions of the first `number` chosen tokens of each row, and which of these are really chosen."""
    length = chosen.shape[1]
    score = jnp.where(chosen, length, 0) - jnp.arange(length, dtype=jnp.int32)[None, :]
    values, where = jax.lax.top_k(score, number)
    return where, values > 0


def rest_of(mask: AttentionMask) -> Bool[Array, "B L"]:
    """The keys that are no global tokens."""
    assert mask.globals is not None
    return ~mask.globals if mask.valid is None else mask.valid & ~mask.globals


def take_tokens(x: Float[Array, "B L H K"], where: Int[Array, "B S"]) -> Float[Array, "B S H K"]:
    """The tokens at the given positions."""
    return shard(
        jnp.take_along_axis(x, where[:, :, None, None], axis=1), "batch", None, "act_heads", "act_head_size"
    )
