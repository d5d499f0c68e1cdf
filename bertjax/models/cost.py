"""What a step costs: the operations of its matrix products, counted where the model is traced.

For full attention, forward and backward, with N the matrix parameters of the stack (no embeddings), c the mean number
of tokens that a token attends to, p the share of tokens that are predicted, and E the width of the embedding tables:

    per token = 6 N + 12 c H K layers + 6 p (E V + D E)

No formula is needed for the other variants: the products of the stack are read off its program, with a row of c tokens,
and the backward pass costs twice as much. So a new variant has its price without saying a word. Not counted is what is
done element by element, what remat computes twice, the padding of rows, and learned vectors before them. XLA's own
analysis would count the body of a scan once, and all of a padded row.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from bertjax import sharding
from bertjax.attention import Context, variant_of
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.models.stack import Stack


def flops_per_token(config: EncoderConfig, *, attended: float, predicted: float) -> float:
    """Operations of one training step per token; between two powers of two, `attended` is interpolated."""
    lower = 2 ** math.floor(math.log2(max(attended, 1)))
    upper = config.max_length if lower < config.max_length < 2 * lower else 2 * lower
    share = (attended - lower) / (upper - lower)
    stack = stack_flops(config, lower)
    if share:  # a table of positions may end at `lower`
        stack += share * (stack_flops(config, upper) - stack)
    head = config.table_width * (config.rows + config.width)
    projection = 0 if config.embedding_width is None else config.embedding_width * config.width
    return 3 * stack + 6 * projection + 6 * predicted * head


@functools.cache
def stack_flops(config: EncoderConfig, length: int) -> float:
    """Forward operations of all layers per token, in a row of that length."""
    # As many operations, but one trace for all layers and none to make the parameters that they share.
    config = dataclasses.replace(config, scan=True, remat="none", sharing="none", prompt=None)

    def forward(key: Any, x: Any) -> Any:
        place, heads = jnp.zeros((1, length), jnp.int32), config.heads
        relative = jnp.zeros((2 * length - 1, config.width), config.compute)
        context = Context(
            mask=AttentionMask(valid=place == 0),
            positions=place,
            scores=jnp.zeros((heads, 2 * length - 1)),
            relative=relative if any(variant_of(kind).relative for kind in config.kinds) else None,
        )
        # Layers that make their parameters use the reference implementation, whose products can be seen.
        return Stack(config, keep_states=False).init_with_output(key, x, context, train=False)[0]

    x = jax.ShapeDtypeStruct((1, length, config.width), config.compute)
    with sharding.deactivate():
        return count_products(jax.make_jaxpr(forward)(jax.random.key(0), x).jaxpr) / length


def count_products(program: Any) -> float:
    """Operations of the matrix products, convolutions and Fourier transforms of a traced program, loops included.

    A product of [m k] and [k n] counts 2 m k n, a transform over N points 5 N log2 N, a loop its body times its length.
    """
    total = 0.0
    for step in program.eqns:
        shapes = [tuple(v.aval.shape) for v in step.invars if hasattr(v.aval, "shape")]
        made = math.prod(step.outvars[0].aval.shape) if step.outvars else 0
        match step.primitive.name:
            case "dot_general":
                (summed, _), _ = step.params["dimension_numbers"]
                total += 2 * made * math.prod(shapes[0][i] for i in summed)
            case "conv_general_dilated":
                output = step.params["dimension_numbers"].rhs_spec[0]
                total += 2 * made * (math.prod(shapes[1]) // shapes[1][output])
            case "fft":
                points = math.prod(step.params["fft_lengths"])
                total += 5 * max(math.prod(shapes[0]), made) * math.log2(points)
            case "cond":  # as if it always took its longest way
                total += max(count_products(branch.jaxpr) for branch in step.params["branches"])
            case "scan":
                total += step.params["length"] * count_products(step.params["jaxpr"].jaxpr)
            case name:
                inside = sum(count_products(inner) for inner in programs_in(tuple(step.params.values())))
                if inside and name == "while":
                    raise ValueError(
                        "a while loop does not say how often it runs its matrix products: use a scan, or a "
                        "fori_loop between fixed bounds"
                    )
                total += inside
    return total


def programs_in(value: Any) -> Iterator[Any]:
    """The programs that a call carries: of jit, remat, custom derivatives."""
    if hasattr(value, "eqns"):
        yield value
    elif hasattr(value, "jaxpr"):
        yield value.jaxpr
    elif isinstance(value, tuple | list):
        for item in value:
            yield from programs_in(item)
