"""A learned vector per absolute position, and T5's learned number per head and bucket of distances (MPNet, 2004.09297).

    x_i = token_i + table[p_i + offset],      bias_ij = buckets[bucket(j - i), h]

The first is that of `learned`, the second that of `t5`; rows are at most as long as the table.
"""

import dataclasses

import jax.numpy as jnp

from bertjax import sharding
from bertjax.layers.config import Learned
from bertjax.layers.einsum import kernel_init
from bertjax.layers.position.base import distances
from bertjax.layers.position.learned import LearnedPosition
from bertjax.layers.position.t5 import T5, bucket
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class LearnedT5(Learned):
    """A learned vector per position, and a learned bias per head and bucket of distances."""

    buckets: int = 32
    """Rows of the table of distances, both sides together."""
    max_distance: int = 128
    """Distance from which on all share a bucket."""

    def __post_init__(self) -> None:
        """Refuses what T5's bias would."""
        T5(self.buckets, self.max_distance)


class LearnedT5Position(LearnedPosition):
    """Both tables."""

    def setup(self) -> None:
        """Declares them."""
        super().setup()
        c = self.config
        shape, axes = (self.options.buckets, c.heads), ("table", "heads")
        self.buckets = sharding.param(self, "buckets", kernel_init(c.init_std), shape, axes)

    def bias(self, length: int) -> Float[Array, "H E"]:
        """The rows of the distances' buckets."""
        rows = bucket(distances(length), self.options.buckets, self.options.max_distance)
        return jnp.take(self.buckets, rows, axis=0, mode="clip").T
