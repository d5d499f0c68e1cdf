"""Query-key normalisation: scores that cannot grow without bound (Henry et al., 2010.04245; ViT-22B, 2302.05442).

    l2          g * (q / |q|) · (k / |k|),  g learned, one for all heads, at first log2(L² - L), L = model.max_length
    layernorm   norm(q) · norm(k) / sqrt(K),  with a learned scale per component and no bias

Cost: full attention. The norms act before positions turn queries and keys, which changes no length.
"""

import dataclasses
import math
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention.base import Context
from bertjax.attention.full import FullAttention
from bertjax.layers.config import Full
from bertjax.sharding import param
from bertjax.types import Array, Float

TINY = 1e-6  # keeps the norm of a vector of zeros, and its gradient, finite


@dataclasses.dataclass(frozen=True)
class QkNorm(Full):
    """Full attention of normalised queries and keys."""

    form: Literal["l2", "layernorm"] = "l2"
    """Unit length and one learned temperature, or LayerNorm within each head."""


class QkNormAttention(FullAttention):
    """Normalises queries and keys, then attends as usual."""

    options: QkNorm

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        q, k, v = (self.project(x, name) for name in ("query", "key", "value"))
        if self.options.form == "l2":
            length = max(self.config.max_length, 2)
            start = math.log2(length**2 - length)
            scale = param(self, "temperature", nn.initializers.constant(start), (1,), ("table",))
            # The scores are divided by sqrt(K) later, which this form does not want.
            q = unit(q) * (scale * math.sqrt(q.shape[-1]))[None, None, None, :]
            k = unit(k)
        else:
            q, k = (self.norm(t, name) for t, name in ((q, "query_scale"), (k, "key_scale")))
        q, k = (self.rotate(t.astype(self.config.compute), context.positions) for t in (q, k))
        return self.output(self.mix(q, k, v, context, train=train))

    def norm(self, x: Float[Array, "B L H K"], name: str) -> Float[Array, "B L H K"]:
        """LayerNorm over the components of a head, without bias."""
        scale = param(self, name, nn.initializers.ones, (x.shape[-1],), ("norm",))
        x = x.astype(jnp.float32)
        x = x - x.mean(-1, keepdims=True)
        return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + TINY) * scale[None, None, None, :]


def unit(x: Float[Array, "B L H K"]) -> Float[Array, "B L H K"]:
    """Vectors of length one, in float32."""
    x = x.astype(jnp.float32)
    return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + TINY**2)
