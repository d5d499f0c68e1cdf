"""The matrix product of every layer: half-precision inputs, float32 sums, forward and backward.

    y = einsum(subscripts, x, kernel) + bias

Flax's own `dtype=bfloat16` gives a product whose *output* is bfloat16; on CPUs that runs no faster
than float32, and everywhere the gradient of the kernel is rounded before it is summed over shards.
Here all three products take inputs of the compute dtype and accumulate in float32, and the kernel's
gradient stays float32.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def einsum(subscripts: str, x: Array, kernel: Array, dtype: jnp.dtype) -> Array:
    """The product in `dtype`, summed in float32; a letter of one operand is in the other or in the result."""
    return _product(subscripts, x, kernel, dtype).astype(dtype)


def _product(subscripts: str, left: Array, right: Array, dtype: jnp.dtype) -> Array:
    return jnp.einsum(subscripts, left.astype(dtype), right.astype(dtype), preferred_element_type=jnp.float32)


def _forward(subscripts: str, x: Array, kernel: Array, dtype: jnp.dtype) -> tuple[Array, tuple[Array, Array]]:
    return einsum(subscripts, x, kernel, dtype), (x, kernel)


def _backward(
    subscripts: str, dtype: jnp.dtype, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    x, kernel = saved
    operands, result = subscripts.split("->")
    left, right = operands.split(",")
    grad_x = _product(f"{result},{right}->{left}", grad, kernel, dtype)
    grad_kernel = _product(f"{left},{result}->{right}", x, grad, dtype)
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype)


einsum.defvjp(_forward, _backward)


class Einsum(nn.Module):
    """A dense layer over any axes: who uses it declares the kernel's shape and the names of its axes."""

    subscripts: str
    shape: tuple[int, ...]
    axes: tuple[str, ...]
    dtype: jnp.dtype
    initializer: Callable[..., jax.Array]
    bias: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        """The product, plus a bias over those axes of the result that come from the kernel."""
        kernel = sharding.param(self, "kernel", self.initializer, self.shape, self.axes)
        y = einsum(self.subscripts, x, kernel, self.dtype)
        if not self.bias:
            return y
        operands, result = self.subscripts.split("->")
        left, right = operands.split(",")
        letters = [letter for letter in result if letter in right and letter not in left]
        assert result.endswith("".join(letters)), self.subscripts
        where = [right.index(letter) for letter in letters]
        shape = tuple(self.shape[i] for i in where)
        bias = sharding.param(self, "bias", nn.initializers.zeros, shape, tuple(self.axes[i] for i in where))
        return y + bias.astype(self.dtype).reshape((1,) * (y.ndim - len(shape)) + shape)


def kernel_init(std: float) -> Callable[..., jax.Array]:
    """BERT's initialiser: a normal cut at two standard deviations (as there, not rescaled after the cut)."""
    return nn.initializers.truncated_normal(std)
