"""Rotary positions: queries and keys turned by angles that grow with the position (RoFormer, 2104.09864).

    (x_a, x_b)  ->  (x_a cos pθ - x_b sin pθ,  x_a sin pθ + x_b cos pθ),     θ_i = base^(-2 i / R)

over R / 2 pairs of components, so that q_i · k_j depends on positions through i - j only. R is the
`fraction` of the head size that is turned; the rest is left alone. RoFormer pairs neighbours (2 i,
2 i + 1); most later models, ModernBERT among them, pair component i with i + R / 2. Angles, sines
and products are float32.
"""

import dataclasses
from typing import Literal

import jax.numpy as jnp

from bertjax.layers.config import PositionOptions
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Rope(PositionOptions):
    """Queries and keys turned by their positions."""

    base: float = 10_000.0
    """Ratio of the slowest pair's period to the fastest's; larger for longer rows (ModernBERT: 160000)."""
    fraction: float = 1.0
    """Share of each head that is turned; 0.25 leaves three quarters without position."""
    pairs: Literal["halves", "neighbours"] = "halves"
    """Which components turn together: i with i + R/2 (ModernBERT), or 2i with 2i + 1 (RoFormer)."""

    def __post_init__(self) -> None:
        """Refuses what turns nothing."""
        if self.base <= 0:
            raise ValueError(f"model.position.base={self.base}: larger than 0, for instance 10000")
        if not 0 < self.fraction <= 1:
            raise ValueError(f"model.position.fraction={self.fraction}: larger than 0 and at most 1")


def turned_size(options: Rope, head_size: int) -> int:
    """The number R of components of a head that are turned."""
    size = round(head_size * options.fraction, 6)
    if size != int(size) or size % 2:
        fit = max(2, 2 * round(size / 2)) / head_size
        raise ValueError(
            f"model.position.fraction={options.fraction} of a head of {head_size} is not an even number of "
            f"components to turn in pairs: "
            + (f"model.position.fraction={fit:g} is" if fit <= 1 else "heads of 2 and more are needed")
        )
    return int(size)


def turn(options: Rope, x: Float[Array, "B L H K"], positions: Int[Array, "B L"]) -> Float[Array, "B L H K"]:
    """Queries or keys, turned."""
    size = turned_size(options, x.shape[-1])
    speed = options.base ** (-jnp.arange(0, size, 2, dtype=jnp.float32) / size)
    angle = (positions[:, :, None].astype(jnp.float32) * speed[None, None, :])[:, :, None, :]
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    turned = x[..., :size].astype(jnp.float32)
    if options.pairs == "halves":
        a, b = turned[..., : size // 2], turned[..., size // 2 :]
        turned = jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)
    else:
        a, b = turned[..., 0::2], turned[..., 1::2]
        turned = jnp.stack([a * cos - b * sin, a * sin + b * cos], -1).reshape(turned.shape)
    return jnp.concatenate([turned.astype(x.dtype), x[..., size:]], -1)
