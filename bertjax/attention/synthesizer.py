"""Synthesizer: attention weights without comparing tokens (2005.00743).

    mix(x, v) = softmax(S + bias) v,   S one of, or a learned mean of

    dense               S_i  = relu(x_i A) C                 [L] from the token alone
    factorised_dense    S_ij = (x_i A)_{j // b} (x_i C)_{j mod b}      a b = length
    random              S    = R                             learned, the same for all rows
    factorised_random   S    = R Cᵀ                          of `rank`
    content             S    = q kᵀ / sqrt(K)                plain attention, for the paper's mixtures

Each head has its own S. Cost: O(L² D) time and O(H L²) memory, as full attention, without q and k. Key
positions run up to model.max_length; longer rows are refused. In packed rows they count inside each document, so
that a document gets what it would get in a row of its own.

Deviations: the softmax leaves padding out. The paper also tries a random S that is never trained; the nearest to
that is here the variant `mixer` with random matrices.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention.base import Context, require_length
from bertjax.attention.full import FullAttention, normalise, scores_of
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dense import dense
from bertjax.layers.einsum import Einsum, kernel_init
from bertjax.sharding import shard
from bertjax.types import Array, Float, Int

Kind = Literal["dense", "factorised_dense", "random", "factorised_random", "content"]


@dataclasses.dataclass(frozen=True)
class Synthesizer(AttentionOptions):
    """Attention whose weights come from each token alone, or from none."""

    kinds: tuple[Kind, ...] = ("dense",)
    """Where scores come from: dense, factorised_dense, random, factorised_random, content; several are averaged."""
    rank: int = 8
    """Rank of factorised_random."""

    def __post_init__(self) -> None:
        """Refuses no scores at all, and the same ones twice."""
        if not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ValueError(f"model.attention.kinds={','.join(self.kinds)}: one kind or more, each once")
        if self.rank < 1:
            raise ValueError(f"model.attention.rank={self.rank}: 1 or more")


class SynthesizerAttention(FullAttention):
    """Makes up scores, then proceeds as full attention."""

    options: Synthesizer  # type: ignore[assignment]

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        length = x.shape[1]
        require_length(self.config, length, "synthesizer")
        kinds = self.options.kinds
        # Rows that are not packed need no look-up: their tokens stand where their index says.
        packed = context.mask.segments is not None
        places = context.positions if packed else jnp.arange(length)[None]
        scores = [getattr(self, kind)(x, places) for kind in kinds]
        if len(kinds) > 1:
            share = sharding.param(self, "mixture", nn.initializers.zeros, (len(kinds),), ("output",))
            shares = jax.nn.softmax(share)
            scores = [shares[i] * scores[i] for i in range(len(kinds))]
        total = jnp.broadcast_to(
            sum(scores[1:], start=scores[0]), (x.shape[0], self.config.heads, length, length)
        )
        if context.bias is not None:
            total = total + context.bias
        weights = normalise(total, context.mask.matrix(length, length)).astype(x.dtype)
        return self.output(self.gather(weights, self.project(x, "value"), train=train))

    def dense(self, x: Float[Array, "B L D"], positions: Int[Array, "#B L"]) -> Float[Array, "B H L L"]:
        """Two layers from a token to a score for each key position."""
        c = self.config
        hidden = jax.nn.relu(self.hidden(x, "dense_hidden", c.key_size))
        shape, axes = (c.max_length, c.heads, c.key_size), ("table", "heads", "head_size")
        by_place = Einsum(
            "blhk,mhk->bhlm", shape, axes, c.compute, kernel_init(c.key_size**-0.5), name="dense"
        )
        return at_positions(by_place(hidden), positions)

    def factorised_dense(
        self, x: Float[Array, "B L D"], positions: Int[Array, "#B L"]
    ) -> Float[Array, "B H L L"]:
        """Two short scores, for the coarse and for the fine part of a key's position."""
        fine = next(
            n for n in range(math.isqrt(self.config.max_length), 0, -1) if self.config.max_length % n == 0
        )
        coarse = self.config.max_length // fine
        high = self.hidden(x, "factorised_coarse", coarse)
        low = self.hidden(x, "factorised_fine", fine)
        high, low = (jnp.moveaxis(y.astype(jnp.float32), 2, 1) for y in (high, low))
        return at_positions(high, positions // fine) * at_positions(low, positions % fine)

    def random(self, x: Float[Array, "B L D"], positions: Int[Array, "#B L"]) -> Float[Array, "#B H L L"]:
        """A learned matrix."""
        c = self.config
        shape, axes = (c.heads, c.max_length, c.max_length), ("heads", "table", "output")
        table = sharding.param(self, "random", kernel_init(1.0), shape, axes)
        del x
        return pairs(table, positions)

    def factorised_random(
        self, x: Float[Array, "B L D"], positions: Int[Array, "#B L"]
    ) -> Float[Array, "#B H L L"]:
        """A learned matrix of low rank."""
        c, init = self.config, kernel_init(self.options.rank**-0.25)
        shape, axes = (c.max_length, c.heads, self.options.rank), ("table", "heads", "output")
        left, right = (sharding.param(self, f"factorised_{s}", init, shape, axes) for s in ("query", "key"))
        del x
        return jnp.einsum("blhr,bmhr->bhlm", left[positions], right[positions])

    def content(self, x: Float[Array, "B L D"], positions: Int[Array, "#B L"]) -> Float[Array, "B H L L"]:
        """Plain scores."""
        del positions
        return scores_of(self.project(x, "query"), self.project(x, "key"))

    def hidden(self, x: Float[Array, "B L D"], name: str, size: int) -> Float[Array, "B L H k"]:
        """A projection of each token for each head."""
        c = self.config
        shape, axes = (c.width, c.heads, size), ("width", "heads", "head_size")
        y = dense(c, "bld,dhk->blhk", shape, axes, "score", name=name)(x)
        return shard(y, "batch", "length", "act_heads", "act_head_size")


def at_positions(scores: Float[Array, "B H L m"], positions: Int[Array, "#B M"]) -> Float[Array, "B H L M"]:
    """From scores for positions to scores for the tokens that stand there."""
    scores = scores.astype(jnp.float32)
    if positions.shape[0] == 1:
        return jnp.take(scores, positions[0], axis=-1, mode="clip")
    one_row = lambda row, place: jnp.take(row, place, axis=-1, mode="clip")  # noqa: E731
    return jax.vmap(one_row)(scores, positions)


def pairs(table: Float[Array, "*n P P"], positions: Int[Array, "#B L"]) -> Float[Array, "#B *n L L"]:
    """The entries of a matrix over positions that belong to the pairs of tokens of each row."""
    one_row = lambda place: table[..., place[:, None], place[None, :]]  # noqa: E731
    return jax.vmap(one_row)(positions)
