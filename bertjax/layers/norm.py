"""Normalisation of the residual stream, always computed in float32.

LayerNorm: y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias (Ba et al., 1607.06450).
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
        size = x.shape[-1]
        scale = sharding.param(self, "scale", nn.initializers.ones, (size,), ("norm",))
        bias = sharding.param(self, "bias", nn.initializers.zeros, (size,), ("norm",))
        x = x.astype(jnp.float32)
        mean = x.mean(-1, keepdims=True)
        variance = jnp.square(x - mean).mean(-1, keepdims=True)
        y = (x - mean) * jax.lax.rsqrt(variance + self.config.norm_epsilon)
        wide = (1,) * (x.ndim - 1) + (size,)
        return (y * scale.reshape(wide) + bias.reshape(wide)).astype(self.config.compute)
