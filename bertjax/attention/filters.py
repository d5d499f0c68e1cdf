"""Depthwise filters along the row, y_i = Σ_t w_t x_{i+t-T/2}, as matrix products and as shifts.

`convolve` serves wide filters that the channels of a head share: the filter becomes one banded (Toeplitz) matrix from a
block and its neighbours to the block, so that the work is a product that every accelerator does well. On two CPU cores,
with 65 taps over 2048 tokens, forward and backward ran five times as fast as a grouped convolution and seven times as
fast as 65 shifts, whose copies the backward pass also keeps. `smooth` serves narrow filters with taps of their own for
each channel and stops at the borders of packed documents.
"""

from typing import Any

import jax.numpy as jnp

from bertjax.attention.window import to_blocks, with_neighbours
from bertjax.types import Array, Float, Int

BLOCK = 64


def convolve(x: Float[Array, "B L H K"], taps: Float[Array, "T H"]) -> Float[Array, "B L H K"]:
    """Each head filtered with its own taps, an odd number; outside the row there are zeros."""
    width, length = taps.shape[0], x.shape[1]
    block = max(BLOCK, width // 2)
    where = jnp.arange(3 * block)[None, :] - block - jnp.arange(block)[:, None] + width // 2  # [s t]
    inside = ((where >= 0) & (where < width))[..., None]
    band = jnp.where(inside, jnp.take(taps, where, axis=0, mode="clip"), 0.0).astype(x.dtype)
    spans = with_neighbours(to_blocks(x, block))
    y = jnp.einsum("sth,bnthk->bnshk", band, spans, preferred_element_type=jnp.float32)
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length].astype(x.dtype)


def smooth(
    x: Float[Array, "B L *n"], taps: Float[Array, "T *n"], segments: Int[Array, "B L"] | None
) -> Float[Array, "B L *n"]:
    """Each channel filtered with its own few taps, inside each document."""
    half, length, rest = taps.shape[0] // 2, x.shape[1], (1,) * (x.ndim - 2)
    padded = jnp.pad(x, ((0, 0), (half, half), *((0, 0),) * (x.ndim - 2)))
    own = None if segments is None else jnp.pad(segments, ((0, 0), (half, half)), constant_values=-1)
    y = jnp.zeros(x.shape, x.dtype)
    for tap in range(taps.shape[0]):
        near = padded[:, tap : tap + length] * taps[tap].astype(x.dtype)[None, None]
        if own is not None:
            same: Any = own[:, tap : tap + length] == segments
            near = jnp.where(same.reshape(*same.shape, *rest), near, jnp.zeros((), x.dtype))
        y = y + near
    return y
