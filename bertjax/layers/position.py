"""How tokens know where they are. A scheme may act at three places, and implements those it needs:

    embed    adds to the embeddings before the first block    learned
    rotate   turns queries and keys in every layer            -
    bias     adds to the scores, the same for all layers      -

Learned absolute positions are BERT's (1810.04805).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig, Learned, PositionOptions
from bertjax.layers.einsum import kernel_init
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class NoPosition(PositionOptions):
    """Nothing at all: a bag of words, but for what the mixing itself can tell apart."""


class Position(nn.Module):
    """The scheme that does nothing; the others override what they need."""

    config: EncoderConfig

    def embed(self, positions: Int[Array, "B L"]) -> Float[Array, "B L D"] | None:
        """What is added to the embeddings."""
        del positions
        return None

    def bias(self, positions: Int[Array, "B L"]) -> Float[Array, "#B H L L"] | None:
        """What is added to the scores."""
        del positions
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
        table = sharding.shard(self.table, None, "act_width")  # whole, as the token table in embed.py
        return jnp.take(table, positions, axis=0, mode="clip")


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
