"""One block, forward and backward: its parameters, operations, memory and time.

The block is that of the encoder (attention, feed-forward part, norms, residual sums) on one device, on rows without
padding. The backward pass gives gradients of the parameters and of the input, as inside a stack. Where the layers of
a variant differ (local and global, hybrids), each kind is measured, and prices are averaged by the share of layers.

Prices are for one row, out of a batch of about the same number of tokens at every length: many short rows or a few
long ones, as a training step has them. Measured alone, a short row would fit into caches and into memory that the
process holds already, a long one would not, and both would grow faster than the work does. The longest should come in
twos at least: compilers lay a batch of a single row out otherwise, at other speeds whatever its length.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax import sharding
from bertjax.attention import Context, variant_of
from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position import Position, scheme_of
from bertjax.models.block import Block
from bertjax.models.cost import count_products
from bertjax.types import Tree

CLOCKS: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclasses.dataclass(frozen=True)
class Rows:
    """What a block is measured on."""

    length: int
    tokens: int = 1  # in a batch, about; at least one row
    documents: int = 1  # packed into each row

    @property
    def number(self) -> int:
        """Rows in a batch."""
        return max(1, self.tokens // self.length)


@dataclasses.dataclass(frozen=True)
class Price:
    """What a block costs for one row."""

    parameters: float
    flops: float
    bytes: float | None = None  # temporaries and results, as the compiler laid them out
    seconds: float | None = None

    def __mul__(self, share: float) -> "Price":
        """A part of the price."""
        return Price(*(None if x is None else x * share for x in dataclasses.astuple(self)))  # type: ignore[arg-type]

    def __add__(self, other: "Price") -> "Price":
        """Both prices; what one does not know the sum does not know."""
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Price(*(None if a is None or b is None else a + b for a, b in pairs))  # type: ignore[arg-type]


@dataclasses.dataclass(frozen=True)
class Timing:
    """How time is taken."""

    repeats: int
    clock: str
    memory: float  # bytes beyond which a block is not run


def price(config: EncoderConfig, rows: Rows, timing: Timing | None) -> Price:
    """The mean block of a config; without a timing nothing is compiled, only parameters and operations are known."""
    kinds = [_any_seed(options) for period, times in config.layout for options in period * times]
    shares = {options: kinds.count(options) / len(kinds) for options in kinds}
    priced = (_one(config, options, rows, timing) * share for options, share in shares.items())
    return functools.reduce(Price.__add__, priced)


def _one(config: EncoderConfig, options: AttentionOptions, rows: Rows, timing: Timing | None) -> Price:
    config = dataclasses.replace(config, max_length=rows.length)
    module, (parameters, given) = Block(config, options), _shapes(config, options, rows)
    operations = count_products(trace(config, options, rows)) / rows.number
    known = Price(sharding.count(parameters), operations)
    if timing is None:
        return known
    compiled = jax.jit(functools.partial(_step, module)).lower(parameters, given).compile()
    memory: Any = compiled.memory_analysis()
    used = memory.temp_size_in_bytes + memory.output_size_in_bytes
    known = dataclasses.replace(known, bytes=used / rows.number)
    if used > timing.memory:
        return known
    arguments = (_draw(parameters), _arguments(config, options, rows))
    return dataclasses.replace(known, seconds=_seconds(compiled, arguments, timing) / rows.number)


def trace(config: EncoderConfig, options: AttentionOptions, rows: Rows) -> Any:
    """The program of a step; a fused kernel, which would hide what it does, is replaced by the reference."""
    if "backend" in {field.name for field in dataclasses.fields(options)}:
        options = dataclasses.replace(options, backend="reference")  # type: ignore[call-arg]
    step = functools.partial(_step, Block(config, options))
    return jax.make_jaxpr(step)(*_shapes(config, options, rows)).jaxpr


def _any_seed(options: AttentionOptions) -> AttentionOptions:
    """Layers that differ in what they draw cost the same."""
    seeded = "seed" in {field.name for field in dataclasses.fields(options)}
    return dataclasses.replace(options, seed=0) if seeded else options  # type: ignore[call-arg]


def _shapes(config: EncoderConfig, options: AttentionOptions, rows: Rows) -> tuple[Tree, dict[str, Any]]:
    """Of the parameters, and of what else a step takes."""
    given = jax.eval_shape(functools.partial(_arguments, config, options, rows))
    start = functools.partial(_init, Block(config, options))
    return nn.unbox(jax.eval_shape(start, given)), given


def _arguments(config: EncoderConfig, options: AttentionOptions, rows: Rows) -> dict[str, Any]:
    """Arrays that a step takes beside the parameters."""
    length, shape = rows.length, (rows.number, rows.length)
    x, grad = jax.random.normal(jax.random.key(0), (2, *shape, config.width), config.compute)
    index = jnp.arange(length, dtype=jnp.int32)
    document = index * rows.documents // length
    first = -(-document * length // rows.documents)  # the token that each document begins with
    distances = 2 * length - 1
    reads, adds = variant_of(options).relative, scheme_of(config.position).module.bias is not Position.bias
    return {
        "x": x,
        "grad": grad,
        "valid": jnp.ones(shape, bool),
        "segments": jnp.broadcast_to((1 + document)[None], shape) if rows.documents > 1 else None,
        "positions": jnp.broadcast_to((index - first)[None], shape),
        "scores": jnp.zeros((config.heads, distances)) if adds else None,
        "relative": jnp.ones((distances, config.width), config.compute) if reads else None,
        "key": jax.random.key(1),
    }


def _context(given: dict[str, Any]) -> Context:
    mask = AttentionMask(valid=given["valid"], segments=given["segments"])
    return Context(mask, given["positions"], scores=given["scores"], relative=given["relative"])


def _init(module: Block, given: dict[str, Any]) -> Tree:
    return module.init(given["key"], given["x"], _context(given), {}, False)["params"]


def _step(module: Block, parameters: Tree, given: dict[str, Any]) -> Any:
    """Gradients of parameters and input."""

    def forward(parameters: Tree, x: Any) -> Any:
        rngs = {"dropout": given["key"]}
        return module.apply({"params": parameters}, x, _context(given), {}, True, rngs=rngs)

    return jax.vjp(forward, parameters, given["x"])[1](given["grad"])


def _draw(shapes: Tree) -> Tree:
    """Small random numbers: what a block costs does not depend on them, and drawing compiles nothing."""
    draw = np.random.default_rng(0)
    one = lambda leaf: jnp.asarray(0.02 * draw.standard_normal(leaf.shape), leaf.dtype)  # noqa: E731
    return jax.tree.map(one, shapes)


def _seconds(compiled: Any, given: Any, timing: Timing) -> float:
    """The fastest of some runs, after one that does not count."""
    clock, found = CLOCKS[timing.clock], []
    jax.block_until_ready(compiled(*given))
    for _ in range(timing.repeats):
        began = clock()
        jax.block_until_ready(compiled(*given))
        found.append(clock() - began)
    return min(found)
