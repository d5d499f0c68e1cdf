"""Attention with linear biases: far tokens are penalised in proportion to their distance (ALiBi, 2108.12409).

    bias_ij = -slope_h |j - i|,      slope_h = 2^(-8 h / H) for h = 1 .. H

and, where H is no power of two, the slopes of the next lower power followed by every other one of
the next higher. The paper is about left-to-right models. For encoders, its authors' repository
describes three ways (issue 5):

    symmetric   the same slope on both sides (MosaicBERT, 2312.17482)
    directed    half of the heads see only what is to the left, the other half only what is to the right
    learned     a slope per head and side, which starts at the symmetric one and is learned

Deviation: `directed` keeps a forbidden score finite, as the mask does.
"""

import dataclasses
import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import sharding
from bertjax.layers.config import PositionOptions
from bertjax.layers.position.base import Position, distances
from bertjax.types import Array, Float

FORBIDDEN = -1e30


@dataclasses.dataclass(frozen=True)
class Alibi(PositionOptions):
    """Scores fall in proportion to the distance."""

    slopes: Literal["symmetric", "directed", "learned"] = "symmetric"
    """The same on both sides; heads of which each sees one side; or one per head and side, learned."""


class AlibiPosition(Position):
    """No parameters unless the slopes are learned; any length."""

    def setup(self) -> None:
        """Declares the slopes, one row for keys to the left and one for keys to the right."""
        heads = self.config.heads
        self.sides: Array
        match self.options.slopes:
            case "symmetric":
                self.sides = np.tile(slopes(heads), (2, 1))
            case "directed":
                if heads % 2:
                    raise ValueError(
                        f"model.position.slopes=directed halves the heads, and model.heads={heads} is odd: "
                        f"choose symmetric, or model.heads={heads + 1}"
                    )
                some, blind = slopes(heads // 2), np.full(heads // 2, -FORBIDDEN, np.float32)
                self.sides = np.stack([np.append(some, blind), np.append(blind, some)])
            case "learned":

                def start(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
                    del key
                    return jnp.broadcast_to(jnp.asarray(slopes(heads), dtype)[None], shape)

                self.sides = sharding.param(self, "slopes", start, (2, heads), ("table", "heads"))

    def bias(self, length: int) -> Float[Array, "H E"]:
        """The slopes times the distances."""
        far = jnp.asarray(distances(length), jnp.float32)[None, :]
        left, right = self.sides[0][:, None], self.sides[1][:, None]
        # A forbidden side is forbidden from the first step on: the product must not grow past float32.
        return -jnp.minimum(jnp.where(far < 0, left, right) * jnp.abs(far), -FORBIDDEN)


def slopes(heads: int) -> np.ndarray:
    """The paper's slope of every head."""
    lower = 2 ** math.floor(math.log2(heads))
    whole = 2.0 ** (-8.0 * np.arange(1, lower + 1) / lower)
    finer = 2.0 ** (-8.0 * np.arange(1, 2 * lower + 1, 2) / (2 * lower))
    return np.append(whole, finer[: heads - lower]).astype(np.float32)
