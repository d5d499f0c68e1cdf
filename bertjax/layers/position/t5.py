"""A learned number per head and bucket of distances, added to the scores (T5, 1910.10683, Section 2.1).

    bias_ij = table[bucket(j - i), h]

Each side has half of the buckets: the first half of those are single distances, the others grow
logarithmically up to max_distance, and all that is farther shares the last. The table is the same
in all layers, as in the paper.

Deviation: T5 leaves q · k undivided and starts its queries smaller instead; here scores are divided
by sqrt(K) as everywhere.
"""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np

from bertjax import sharding
from bertjax.layers.config import PositionOptions
from bertjax.layers.einsum import kernel_init
from bertjax.layers.position.base import Position, distances
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class T5(PositionOptions):
    """A learned bias per head and bucket of distances."""

    buckets: int = 32
    """Rows of the table, both sides together."""
    max_distance: int = 128
    """Distance from which on all share a bucket."""

    def __post_init__(self) -> None:
        """Refuses buckets that do not come out."""
        if self.buckets < 4 or self.buckets % 4:
            near = max(4, 4 * round(self.buckets / 4))
            raise ValueError(
                f"model.position.buckets={self.buckets} cannot be split by side and by kind: {near} can"
            )
        if self.max_distance <= self.buckets // 4:
            raise ValueError(
                f"model.position.max_distance={self.max_distance} is not beyond the {self.buckets // 4} "
                f"distances that have a bucket of their own: use {self.buckets} or more"
            )


class T5Position(Position):
    """A table of buckets; any length."""

    def setup(self) -> None:
        """Declares the table."""
        c = self.config
        shape, axes = (self.options.buckets, c.heads), ("table", "heads")
        self.table = sharding.param(self, "embedding", kernel_init(c.init_std), shape, axes)

    def bias(self, length: int) -> Float[Array, "H E"]:
        """The rows of the distances' buckets."""
        rows = bucket(distances(length), self.options.buckets, self.options.max_distance)
        return jnp.take(self.table, rows, axis=0, mode="clip").T


def bucket(distance: np.ndarray, buckets: int, max_distance: int) -> np.ndarray:
    """The row of each distance key - query; keys to the right have the second half of the table."""
    side, exact = buckets // 2, buckets // 4
    size = np.abs(distance)
    growth = np.log(np.maximum(size, 1) / exact) / math.log(max_distance / exact)
    # Rounded down in float32, as the published models were trained: at a boundary float64 would differ.
    far = exact + np.floor(np.float32(growth) * np.float32(side - exact)).astype(np.int64)
    return side * (distance > 0) + np.where(size < exact, size, np.minimum(far, side - 1))
