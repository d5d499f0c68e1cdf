"""Grouped-query attention: heads share keys and values (2305.13245; multi-query, 1911.02150, is one group).

    head h:  softmax(q_h kᵀ_g / sqrt(K)) v_g,     g = h // (H / groups)

Cost: full attention, with keys and values of groups/H the parameters. groups=1 is multi-query attention. Keys and
values are repeated before they meet the queries: an encoder keeps no cache, so there is nothing else to save. They are
too few for the `tensor` axis of a mesh, so each device of that axis has them all.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention.base import Context
from bertjax.attention.full import FullAttention
from bertjax.layers.config import Full
from bertjax.layers.dense import dense
from bertjax.sharding import shard
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class GroupedQuery(Full):
    """Full attention in which groups of heads share their keys and values."""

    groups: int = 4
    """Heads of keys and values; it divides model.heads, and 1 is multi-query attention."""


class GroupedQueryAttention(FullAttention):
    """Projects fewer keys and values and repeats them."""

    options: GroupedQuery

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        groups, heads = self.options.groups, self.config.heads
        if groups < 1 or heads % groups:
            fit = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
            raise ValueError(f"model.attention.groups={groups} does not divide model.heads={heads}: {fit} do")
        q, k = self.project(x, "query"), self.project_shared(x, "key")
        k = self.rotate(k, context.positions)
        k, v = (jnp.repeat(t, heads // groups, axis=2) for t in (k, self.project_shared(x, "value")))
        k, v = (shard(t, "batch", "key_length", "act_heads", "act_head_size") for t in (k, v))
        return self.output(self.mix(self.rotate(q, context.positions), k, v, context, train=train))

    def project_shared(self, x: Float[Array, "B L D"], name: str) -> Float[Array, "B L G K"]:
        """Keys or values of every group."""
        c = self.config
        shape, axes = (c.width, self.options.groups, c.key_size), ("width", "output", "head_size")
        y = dense(c, "bld,dgk->blgk", shape, axes, "branch" if name == "value" else "score", name=name)(x)
        return shard(y, "batch", "key_length", None, "act_head_size")
