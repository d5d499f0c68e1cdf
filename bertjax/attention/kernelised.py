"""What attentions with a feature map share: the softmax is replaced by a product, and the product is reordered.

    mix(q, k, v)_i = φ(q_i) Σ_j φ(k_j)ᵀ v_j / φ(q_i) Σ_j φ(k_j)ᵀ

A variant says what φ is (`features`). Time and memory O(L R K) with R the size of φ; packed documents and causal masks
keep that (`attention/recurrence.py`). There are no attention weights to look at or to drop: model.attention_dropout
has no effect here, and residual dropout is all there is, as in the papers' own code.
"""

import jax.numpy as jnp

from bertjax.attention.base import Attention, Context
from bertjax.attention.recurrence import hide, visible_sum
from bertjax.sharding import shard
from bertjax.types import Array, Float

SMALLEST = 1e-6  # a normaliser below this is noise: a row of padding, or features that never meet


class KernelAttention(Attention):
    """Queries and keys become features; values are summed once for all queries."""

    def features(
        self, x: Float[Array, "B L H K"], context: Context, *, keys: bool
    ) -> Float[Array, "B L H R"]:
        """φ of queries or of keys, non-negative."""
        raise AssertionError(f"{type(self).__name__} has no feature map")

    def turn(self, x: Float[Array, "B L H R"], context: Context) -> Float[Array, "B L H R"]:
        """Features as the numerator sees them."""
        del context
        return x

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """The normalised sum."""
        del train
        dtype, mask = v.dtype, context.mask
        q = self.features(q, context, keys=False).astype(dtype)
        k = hide(self.features(k, context, keys=True).astype(dtype), mask)
        q = shard(q, "batch", "length", "act_heads", "act_head_size")
        k = shard(k, "batch", "key_length", "act_heads", "act_head_size")
        y = visible_sum(self.turn(q, context), self.turn(k, context), v, mask)
        ones = jnp.ones((*v.shape[:3], 1), dtype)
        return (y / jnp.maximum(visible_sum(q, k, ones, mask), SMALLEST)).astype(dtype)
