"""What the machine could do: one large matrix product, and a skeleton of a step that has only its own products.

The skeleton is read off the program of the step's gradient: every matrix product in it, with its shapes and types, as
often as it occurs, one after the other and nothing between them. Products of one shape run in a loop, whose trips each
wait for the one before, so that none is left out or computed once for all.
"""

import collections
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.models.cost import programs_in


def size_of_matmul(*, on_cpu: bool) -> tuple[int, int]:
    """How large the product is, and how often it runs in one go."""
    return (2048, 1) if on_cpu else (8192, 50)


def matmul(size: int, dtype: jnp.dtype, repeats: int) -> tuple[Callable[[], Any], float]:
    """A large product of square matrices, again and again, and its operations. It sums in float32 on every platform."""
    x = jnp.full((size, size), 1.0 / size, dtype)
    half_out = jax.default_backend() != "cpu"  # there a product that ends in float32 is the faster one

    @jax.jit
    def run(x: Any) -> Any:
        def once(_: Any, y: Any) -> Any:
            made = jnp.matmul(x, y, preferred_element_type=dtype if half_out else jnp.float32)
            return made.astype(dtype)

        return jax.lax.fori_loop(0, repeats, once, x)

    return lambda: jax.block_until_ready(run(x)), 2.0 * size**3 * repeats


def products(program: Any, times: int = 1) -> Iterator[tuple[Any, int]]:
    """Every matrix product of a traced program and how often it runs, inside of loops and calls, too."""
    for step in program.eqns:
        if step.primitive.name == "dot_general":
            yield step, times
        elif step.primitive.name == "scan":
            yield from products(step.params["jaxpr"].jaxpr, times * step.params["length"])
        else:
            for inner in programs_in(tuple(step.params.values())):
                yield from products(inner, times)


def skeleton(program: Any) -> Callable[[], Any]:
    """Runs the matrix products of a traced program, and nothing else."""
    kinds: collections.Counter[Any] = collections.Counter()
    for step, times in products(program):
        left, right = (v.aval for v in step.invars)
        (lc, rc), (lb, rb) = step.params["dimension_numbers"]
        numbers = ((tuple(lc), tuple(rc)), (tuple(lb), tuple(rb)))
        shapes = (tuple(left.shape), left.dtype.name, tuple(right.shape), right.dtype.name)
        kinds[(*shapes, numbers, jnp.dtype(step.outvars[0].aval.dtype).name)] += times
    made: dict[tuple[Any, str], Any] = {}
    for left, left_type, right, right_type, *_ in kinds:
        for shape, dtype in ((left, left_type), (right, right_type)):
            made.setdefault((shape, dtype), jnp.full(shape, 0.01, dtype))
    operands = [(made[k[0], k[1]], made[k[2], k[3]]) for k in kinds]

    @jax.jit
    def run(operands: Any) -> Any:
        total = jnp.zeros(())
        for (left, right), (*_, numbers, out), times in zip(operands, kinds, kinds.values(), strict=True):

            def once(
                _: Any,
                total: Any,
                left: Any = left,
                right: Any = right,
                numbers: Any = numbers,
                out: Any = out,
            ) -> Any:
                left, total = jax.lax.optimization_barrier((left, total))
                y = jax.lax.dot_general(left, right, numbers, preferred_element_type=out)
                y = jax.lax.optimization_barrier(y)
                return total + y.reshape(-1)[0].astype(jnp.float32)

            total = jax.lax.fori_loop(0, times, once, total)
        return total

    return lambda: jax.block_until_ready(run(operands))
