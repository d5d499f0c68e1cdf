"""The matrix product of every layer: half-precision inputs, float32 sums, forward and backward.

    y = einsum(subscripts, x, kernel) + bias

Flax's own `dtype=bfloat16` gives a product whose *output* is bfloat16; on CPUs that runs no faster
than float32, and everywhere the gradient of the kernel is rounded before it is summed over shards.
Here all three products take inputs of the compute dtype and accumulate in float32, the bias joins
them before they are rounded, and gradients of kernel and bias stay float32.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.types import Array

WIDE = 8192  # from here on a CPU sums rows faster as a product with ones: XLA walks down each column there


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 3))
def einsum(subscripts: str, x: Array, kernel: Array, dtype: jnp.dtype, bias: Array | None = None) -> Array:
    """The product in `dtype`, summed in float32; a letter of one operand is in the other or in the result.

    The bias stands over the last dimensions of the result.
    """
    y = _product(subscripts, x, kernel, dtype)
    return (y if bias is None else y + _wide(bias, y.ndim)).astype(dtype)


def _product(subscripts: str, left: Array, right: Array, dtype: jnp.dtype) -> Array:
    return jnp.einsum(subscripts, left.astype(dtype), right.astype(dtype), preferred_element_type=jnp.float32)


def _wide(bias: Array, ndim: int) -> Array:
    return bias.reshape((1,) * (ndim - bias.ndim) + bias.shape)


def _forward(
    subscripts: str, x: Array, kernel: Array, dtype: jnp.dtype, bias: Array | None = None
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return einsum(subscripts, x, kernel, dtype, bias), (x, kernel, bias)


def _backward(
    subscripts: str, dtype: jnp.dtype, saved: tuple[Array, Array, Array | None], grad: Array
) -> tuple[Array, Array, Array | None]:
    x, kernel, bias = saved
    operands, result = subscripts.split("->")
    left, right = operands.split(",")
    grad_x = _product(f"{result},{right}->{left}", grad, kernel, dtype)
    grad_kernel = _kernel_gradient(left, right, result, x, grad, dtype)
    grad_bias = None if bias is None else row_sum(grad, bias.ndim).astype(bias.dtype)
    return grad_x.astype(x.dtype), grad_kernel.astype(kernel.dtype), grad_bias


einsum.defvjp(_forward, _backward)


def row_sum(x: Array, kept: int) -> Array:
    """The sum over all but the last dimensions, in float32."""
    lead = tuple(range(x.ndim - kept))
    if sharding.platform() == "cpu" and x.shape[-1] >= WIDE:
        ones = jnp.ones(x.shape[: len(lead)], x.dtype)
        return jax.lax.dot_general(ones, x, ((lead, lead), ((), ())), preferred_element_type=jnp.float32)
    return x.sum(lead, dtype=jnp.float32)


def _kernel_gradient(left: str, right: str, result: str, x: Array, grad: Array, dtype: jnp.dtype) -> Array:
    """The gradient of a kernel whose letters are `right`, in float32.

    On a CPU the first operand of such a product is turned over in memory, together with all that made it (an erf per
    element, a softmax), element by element. So the smaller one goes first, and what comes out is turned over instead.
    """
    outputs = "".join(letter for letter in right if letter in result)
    inputs = "".join(letter for letter in right if letter in left)
    first_x, first_grad = f"{inputs}{outputs}", f"{outputs}{inputs}"
    plain = f"{left},{result}->{right}"
    if sharding.platform() != "cpu" or len(first_x) != len(right) or right not in (first_x, first_grad):
        return _product(plain, x, grad, dtype)
    kernel = math.prod((*x.shape, *grad.shape)[(left + result).index(letter)] for letter in right)
    as_is, other = (x.size, grad.size) if right == first_x else (grad.size, x.size)
    if as_is <= other + kernel:
        return _product(plain, x, grad, dtype)
    order = first_grad if right == first_x else first_x
    y = _product(f"{left},{result}->{order}", x, grad, dtype)
    y = jax.lax.optimization_barrier(y)  # or XLA would undo it
    return y.transpose([order.index(letter) for letter in right])


@jax.custom_vjp
def add_bias(y: Array, bias: Array) -> Array:
    """A vector added to every row, whose gradient is a sum in float32."""
    return y + _wide(bias, y.ndim)


def _add_forward(y: Array, bias: Array) -> tuple[Array, Array]:
    return add_bias(y, bias), bias


def _add_backward(bias: Array, grad: Array) -> tuple[Array, Array]:
    return grad, row_sum(grad, bias.ndim).astype(bias.dtype)


add_bias.defvjp(_add_forward, _add_backward)


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
        if not self.bias:
            return einsum(self.subscripts, x, kernel, self.dtype)
        operands, result = self.subscripts.split("->")
        left, right = operands.split(",")
        letters = [letter for letter in result if letter in right and letter not in left]
        assert result.endswith("".join(letters)), self.subscripts
        where = [right.index(letter) for letter in letters]
        shape = tuple(self.shape[i] for i in where)
        bias = sharding.param(self, "bias", nn.initializers.zeros, shape, tuple(self.axes[i] for i in where))
        return einsum(self.subscripts, x, kernel, self.dtype, bias)


def kernel_init(std: float) -> Callable[..., jax.Array]:
    """BERT's initialiser: a normal cut at two standard deviations (as there, not rescaled after the cut)."""
    return nn.initializers.truncated_normal(std)
