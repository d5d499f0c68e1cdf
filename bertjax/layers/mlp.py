"""The feed-forward part of a block (Vaswani et al., 1706.03762).

plain    y = act(x W + b) V + c
gated    y = (act(x G + a) * (x W + b)) V + c                  (GLU variants, 2002.05202)

gelu       x Φ(x), BERT's                     gelu_tanh  its tanh approximation, as in the first releases
relu       max(x, 0)                          relu2      max(x, 0)², Primer's (2109.08668)
silu       x σ(x)                             geglu      gated, with gelu
                                              swiglu     gated, with silu
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.layers.config import GATED, EncoderConfig
from bertjax.layers.dense import dense
from bertjax.sharding import shard
from bertjax.types import Array, Float


@jax.custom_vjp
def gelu(x: Array) -> Array:
    """x Φ(x), in float32, Φ by the error function (`jax.nn.gelu` takes its complement, which costs a branch).

    Of the forward pass only x is kept.
    """
    wide = jnp.asarray(x).astype(jnp.float32)
    return (wide * _normal(wide)).astype(x.dtype)


def _normal(x: Array) -> Array:
    """Φ(x)."""
    return 0.5 * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _gelu_backward(x: Array, grad: Array) -> tuple[Array]:
    wide = x.astype(jnp.float32)
    density = jnp.exp(-0.5 * wide * wide) * (2.0 * math.pi) ** -0.5
    slope = _normal(wide) + wide * density
    return ((grad.astype(jnp.float32) * slope).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_backward)


# The nonlinearity of each kind; that of a gated one is also what heads use, which have no gate.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": gelu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "geglu": gelu,
    "swiglu": jax.nn.silu,
}
# Those of layers outside of the feed-forward part.
NONLINEAR: dict[str, Callable[[Array], Array]] = {**ACTIVATIONS, "tanh": jnp.tanh}


class Mlp(nn.Module):
    """Two products with a nonlinearity between them, at every position alone; three if gated."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        c = self.config
        wide, axes = (c.width, c.hidden), ("width", "feedforward")
        y = dense(c, "bld,df->blf", wide, axes, "branch", name="up")(x)
        if c.activation in GATED:
            gate = dense(c, "bld,df->blf", wide, axes, "branch", name="gate")(x)
            y = ACTIVATIONS[c.activation](gate) * y
        else:
            y = ACTIVATIONS[c.activation](y)
        y = shard(y, "batch", "length", "act_feedforward")
        return dense(c, "blf,fd->bld", wide[::-1], axes[::-1], "exit", name="down")(y)
