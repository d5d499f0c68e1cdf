"""FNet: a Fourier transform over tokens and width in the place of attention (2105.03824).

    mix(x) = Re( F_L x F_D )     F_n the matrix of the discrete Fourier transform

Cost: O(L D (log L + log D)) time, O(L D) memory, no parameters. `method=matrix` multiplies with the cosines and
sines instead, Re = C_L x C_D - S_L x S_D, in O(L² D + L D²), which on matrix units is faster for short rows, as the
paper found on TPUs. Both matrices are symmetric, so the transform is its own transpose, and the backward pass is the
forward one.

Deviations: padding is zeroed first, so that it cannot reach real tokens; the original transforms it with the rest, as
`padding=mixed` does. The transform spans the padded row: how far a row is padded still sets its frequencies. Nothing
can be masked, so packed rows and causal masks are refused. The transform is taken in float32 whatever the compute
dtype.

On a mesh, each device transforms the rows that it has; a `sequence` or `tensor` axis does not split the work.
"""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.attention.base import Attention, Context
from bertjax.attention.recurrence import hide
from bertjax.layers.config import AttentionOptions
from bertjax.sharding import on_each_device, shard
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Fourier(AttentionOptions):
    """Tokens are mixed by a Fourier transform."""

    method: Literal["fft", "matrix"] = "fft"
    """How it is computed: fast Fourier transform, or products with its matrices."""
    padding: Literal["hidden", "mixed"] = "hidden"
    """Padding is zeros, or is transformed like all tokens (published models)."""


class FourierAttention(Attention):
    """Mixes without parameters."""

    options: Fourier

    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        del train
        x = hide(x, context.mask) if self.options.padding == "hidden" else x
        names = ("batch", "key_length", "act_width")
        transform = on_each_device(METHODS[self.options.method], (names,), names)
        return shard(transform(shard(x, *names)), "batch", "length", "act_width")


@jax.custom_vjp
def by_fft(x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """The real part of the transform over the last two axes."""
    return jnp.fft.fft2(x.astype(jnp.float32)).real.astype(x.dtype)


by_fft.defvjp(lambda x: (by_fft(x), None), lambda _, grad: (by_fft(grad),))


def by_matrix(x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
    """The same with products."""
    (long_cos, long_sin), (wide_cos, wide_sin) = (waves(n) for n in x.shape[1:])
    both = [jnp.einsum("bmd,de->bme", x.astype(jnp.float32), wave) for wave in (wide_cos, wide_sin)]
    y = jnp.einsum("lm,bme->ble", long_cos, both[0]) - jnp.einsum("lm,bme->ble", long_sin, both[1])
    return y.astype(x.dtype)


def waves(size: int) -> tuple[Float[Array, "n n"], Float[Array, "n n"]]:
    """Cosines and sines of 2π i j / size."""
    index = jnp.arange(size, dtype=jnp.int32)
    # Reduced as integers: i j reaches n², whose angle float32 could not hold.
    angle = (index[:, None] * index[None, :] % size).astype(jnp.float32) * np.float32(2 * np.pi / size)
    return jnp.cos(angle), jnp.sin(angle)


METHODS: dict[str, Callable[[Array], Array]] = {"fft": by_fft, "matrix": by_matrix}
