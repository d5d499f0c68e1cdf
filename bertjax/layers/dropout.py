"""Dropout: keeps each element with probability 1 - rate and divides by it (Srivastava et al., 2014).

    y = x keep(key, place) / (1 - rate),      keep = hash(key, place) < (1 - rate) 2^32

What is kept is a hash of the key and of the element's place: two rounds of the finaliser of MurmurHash3, a permutation
of 32-bit numbers in which every bit of the input moves every bit of the result, each round with a word of the key. It
is a few integer operations beside the element itself, so compilers put it into the loop that makes the element: no
random bits, and no mask for the backward pass, which computes it again, are ever in memory. JAX's own generators are
made for stronger needs and write theirs out. Places are counted over the whole array, so a mesh changes nothing.
"""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.types import Array, Bool, Key, UInt


class Dropout(nn.Module):
    """Draws from the "dropout" stream; the identity when not training."""

    rate: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """X with a share `rate` of its elements set to zero."""
        if not train or self.rate == 0.0:
            return x
        return drop(self.rate, x, jax.random.key_data(self.make_rng("dropout")))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def drop(rate: float, x: Array, words: UInt[Array, "W"]) -> Array:
    """Sets a share `rate` of the elements to zero, as the words of a key say; the others make up for it."""
    wide = jnp.asarray(x).astype(jnp.float32) * (1.0 / (1.0 - rate))
    return jnp.where(kept(rate, x.shape, words), wide, 0.0).astype(x.dtype)


def _forward(rate: float, x: Array, words: Key) -> tuple[Array, Key]:
    return drop(rate, x, words), words


def _backward(rate: float, words: Key, grad: Array) -> tuple[Array, None]:
    return drop(rate, grad, words), None


drop.defvjp(_forward, _backward)


def kept(rate: float, shape: tuple[int, ...], words: UInt[Array, "W"]) -> Bool[Array, "..."]:
    """True where an element stays, independently with probability 1 - rate."""
    near = _place(shape, max(len(shape) - 2, 0), len(shape))  # in a matrix; matrices are counted apart,
    far = _place(shape, 0, max(len(shape) - 2, 0))  # since 32 bits may not number all elements of an array
    bits = _mix(_mix(near ^ words[0]) ^ far * jnp.uint32(0x9E3779B9) ^ words[1])
    return bits < jnp.uint32(min(round((1.0 - rate) * 2**32), 2**32 - 1))


def _place(shape: tuple[int, ...], first: int, last: int) -> UInt[Array, "..."]:
    """The number of each element, counted over some of the dimensions."""
    number = jnp.zeros(shape, jnp.uint32)
    for axis in range(first, last):
        step = math.prod(shape[axis + 1 : last]) % 2**32
        number += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(step)
    return number


def _mix(bits: UInt[Array, "..."]) -> UInt[Array, "..."]:
    """The finaliser of MurmurHash3 (Appleby)."""
    bits = (bits ^ (bits >> 16)) * jnp.uint32(0x85EBCA6B)
    bits = (bits ^ (bits >> 13)) * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)
