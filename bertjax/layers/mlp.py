"""The feed-forward part of a block (Vaswani et al., 1706.03762).

plain    y = act(x W + b) V + c
gated    y = (act(x G + a) * (x W + b)) V + c                  (GLU variants, 2002.05202)

gelu       x Φ(x), BERT's                     gelu_tanh  its tanh approximation, as in the first releases
relu       max(x, 0)                          relu2      max(x, 0)², Primer's (2109.08668)
silu       x σ(x)                             geglu      gated, with gelu
                                              swiglu     gated, with silu
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.layers.config import GATED, EncoderConfig
from bertjax.layers.dense import dense
from bertjax.sharding import shard
from bertjax.types import Array, Float

_GELU = functools.partial(jax.nn.gelu, approximate=False)

# The nonlinearity of each kind; that of a gated one is also what heads use, which have no gate.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": _GELU,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
    "silu": jax.nn.silu,
    "geglu": _GELU,
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
