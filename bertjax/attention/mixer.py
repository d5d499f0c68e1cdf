"""Token mixers: one matrix for every row, learned or random ("Linear", "Random" in FNet, 2105.03824, Section 3).

    mix(x) = M x W     M [length, length] over tokens, W [D, D] over the width, no nonlinearity

Cost: O(L² D + L D²) time, O(L² + L D) memory. The matrices of `matrices=random` are functions of the seed and never
trained: no parameters at all, and nothing to store. All layers share them; `draws=n` gives n layers in turn their
own. Entries have a variance of one over the size of their matrix, which keeps the size of activations.

M has model.max_length rows; shorter rows use its corner, longer ones are refused. Padding is zeroed before it is
mixed (the original mixes it in). In packed rows positions count inside each document and M joins no two documents;
that, and a causal mask, makes a matrix for every row, O(B L²).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention.base import Attention, Context, require_length
from bertjax.attention.recurrence import hide
from bertjax.attention.synthesizer import pairs
from bertjax.layers.config import AttentionOptions
from bertjax.layers.einsum import einsum, kernel_init
from bertjax.sharding import shard
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Mixer(AttentionOptions):
    """One matrix over tokens and one over the width, the same for every row."""

    matrices: Literal["learned", "random"] = "learned"
    """Whether the matrices are parameters or stay what was drawn."""
    draws: int = 1
    """Layers after which the matrices of `random` repeat; model.layers is a multiple of it."""
    seed: int = 0
    """Which random matrices are drawn."""

    def __post_init__(self) -> None:
        """Refuses no draw at all."""
        if self.draws < 1:
            raise ValueError(f"model.attention.draws={self.draws}: 1 or more")

    def period(self) -> tuple[AttentionOptions, ...]:
        """Layers that differ by their seed."""
        return tuple(
            dataclasses.replace(self, draws=1, seed=self.seed * self.draws + i) for i in range(self.draws)
        )


class MixerAttention(Attention):
    """Multiplies from both sides."""

    options: Mixer

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        del train
        c, mask, length = self.config, context.mask, x.shape[1]
        require_length(c, length, "mixer")
        tokens = self.matrix("tokens", c.max_length, ("table", "output"))
        width = self.matrix("width", c.width, ("width", "output"))
        x = einsum("bld,de->ble", hide(x, mask), width, c.compute)
        x = shard(x, "batch", "key_length", "act_width")
        if mask.segments is None and not mask.causal and mask.window is None:
            y = einsum("bmd,lm->bld", x, tokens[:length, :length], c.compute)
        else:
            allowed = mask.matrix(length, length)[:, 0]
            places = context.positions if mask.segments is not None else jnp.arange(length)[None]
            each = jnp.where(allowed, pairs(tokens, places), 0.0)
            each = jnp.broadcast_to(each, (x.shape[0], length, length))
            y = einsum("bmd,blm->bld", x, each, c.compute)
        return shard(y, "batch", "length", "act_width")

    def matrix(self, name: str, size: int, axes: tuple[str, str]) -> Float[Array, "size size"]:
        """A square matrix, learned or drawn."""
        init = kernel_init(size**-0.5)
        if self.options.matrices == "learned":
            return sharding.param(self, name, init, (size, size), axes)
        key = jax.random.fold_in(jax.random.key(self.options.seed), 0 if name == "tokens" else 1)
        return init(key, (size, size), jnp.float32)
