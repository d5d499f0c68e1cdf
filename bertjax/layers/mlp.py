"""The feed-forward part of a block: y = act(x W + b) V + c (Vaswani et al., 1706.03762, with BERT's GELU)."""

import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from bertjax.layers.config import EncoderConfig
from bertjax.layers.einsum import Einsum, kernel_init
from bertjax.sharding import shard
from bertjax.types import Array, Float

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "gelu": functools.partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


class Mlp(nn.Module):
    """Two products with a nonlinearity between them, at every position alone."""

    config: EncoderConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        c = self.config
        init, wide, narrow = kernel_init(c.init_std), (c.width, c.hidden), (c.hidden, c.width)
        x = Einsum("bld,df->blf", wide, ("width", "feedforward"), c.compute, init, name="up")(x)
        x = shard(ACTIVATIONS[c.activation](x), "batch", "length", "act_feedforward")
        return Einsum("blf,fd->bld", narrow, ("feedforward", "width"), c.compute, init, name="down")(x)
