"""Sliding window: a query sees the keys at most size/2 away, on both sides (Longformer, 2004.05150, Section 3.1).

    mix(q, k, v)_i = softmax over |j - i| <= size // 2 of (q_i kᵀ_j / sqrt(K) + bias_ij) v

Cost: O(L size) time and memory, forward and backward: the row is cut into blocks of size/2 queries, and each block
meets its own keys and those of the two blocks beside it, a third of which the mask then drops. Rows of up to three
blocks are one matrix with the same mask, which is not more than the blocks would cost.

`size` counts both sides, as Longformer and ModernBERT quote it.
"""

import dataclasses
import math
from typing import Any

import jax.numpy as jnp

from bertjax.attention.base import Context
from bertjax.attention.full import FullAttention, normalise
from bertjax.layers.config import AttentionOptions, Backend
from bertjax.layers.dropout import Dropout
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position import rotate
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Window(AttentionOptions):
    """Softmax attention to the tokens near by."""

    size: int = 128
    """Width of the window, both sides together: a token sees size // 2 tokens to its left and as many to its right."""
    base: float | None = None
    """RoPE base of this attention, where positions are rotated; none means model.position.base."""
    backend: Backend = "auto"
    """Implementation: the fused kernel of the platform where it can do what is asked, or always the one named."""

    def __post_init__(self) -> None:
        """Refuses a window without neighbours."""
        if self.size < 2:
            raise ValueError(f"model.attention.size={self.size}: a window is 2 tokens wide or more")


class WindowAttention(FullAttention):
    """Blocks of queries against their own keys and their neighbours'."""

    options: Window  # type: ignore[assignment]

    def rotate(self, x: Float[Array, "B L H K"], positions: Int[Array, "B L"]) -> Float[Array, "B L H K"]:
        """Queries or keys turned by their positions, with this attention's own base if it has one."""
        scheme = self.config.position
        if self.options.base is None or not hasattr(scheme, "base"):
            return super().rotate(x, positions)
        own: Any = dataclasses.replace(scheme, base=self.options.base)  # type: ignore[call-arg]
        return rotate(dataclasses.replace(self.config, position=own), x, positions)

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """Full attention under a narrower mask: what follows skips what the mask forbids."""
        half = self.options.size // 2
        narrow = context.mask & AttentionMask(window=(half, half))
        return super().mix(q, k, v, dataclasses.replace(context, mask=narrow), train=train)

    def reference(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """Banded scores, softmax, weighted values."""
        half, length = self.options.size // 2, q.shape[1]
        if length <= 3 * half:
            return super().reference(q, k, v, context, train=train)
        scores = band_scores(q, k, half)
        queries, keys = band_index(length, half)
        if context.scores is not None:
            scores = scores + context.bias_at((keys - queries)[0, 0])[None, None]  # alike for all blocks
        allowed = context.mask.pairs(queries, keys) & (keys < length)
        weights = normalise(scores, allowed[:, :, None]).astype(q.dtype)
        weights = Dropout(self.config.attention_dropout)(weights, train=train)
        return band_values(weights, v, length)


def to_blocks(x: Float[Array, "B L *n"] | Int[Array, "B L *n"], block: int) -> Array:
    """The row in blocks [B blocks block *n], the last one filled up with zeros."""
    blocks = -(-x.shape[1] // block)
    x = jnp.pad(x, ((0, 0), (0, blocks * block - x.shape[1]), *((0, 0),) * (x.ndim - 2)))
    return x.reshape(x.shape[0], blocks, block, *x.shape[2:])


def with_neighbours(x: Float[Array, "B blocks block *n"]) -> Float[Array, "B blocks span *n"]:
    """Each block between the one before and the one after, zeros outside."""
    x = jnp.pad(x, ((0, 0), (1, 1), *((0, 0),) * (x.ndim - 2)))
    return jnp.concatenate([x[:, :-2], x[:, 1:-1], x[:, 2:]], axis=2)


def band_index(
    length: int, block: int
) -> tuple[Int[Array, "1 blocks block 1"], Int[Array, "1 blocks 1 span"]]:
    """Positions of the queries of each block and of the keys that it meets; those outside the row are < 0 or >= L."""
    first = block * jnp.arange(-(-length // block), dtype=jnp.int32)[None, :, None, None]
    queries = first + jnp.arange(block, dtype=jnp.int32)[None, None, :, None]
    return queries, first - block + jnp.arange(3 * block, dtype=jnp.int32)[None, None, None, :]


def band_scores(
    q: Float[Array, "B L H K"], k: Float[Array, "B L H K"], block: int
) -> Float[Array, "B blocks H block span"]:
    """Scaled products of each block of queries with the keys around it, in float32."""
    spans = with_neighbours(to_blocks(k, block))
    scores = jnp.einsum("bnshk,bnthk->bnhst", to_blocks(q, block), spans, preferred_element_type=jnp.float32)
    return scores / math.sqrt(q.shape[-1])


def band_values(
    weights: Float[Array, "B blocks H block span"], v: Float[Array, "B L H K"], length: int
) -> Float[Array, "B L H K"]:
    """The values around each block, weighted."""
    spans = with_neighbours(to_blocks(v, weights.shape[3]))
    y = jnp.einsum("bnhst,bnthk->bnshk", weights, spans, preferred_element_type=jnp.float32)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length].astype(v.dtype)
