"""What a position scheme is: a module with up to three actions, and a rotation without parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from flax import linen as nn

from bertjax.layers.config import EncoderConfig, PositionOptions
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class NoPosition(PositionOptions):
    """Nothing at all: a bag of words, but for what the mixing itself can tell apart."""


class Position(nn.Module):
    """The scheme that does nothing; the others override what they need."""

    config: EncoderConfig

    @property
    def options(self) -> Any:
        """The options of the scheme, of the class that its registry line names."""
        return self.config.position

    def embed(self, positions: Int[Array, "B L"]) -> Float[Array, "B L D"] | None:
        """What is added to the embeddings."""
        del positions
        return None

    def bias(self, length: int) -> Float[Array, "H E"] | None:
        """What each head adds to its scores, for each distance key - query, from 1 - length to length - 1."""
        del length
        return None

    def relative(self, length: int) -> Float[Array, "E D"] | None:
        """A vector for each distance query - key, from 1 - length to length - 1."""
        del length
        return None


Rotate = Callable[[Any, Array, Array], Array]


@dataclasses.dataclass(frozen=True)
class Scheme:
    """A registry entry: default options, the module, and the rotation (options, [B L H K], [B L]) if any."""

    options: PositionOptions
    module: type[Position]
    rotate: Rotate | None = None


def distances(length: int) -> Int[np.ndarray, "E"]:
    """All distances key - query in a row, ascending."""
    return np.arange(1 - length, length)
