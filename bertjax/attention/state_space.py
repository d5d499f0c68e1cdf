"""A bidirectional state-space mixer: Hydra (2407.09941), which is Mamba-2 (2405.21060) read from both sides.

    x, z = u Wx, u Wz      B, C = u Wb, u Wc      Δ = softplus(u Wd + d)      for each direction its own B, C, Δ
    h_i = exp(-e^r Δ_i) h_{i-1} + Δ_i B_iᵀ x_i
    y_i = C_i h_{i-1}  from the left  +  C'_i h'_{i+1}  from the right  +  (δ + x_i Wδ) x_i
    mix(u) = RMSNorm(y ∘ silu(z)) Wo

r and δ are one number a head, x and z have H heads of `expansion` K channels, B and C have `state` numbers for all
heads, and x, B, C pass a short depthwise filter and a silu first. The matrix that multiplies x is quasiseparable: low
rank above and below its diagonal, free on it. Cost: O(L (128 + state) D) time, O(L D) memory.

The state begins anew in each packed document, and the filter stops at its ends. A token of padding adds nothing to the
state. A model with this mixer needs no positions (model.position=none).

Deviations: a query reads the state before its own token with its own C, where Hydra shifts the outputs of a causal
scan by one token and so reads with its neighbour's. Hydra's encoder has no feed-forward part and expansion 2; here
the mixer takes the place of attention, and expansion 1 gives it a little less than attention's parameters. On a mesh,
the `sequence` axis does not split the scan.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention.base import Attention, Context
from bertjax.attention.filters import smooth
from bertjax.attention.recurrence import hide, running_sum
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dense import dense
from bertjax.layers.einsum import kernel_init
from bertjax.sharding import shard
from bertjax.types import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class StateSpace(AttentionOptions):
    """A recurrent state from the left and one from the right, in linear time."""

    expansion: int = 1
    """Channels of a head, in multiples of the head size."""
    state: int = 64
    """Numbers that the state keeps for each channel."""
    convolution: int = 7
    """Width of the short filter, odd."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        for name in ("expansion", "state", "convolution"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.attention.{name}={getattr(self, name)}: 1 or more")
        if self.convolution % 2 == 0:
            raise ValueError(f"model.attention.convolution={self.convolution}: an odd width")


class StateSpaceAttention(Attention):
    """Two running sums, a diagonal, and a gate."""

    options: StateSpace

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        del train
        c, o, mask = self.config, self.options, context.mask
        channels = (c.heads, o.expansion * c.key_size)
        shape, axes = (c.width, *channels), ("width", "heads", "head_size")
        places = ("batch", "key_length", "act_heads", "act_head_size")
        inputs: Any = shard(dense(c, "bld,dhk->blhk", shape, axes, "branch", name="input")(x), *places)
        gate = shard(dense(c, "bld,dhk->blhk", shape, axes, "branch", name="gate")(x), *places)
        shape, axes = (c.width, 4, o.state), ("width", "output", "head_size")
        states: Any = dense(c, "bld,dck->blck", shape, axes, "score", name="states")(x)
        shape, axes = (c.width, 2, c.heads), ("width", "output", "heads")
        delta = dense(c, "bld,dch->blch", shape, axes, "score", bias=False, name="step")(x)

        inputs = self.filter(inputs, "input_filter", ("heads", "head_size"), context)
        states = self.filter(states, "state_filter", ("output", "head_size"), context)
        start = sharding.param(self, "step_bias", _steps, (2, c.heads), ("output", "heads"))
        rate = sharding.param(self, "rate", _rates, (c.heads,), ("heads",))
        delta = jax.nn.softplus(delta.astype(jnp.float32) + start[None, None])
        decay = hide(-jnp.exp(rate)[None, None, None] * delta, mask)

        y: Any = jnp.zeros(inputs.shape, jnp.float32)
        for side, turn in enumerate((lambda t: t, lambda t: jnp.flip(t, 1))):
            values = hide(inputs * delta[:, :, side, :, None].astype(inputs.dtype), mask)
            keys, queries = states[:, :, 2 * side, None], states[:, :, 2 * side + 1, None]
            segments = None if mask.segments is None else turn(mask.segments)
            y = y + turn(
                running_sum(turn(queries), turn(keys), turn(values), turn(decay[:, :, side]), segments)
            )
        y = y + self.diagonal(inputs)[..., None] * inputs.astype(jnp.float32)
        y = shard(self.norm(y * jax.nn.silu(gate.astype(jnp.float32))), *places)
        shape, axes = (*channels, c.width), ("heads", "head_size", "width")
        y = shard(y.astype(c.compute), "batch", "length", "act_heads", "act_head_size")
        return dense(c, "blhk,hkd->bld", shape, axes, "exit", name="output")(y)

    def filter(
        self, x: Float[Array, "B L n k"], name: str, axes: tuple[str, str], context: Context
    ) -> Float[Array, "B L n k"]:
        """A short filter along the row, and a silu."""
        width = self.options.convolution
        init = kernel_init(1 / math.sqrt(width))
        taps = sharding.param(self, name, init, (width, *x.shape[2:]), ("table", *axes))
        return jax.nn.silu(smooth(hide(x, context.mask), taps, context.mask.segments))

    def diagonal(self, x: Float[Array, "B L H k"]) -> Float[Array, "B L H"]:
        """How much of each token goes past the states."""
        c, shape = self.config, (*x.shape[2:], x.shape[2])
        skip = sharding.param(self, "skip", nn.initializers.ones, x.shape[2:3], ("heads",))
        axes = ("heads", "head_size", "output")
        more = dense(c, "blhk,hkg->blg", shape, axes, "score", bias=False, name="diagonal")(x)
        return more.astype(jnp.float32) + skip[None, None]

    def norm(self, y: Float[Array, "B L H k"]) -> Float[Array, "B L H k"]:
        """Divided by its root mean square over all heads."""
        scale = sharding.param(self, "scale", nn.initializers.ones, y.shape[2:], ("heads", "head_size"))
        size = jnp.square(y).mean((2, 3), keepdims=True)
        return y * jax.lax.rsqrt(size + self.config.norm_epsilon) * scale[None, None]


def _steps(key: Key, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Biases whose softplus lies between 0.001 and 0.1, evenly in the logarithm."""
    steps = jnp.exp(jax.random.uniform(key, shape, jnp.float32, math.log(0.001), math.log(0.1)))
    return (steps + jnp.log(-jnp.expm1(-steps))).astype(dtype)


def _rates(key: Key, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Logarithms of rates between 1 and 16."""
    return jnp.log(jax.random.uniform(key, shape, jnp.float32, 1.0, 16.0)).astype(dtype)
