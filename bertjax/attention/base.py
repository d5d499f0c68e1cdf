"""What every attention variant shares: projections, the residual branch's interface, and the context of a layer.

    q = x Wq,  k = x Wk,  v = x Wv,      y = mix(q, k, v) Wo

A variant overrides `mix`, or `__call__` where there is no q, k and v. It reads its own options from
`self.options` and everything else from `self.config`.
"""

import dataclasses
from typing import Any

import jax
from flax import linen as nn

from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.einsum import Einsum, kernel_init
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position import rotate
from bertjax.sharding import shard
from bertjax.types import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What all layers of one forward pass have in common."""

    mask: AttentionMask
    positions: Array  # int [B L]
    bias: Array | None = None  # float [B or 1, H, L, M], added to the scores


class Attention(nn.Module):
    """Projects, mixes, projects back."""

    config: EncoderConfig
    options: AttentionOptions

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        c = self.config
        q, k, v = (self.project(x, name) for name in ("query", "key", "value"))
        q, k = rotate(c, q, context.positions), rotate(c, k, context.positions)
        y = self.mix(q, k, v, context, train=train)
        y = shard(y, "batch", "length", "act_heads", "act_head_size")
        back, axes = (c.heads, c.key_size, c.width), ("heads", "head_size", "width")
        return Einsum("blhk,hkd->bld", back, axes, c.compute, kernel_init(c.init_std), name="output")(y)

    def project(self, x: Float[Array, "B L D"], name: str) -> Float[Array, "B L H K"]:
        """Queries, keys or values of every head."""
        c = self.config
        shape, axes = (c.width, c.heads, c.key_size), ("width", "heads", "head_size")
        y = Einsum("bld,dhk->blhk", shape, axes, c.compute, kernel_init(c.init_std), name=name)(x)
        # Keys and values keep their whole length on every device; only queries are split by `sequence`.
        return shard(y, "batch", "length" if name == "query" else "key_length", "act_heads", "act_head_size")

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """What each query gathers from the values."""
        raise AssertionError(f"{type(self).__name__} overrides neither mix nor __call__")


@dataclasses.dataclass(frozen=True)
class Variant:
    """A registry entry: default options, the module, and what it can do."""

    options: AttentionOptions
    module: type[Any]
    segments: bool = True  # keeps packed documents apart
    causal: bool = True  # obeys a causal mask
    exact: AttentionOptions | None = None  # the setting at which it equals full attention
