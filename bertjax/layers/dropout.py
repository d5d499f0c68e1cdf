"""Dropout: keeps each element with probability 1 - rate and divides by it (Srivastava et al., 2014)."""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.types import Array


class Dropout(nn.Module):
    """Draws from the "dropout" stream; the identity when not training."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """X with a share `rate` of its elements set to zero."""
        if not train or self.rate == 0.0:
            return x
        keep = jax.random.bernoulli(self.make_rng("dropout"), 1.0 - self.rate, x.shape)
        return jnp.where(keep, x / jnp.asarray(1.0 - self.rate, x.dtype), jnp.zeros((), x.dtype))
