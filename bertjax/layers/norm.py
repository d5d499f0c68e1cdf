"""Normalisation of the residual stream, always computed in float32.

layernorm   y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias         (Ba et al., 1607.06450)
rmsnorm     y = x / sqrt(mean(x²) + epsilon) * scale                          (Zhang and Sennrich, 1910.07467)
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.types import Array, Float


class Norm(nn.Module):
    """The norm that the config asks for, over the last axis."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Statistics in float32, result in the compute dtype."""
        c, size, wide = self.config, x.shape[-1], (1,) * (x.ndim - 1) + (x.shape[-1],)
        scale = sharding.param(self, "scale", nn.initializers.ones, (size,), ("norm",)).reshape(wide)
        x = x.astype(jnp.float32)
        if c.norm == "layernorm":
            x = x - x.mean(-1, keepdims=True)
        variance = jnp.square(x).mean(-1, keepdims=True)
        y = x * jax.lax.rsqrt(variance + c.norm_epsilon) * scale
        if c.norm == "layernorm" and c.norm_bias:
            y = y + sharding.param(self, "bias", nn.initializers.zeros, (size,), ("norm",)).reshape(wide)
        return y.astype(c.compute)
