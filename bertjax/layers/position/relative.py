"""A learned vector per distance, the same in all layers (DeBERTa, 2006.03654, Section 2).

    relative[d] = norm(table[bucket(d)]),      d = i - j, query minus key, as in the paper

How attention reads the vectors is its own matter (model.attention=disentangled). The buckets are
those of DeBERTa's v2 (its published code, not the paper): half of them are single distances, the
others grow logarithmically up to max_distance; without `buckets` each distance has its own, as in
v1.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from bertjax import sharding
from bertjax.layers.config import PositionOptions
from bertjax.layers.einsum import kernel_init
from bertjax.layers.norm import Norm
from bertjax.layers.position.base import Position, distances
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Relative(PositionOptions):
    """A learned vector per distance, for attention=disentangled (DeBERTa)."""

    buckets: int | None = 256
    """Vectors on each side; half are for single distances, half for growing ranges. None: max_distance."""
    max_distance: int = 512
    """Distance from which on all are the same."""
    norm: bool = True
    """A norm over the vectors (v3)."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        if self.buckets is not None and not 2 <= self.buckets < self.max_distance:
            raise ValueError(
                f"model.position.buckets={self.buckets}: from 2 to less than "
                f"model.position.max_distance={self.max_distance}, or none"
            )


class RelativePosition(Position):
    """A table over buckets of distances; any length."""

    def setup(self) -> None:
        """Declares the table and its norm."""
        c, o = self.config, self.options
        shape = (2 * (o.buckets or o.max_distance), c.width)
        self.table = sharding.param(self, "embedding", kernel_init(c.init_std), shape, ("table", "width"))
        if o.norm:
            self.norm = Norm(c)

    def relative(self, length: int) -> Float[Array, "E D"]:
        """The rows of the distances' buckets."""
        o = self.options
        table = self.norm(self.table) if o.norm else jnp.asarray(self.table, self.config.compute)
        return jnp.take(table, bucket(distances(length), o.buckets, o.max_distance), axis=0, mode="clip")


def bucket(distance: np.ndarray, buckets: int | None, max_distance: int) -> np.ndarray:
    """The row of each distance: near ones alone, far ones in growing ranges, negative ones first."""
    span = buckets or max_distance
    if buckets is not None:
        half = buckets // 2
        far = np.maximum(np.abs(distance), half) / half  # the nearer ones are not read, but log(0) would warn
        ranges = half + np.ceil(np.log(far) / np.log((max_distance - 1) / half) * (half - 1)).astype(np.int64)
        distance = np.where(np.abs(distance) <= half, distance, np.sign(distance) * ranges)
    return np.clip(distance + span, 0, 2 * span - 1)
