"""Compiles the real train step for devices that need not be here, and says what memory it takes.

    parameters    float32 weights, this device's share
    optimizer     its moments
    batch         the rest of the arguments
    activations   what the forward pass keeps for the backward pass, counted in the traced program
    temporaries   all else that the compiler reserves: gradients, gathered parameters, what a layer works with
    program       the machine code, which TPUs keep in the same memory

The compiler reserves one block for activations and temporaries; how much of it is the former follows from the program
before compilation, so it is an estimate, and their sum is not.
"""

import contextlib
import dataclasses
import math
import re
import time
from collections.abc import Mapping
from typing import Any
from unittest import mock

import jax
from flax.core import meta

from bertjax import sharding, tasks
from bertjax.config import Config
from bertjax.data.corpus import Vocabulary
from bertjax.data.loader import abstract_batch
from bertjax.plan.topology import libtpu_environment
from bertjax.program import Program
from bertjax.step import make_train_step
from bertjax.types import Tree

UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True)
class Compiled:
    """A train step, compiled."""

    text: str | None  # None where this JAX cannot read what that compiler has written
    seconds: float
    arguments: int
    outputs: int  # that take no argument's place
    temporary: int
    program: int


class OutOfMemoryError(Exception):
    """The compiler found no room for the step."""

    def __init__(self, needed: int, available: int, *, temporaries: bool = False) -> None:
        super().__init__(f"needs {needed} of {available} bytes")
        self.needed, self.available = needed, available
        self.temporaries = temporaries  # whether what is needed leaves out the arguments


def compile_step(program: Program) -> Compiled:
    """The step of a program, compiled for the program's devices."""
    with program.active():
        lowered = make_train_step(program).lower(program.state, program.batch)
        began = time.perf_counter()
        tpu = program.mesh.devices.flat[0].platform == "tpu"
        try:
            with libtpu_environment() if tpu else contextlib.nullcontext():
                compiled = lowered.compile()
        except jax.errors.JaxRuntimeError as error:
            if (refused := refusal(str(error))) is None:
                raise
            raise OutOfMemoryError(*refused, temporaries="temporaries" in str(error)) from error
    seconds, memory = time.perf_counter() - began, compiled.memory_analysis()
    return Compiled(
        text=_read(compiled),
        seconds=seconds,
        arguments=memory.argument_size_in_bytes,
        outputs=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temporary=memory.temp_size_in_bytes,
        program=memory.generated_code_size_in_bytes,
    )


def _read(compiled: Any) -> str | None:
    """The program as text; a libtpu newer than JAX may write instructions that JAX does not know."""
    try:
        return compiled.as_text()
    except jax.errors.JaxRuntimeError as error:
        if "hlo" not in str(error):
            raise
        return None


def lower_for_cuda(program: Program) -> None:
    """Lowers the step for GPUs from devices that stand in for them: what has no GPU form is an error."""
    with program.active(), sharding.assume("gpu"), without_cudnn("gpu"):
        traced = make_train_step(program).trace(program.state, program.batch)
        traced.lower(lowering_platforms=("cuda",))


def refusal(message: str) -> tuple[int, int] | None:
    """(needed, available) bytes from the compiler's words where memory is what it lacks; None otherwise."""
    if "RESOURCE_EXHAUSTED" not in message or "emory" not in message:
        return None
    forms = (
        r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available \w+ \(([\d.]+)([KMGT]?)\)",
        r"[Uu]sed ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) hbm",
        r"requir\w+ .*?\(?([\d.]+)([KMGT]?)\)? .*?exceeds .*?\(?([\d.]+)([KMGT]?)\)?",
    )
    for form in forms:
        if found := re.search(form, message):
            needed, unit, available, other = found.groups()
            return int(float(needed) * UNITS[unit]), int(float(available) * UNITS[other])
    return None


def bytes_of(tree: Tree) -> int:
    """Of one device's share of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def saved_activations(config: Config, vocabulary: Vocabulary, platform: str, rows: int) -> list[Any]:
    """Shapes that the backward pass of so many rows takes from the forward pass, on one device.

    Traced, not compiled, for the platform named; parameters, which are kept anyway, are not among them.
    """
    alone = dataclasses.replace(config, mesh=sharding.MeshConfig(data=1))
    format, length = config.data.format, config.data.length
    mesh = sharding.make_mesh(alone.mesh, jax.devices("cpu")[:1])
    batch = abstract_batch(rows, length, mesh, "data", packed=format.packed, labelled=format.labelled)
    batch = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), batch)
    network = tasks.make_network(config.tasks, config.model, config.heads)
    key = jax.eval_shape(jax.random.key, 0)

    def corrupted(batch: Any) -> Any:
        return tasks.corrupt(config.tasks, batch, vocabulary, seed=0, step=0)

    def init(key: Any, batch: Any) -> Any:
        return network.init(key, corrupted(batch), train=False)["params"]

    def kept(params: Tree, batch: Any, key: Any) -> Any:
        batch = corrupted(batch)
        counts = tasks.normalisers(config.tasks, batch)

        def loss(params: Tree) -> Any:
            outputs = network.apply({"params": params}, batch, train=True, step=0, rngs={"dropout": key})
            return tasks.total_loss(config.tasks, outputs, batch, counts)[0]

        return jax.tree.leaves(jax.vjp(loss, params)[1])

    with sharding.assume(platform), without_cudnn(platform):
        params = meta.unbox(jax.eval_shape(init, key, batch))
        traced = jax.make_jaxpr(kept)(params, batch, key).jaxpr
    given = set(map(id, traced.invars))
    return [
        variable.aval
        for variable in {id(v): v for v in traced.outvars}.values()
        if id(variable) not in given and hasattr(variable.aval, "shape")
    ]


def share_of(saved: list[Any], config: Config, sizes: Mapping[str, int]) -> int:
    """Bytes of saved arrays on one of the devices that split length, heads, feed-forward and vocabulary."""
    model, total = config.model, 0
    for array in saved:
        size = math.prod(array.shape) * getattr(array.dtype, "itemsize", 4)
        if {model.heads, model.hidden, model.rows} & set(array.shape):
            size //= sizes["tensor"]
        if config.data.length in array.shape:
            size //= sizes["sequence"]
        total += size
    return total


def without_cudnn(platform: str) -> contextlib.AbstractContextManager[Any]:
    """Lets cuDNN's attention be traced where cuDNN is not installed; nothing can be run so."""
    if platform != "gpu" or jax.default_backend() == "gpu":
        return contextlib.nullcontext()
    from jax._src.cudnn import fused_attention_stablehlo

    # JAX asks the library for its version at trace time, and takes 9.10 for one that can do all that is asked for.
    return mock.patch.object(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
