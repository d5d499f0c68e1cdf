"""How tokens know where they are. A scheme may act at four places, and implements those it needs:

    embed    adds to the embeddings before the first block    learned
    rotate   turns queries and keys in every layer            -
    bias     adds to the scores, the same for all layers      -
    relative gives attention a vector per distance            relative

Learned absolute positions are BERT's (1810.04805).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig, Learned, PositionOptions
from bertjax.layers.einsum import kernel_init
from bertjax.layers.norm import Norm
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class NoPosition(PositionOptions):
    """Nothing at all: a bag of words, but for what the mixing itself can tell apart."""


@dataclasses.dataclass(frozen=True)
class Relative(PositionOptions):
    """A learned vector per distance, for attention=disentangled (DeBERTa)."""

    buckets: int | None = 256
    """Vectors on each side; half of them are for single distances, the others for ranges that grow with the distance. None: max_distance."""
    max_distance: int = 512
    """Distance from which on all are the same."""
    norm: bool = True
    """A LayerNorm over the vectors (v3)."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        if self.buckets is not None and not 2 <= self.buckets < self.max_distance:
            raise ValueError(
                f"model.position.buckets={self.buckets}: from 2 to less than "
                f"model.position.max_distance={self.max_distance}, or none"
            )


class Position(nn.Module):
    """The scheme that does nothing; the others override what they need."""

    config: EncoderConfig

    def embed(self, positions: Int[Array, "B L"]) -> Float[Array, "B L D"] | None:
        """What is added to the embeddings."""
        del positions
        return None

    def bias(self, length: int) -> Float[Array, "H E"] | None:
        """What is added to the scores of each head at each distance key - query, from 1 - length to length - 1."""
        del length
        return None

    def relative(self, length: int) -> Float[Array, "E D"] | None:
        """A vector for each distance query - key, from 1 - length to length - 1."""
        del length
        return None


class LearnedPosition(Position):
    """A table of max_length vectors."""

    def setup(self) -> None:
        """Declares the table."""
        c = self.config
        shape = (c.max_length, c.width)
        self.table = sharding.param(self, "embedding", kernel_init(c.init_std), shape, ("table", "width"))

    def embed(self, positions: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The rows at the positions."""
        if positions.shape[1] > self.config.max_length:
            raise ValueError(
                f"rows of {positions.shape[1]} tokens are longer than the position table: "
                f"model.max_length={self.config.max_length}"
            )
        return jnp.take(self.table, positions, axis=0, mode="clip")


class RelativePosition(Position):
    """A table over buckets of distances (DeBERTa, 2006.03654; the logarithmic buckets are those of its v2)."""

    def setup(self) -> None:
        """Declares the table and its norm."""
        c, o = self.config, self.config.position
        assert isinstance(o, Relative)
        shape = (2 * (o.buckets or o.max_distance), c.width)
        self.table = sharding.param(self, "embedding", kernel_init(c.init_std), shape, ("table", "width"))
        if o.norm:
            self.norm = Norm(c)

    def relative(self, length: int) -> Float[Array, "E D"]:
        """The rows of the distances' buckets."""
        o = self.config.position
        assert isinstance(o, Relative)
        table = self.norm(self.table) if o.norm else jnp.asarray(self.table, self.config.compute)
        rows = bucket(np.arange(1 - length, length), o.buckets, o.max_distance)
        return jnp.take(table, rows, axis=0, mode="clip")


def bucket(distance: np.ndarray, buckets: int | None, max_distance: int) -> np.ndarray:
    """The row of a table of 2 * buckets vectors for each distance: near ones alone, far ones in growing ranges."""
    span = buckets or max_distance
    if buckets is not None:
        half = buckets // 2
        far = np.maximum(np.abs(distance), half) / half  # the nearer ones are not read, but log(0) would warn
        ranges = half + np.ceil(np.log(far) / np.log((max_distance - 1) / half) * (half - 1)).astype(np.int64)
        distance = np.where(np.abs(distance) <= half, distance, np.sign(distance) * ranges)
    return np.clip(distance + span, 0, 2 * span - 1)


Rotate = Callable[[Any, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A registry entry: default options, the module, and the rotation (options, [B L H K], [B L]) if there is one."""

    options: PositionOptions
    module: type[Position]
    rotate: Rotate | None = None


POSITIONS: dict[str, Scheme] = {
    "learned": Scheme(Learned(), LearnedPosition),
    "none": Scheme(NoPosition(), Position),
    "relative": Scheme(Relative(), RelativePosition),
}


def scheme_of(options: PositionOptions) -> Scheme:
    """The registry entry that these options belong to."""
    return next(scheme for scheme in POSITIONS.values() if type(scheme.options) is type(options))


def rotate(
    config: EncoderConfig, x: Float[Array, "B L H K"], positions: Int[Array, "B L"]
) -> Float[Array, "B L H K"]:
    """Queries or keys turned by their positions, where the scheme turns them."""
    turn = scheme_of(config.position).rotate
    return x if turn is None else turn(config.position, x, positions)
