"""Sine waves of growing length, added to the embeddings (Vaswani et al., 1706.03762, Section 3.5).

    wave(p)[2 i] = sin(p / base^(2 i / D)),    wave(p)[2 i + 1] = cos(p / base^(2 i / D))

Deviation: the paper multiplies the token embeddings by sqrt(D), so that they start with the
amplitude of the waves. Here the tokens stay and the waves are made as small as the tokens start,
which keeps the proportion.
"""

import dataclasses

import jax.numpy as jnp

from bertjax.layers.config import PositionOptions
from bertjax.layers.position.base import Position
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Sinusoidal(PositionOptions):
    """Fixed sine waves, added to the embeddings."""

    base: float = 10_000.0
    """Ratio of the longest wave to the shortest."""
    amplitude: float | None = None
    """Of the waves; none means model.init_std, which is that of the tokens."""


class SinusoidalPosition(Position):
    """No parameters, any length."""

    def embed(self, positions: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The waves at the positions."""
        width = self.config.table_width
        amplitude = self.config.init_std if self.options.amplitude is None else self.options.amplitude
        pair = jnp.arange(-(-width // 2), dtype=jnp.float32)
        speed = self.options.base ** (-2.0 * pair / width)
        angle = positions[:, :, None].astype(jnp.float32) * speed[None, None, :]
        waves = jnp.stack([jnp.sin(angle), jnp.cos(angle)], -1).reshape(*positions.shape, -1)
        return amplitude * waves[:, :, :width]
