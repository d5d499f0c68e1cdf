"""Linformer: keys and values of the whole row are compressed to `rank` of each (2006.04768).

    k' = E k,   v' = F v   with E, F [rank, length],      mix = softmax(q k'ᵀ / sqrt(K)) v'

Cost: O(L rank D) time, O(H L rank) memory. E and F have model.max_length columns; shorter rows use the first of
them, longer ones are refused. `share` is the paper's: an E and an F for each head, for all heads, or one matrix for
keys and values both; the paper's sharing over layers is not offered.

Deviations: padding is zeroed before it is compressed (the paper compresses it with the rest), and a compressed key
that no real token feeds is left out of the softmax. E and F begin with a variance of 1 / length, so that compressed
values begin as large as plain ones. A compressed key belongs to all documents of a row, so packed rows are refused,
as are causal masks.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from bertjax import sharding
from bertjax.attention.base import Context, require_length
from bertjax.attention.full import FullAttention, normalise, scores_of
from bertjax.attention.recurrence import hide
from bertjax.layers.config import AttentionOptions
from bertjax.layers.einsum import einsum, kernel_init
from bertjax.types import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Linformer(AttentionOptions):
    """Softmax attention to a fixed number of compressed keys."""

    rank: int = 128
    """Keys and values that a row is compressed to."""
    share: Literal["none", "heads", "keys"] = "heads"
    """What shares a compression: nothing, the heads of a layer, or its keys and values as well."""

    def __post_init__(self) -> None:
        """Refuses an empty compression."""
        if self.rank < 1:
            raise ValueError(f"model.attention.rank={self.rank}: 1 or more")


class LinformerAttention(FullAttention):
    """Compresses, then attends."""

    options: Linformer  # type: ignore[assignment]

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """Scores against the compressed keys, softmax, compressed values."""
        length, dtype = k.shape[1], self.config.compute
        require_length(self.config, length, "linformer")
        for_keys = self.compression("compress_keys")
        for_values = for_keys if self.options.share == "keys" else self.compression("compress_values")
        product = "bmhk,hrm->brhk" if self.options.share == "none" else "bmhk,rm->brhk"
        k, v = (hide(x, context.mask) for x in (k, v))
        k = einsum(product, k, for_keys[..., :length], dtype)
        v = einsum(product, v, for_values[..., :length], dtype)
        weights = normalise(scores_of(q, k), self.fed(for_keys[..., :length], context)).astype(q.dtype)
        return self.gather(weights, v, train=train)

    def compression(self, name: str) -> Float[Array, "... rank length"]:
        """From the tokens of a row to its compressed keys or values."""
        c, init = self.config, kernel_init(self.config.max_length**-0.5)
        shape, axes = (self.options.rank, c.max_length), ("output", "table")
        if self.options.share == "none":
            shape, axes = (c.heads, *shape), ("heads", *axes)  # type: ignore[assignment]
        return sharding.param(self, name, init, shape, axes)

    def fed(self, compression: Float[Array, "... R M"], context: Context) -> Bool[Array, "#B #H 1 R"]:
        """The compressed keys that some real token has a part in."""
        used = (compression != 0).reshape(-1, *compression.shape[-2:])
        if context.mask.valid is None:
            return used.any(2)[None, :, None, :]
        valid = context.mask.valid.astype(jnp.float32)
        return jnp.einsum("bm,hrm->bhr", valid, used.astype(jnp.float32))[:, :, None, :] > 0
