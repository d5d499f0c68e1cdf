"""Normalisation of the residual stream, always computed in float32.

layernorm   y = (x - mean(x)) / sqrt(var(x) + epsilon) * scale + bias         (Ba et al., 1607.06450)
rmsnorm     y = x / sqrt(mean(x²) + epsilon) * scale                          (Zhang and Sennrich, 1910.07467)

With u the input centred and divided, and s = gradient * scale, the gradient of x is

    (s - mean(s) - u mean(s u)) / sqrt(var(x) + epsilon)

without mean(s) for rmsnorm, which centres nothing. Of the forward pass only x is kept, as it came, and two numbers of
every position; what autodiff would keep is three float32 arrays of x's size.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.einsum import row_sum
from bertjax.types import Array, Float

# x, its mean (None for rmsnorm), one over its deviation, scale, bias.
Saved = tuple[Array, Array | None, Array, Array, Array | None]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def normalise(
    kind: str, epsilon: float, dtype: jnp.dtype, x: Array, scale: Array, bias: Array | None
) -> Array:
    """The norm of that kind over the last axis, its statistics in float32, its result in `dtype`."""
    return _forward(kind, epsilon, dtype, x, scale, bias)[0]


def _forward(
    kind: str, epsilon: float, dtype: jnp.dtype, x: Array, scale: Array, bias: Array | None
) -> tuple[Array, Saved]:
    wide = jnp.asarray(x).astype(jnp.float32)
    mean = wide.mean(-1, keepdims=True) if kind == "layernorm" else None
    centred = wide if mean is None else wide - mean
    inverse = jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + epsilon)
    y = centred * inverse * _over(scale, wide)
    if bias is not None:
        y = y + _over(bias, wide)
    return y.astype(dtype), (x, mean, inverse, scale, bias)


def _over(vector: Array, x: Array) -> Array:
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def _backward(
    kind: str, epsilon: float, dtype: jnp.dtype, saved: Saved, grad: Array
) -> tuple[Array, Array, Array | None]:
    del kind, epsilon, dtype
    x, mean, inverse, scale, bias = saved
    wide, grad = jnp.asarray(x).astype(jnp.float32), grad.astype(jnp.float32)
    unit = (wide if mean is None else wide - mean) * inverse
    slope = grad * _over(scale, wide)
    straight = slope - unit * (slope * unit).mean(-1, keepdims=True)
    if mean is not None:
        straight = straight - slope.mean(-1, keepdims=True)
    grad_bias = None if bias is None else row_sum(grad, 1).astype(bias.dtype)
    return (straight * inverse).astype(x.dtype), row_sum(grad * unit, 1).astype(scale.dtype), grad_bias


normalise.defvjp(_forward, _backward)


class Norm(nn.Module):
    """The norm that the config asks for, over the last axis."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        """Statistics in float32, result in the compute dtype."""
        c, shape, axes = self.config, (x.shape[-1],), ("norm",)
        scale = sharding.param(self, "scale", nn.initializers.ones, shape, axes)
        bias = None
        if c.norm == "layernorm" and c.norm_bias:
            bias = sharding.param(self, "bias", nn.initializers.zeros, shape, axes)
        return normalise(c.norm, c.norm_epsilon, c.compute, x, scale, bias)
