"""What a step takes on any mesh, without compiling it: good enough to rank meshes, and all that is known of GPUs.

Memory of one device, with P the parameters:

    parameters    P / shares           as their axes are split
    optimizer     as the parameters
    gradients     4 P / shares         once more where microbatches are summed
    gathered      what one layer and the tables are made of, whole, in the compute dtype (fsdp)
    activations   what the backward pass of one microbatch takes from the forward pass

Exchanges of a step with k microbatches, by mesh axis (n devices along it); A is one layer's activations:

    data       k times: all-reduce of the gradients (XLA sums those of every microbatch over the devices at once)
    fsdp       k times: all-gather of the parameters for the forward pass, again for the backward pass (and once more
               to compute a block again), reduce-scatter of the gradients
    tensor     k times, every layer: an all-reduce of A after attention and after the feed-forward part, and as many in
               the backward pass (half as many again with remat)
    sequence   k times, every layer: keys and values of whole rows gathered, or sent round, and their gradients brought
               back; all-reduce of the gradients as over data
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from bertjax import sharding
from bertjax.config import Config
from bertjax.data.corpus import Vocabulary
from bertjax.plan.collectives import Collective
from bertjax.plan.compile import saved_activations, share_of
from bertjax.plan.hlo import Array
from bertjax.program import Program, declare
from bertjax.sharding import MESH_AXES, PRESETS, Declared
from bertjax.types import Tree

NOT_FSDP = tuple(axis for axis in MESH_AXES if axis != "fsdp")


@dataclasses.dataclass(frozen=True)
class Model:
    """What does not depend on the mesh."""

    declared: Tree  # parameters with the names of their axes
    optimizer: float  # bytes of its state for a byte of parameters

    @property
    def leaves(self) -> list[Declared]:
        """Every parameter."""
        return jax.tree.leaves(self.declared, is_leaf=lambda x: isinstance(x, Declared))


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one device."""

    parameters: int
    optimizer: int
    gradients: int
    gathered: int
    activations: int

    @property
    def total(self) -> int:
        """All of them, at once."""
        return sum(dataclasses.astuple(self))


def describe(program: Program) -> Model:
    """The parameters of a program and the weight of its optimizer."""
    with program.active():
        declared = declare(program.network, program.config, program.vocabulary, program.batch)
    sizes = [
        sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
        for tree in (program.state.opt_state, program.state.params)
    ]
    return Model(declared, sizes[0] / sizes[1])


def split(model: Model, sizes: Mapping[str, int], rules: str, axes: tuple[str, ...] = MESH_AXES) -> int:
    """Parameters of one device, where only some mesh axes split."""
    preset, total = PRESETS[rules], 0
    for leaf in model.leaves:
        over = [axis for name in leaf.names for axis in preset.get(name, ()) if axis in axes]
        total += math.prod(leaf.value.shape) // math.prod(sizes[axis] for axis in over)
    return total


ROWS = 2  # that are traced; what a row keeps does not depend on how many there are
_saved: dict[Any, list[Any]] = {}


def memory(
    config: Config, vocabulary: Vocabulary, model: Model, sizes: Mapping[str, int], platform: str
) -> Memory:
    """Of one device of that mesh."""
    rules, parts = config.mesh.rules, config.train.microbatches
    mine = split(model, sizes, rules)
    rows = config.train.batch_size / parts / (sizes["data"] * sizes["fsdp"])
    key = (config.model, config.data.format, config.data.length, config.tasks, platform)
    if key not in _saved:
        _saved[key] = saved_activations(config, vocabulary, platform, ROWS)
    largest = 0
    if sizes["fsdp"] > 1:  # one layer is at work and one on its way, besides what is outside of the stack
        stack = [leaf for leaf in model.leaves if "layers" in leaf.names]
        whole = split(model, sizes, rules, NOT_FSDP)
        layers = split(Model(stack, 0.0), sizes, rules, NOT_FSDP) if stack else whole
        depth = stack[0].value.shape[0] if stack else config.model.layers
        largest = (whole - layers + 2 * layers // max(depth, 2)) * config.model.compute.itemsize
    return Memory(
        parameters=4 * mine,
        optimizer=int(4 * mine * model.optimizer),
        gradients=4 * mine * (2 if parts > 1 else 1),
        gathered=largest,
        activations=int(share_of(_saved[key], config, sizes) * rows / ROWS),
    )


def traffic(memory: Memory, microbatches: int) -> int:
    """Bytes of one device's memory that a step moves at least: the update, and what goes by way of the memory."""
    update = 2 * (memory.parameters + memory.optimizer) + memory.gradients
    each = 2 * memory.activations + memory.parameters + 2 * memory.gathered
    sums = 2 * memory.gradients if microbatches > 1 else memory.gradients
    return update + microbatches * (each + sums)


def exchanges(config: Config, model: Model, mesh: Mesh) -> list[Collective]:
    """The collectives of a step, as the rules imply them."""
    rules, parts, encoder = config.mesh.rules, config.train.microbatches, config.model
    sizes, kind = dict(mesh.shape), {"bfloat16": "bf16", "float32": "f32"}[encoder.dtype]
    again = 1 if encoder.remat == "block" else 0
    found = []

    def add(what: str, axes: tuple[str, ...], times: int, dtype: str, number: int) -> None:
        axes = tuple(axis for axis in axes if sizes[axis] > 1)
        if axes and number:
            group = tuple(int(i) for i in group_of(mesh, axes))
            found.append(Collective(what, "*".join(axes), group, times, (Array(dtype, (number,)),)))

    # A gradient is summed over every axis that splits rows or their length but not the parameter.
    mine = split(model, sizes, rules)
    add("all-reduce", ("data", "sequence"), parts, "f32", mine)
    whole = split(model, sizes, rules, NOT_FSDP)
    add("all-gather", ("fsdp",), parts * (2 + again), kind, whole)
    add("reduce-scatter", ("fsdp",), parts, "f32", whole)
    rows = max(config.train.batch_size // parts // (sizes["data"] * sizes["fsdp"]), 1)
    stream = rows * config.data.length // sizes["sequence"] * encoder.width
    add("all-reduce", ("tensor",), parts * encoder.layers * (4 + 2 * again), kind, stream)
    keys = 2 * rows * config.data.length * encoder.width // sizes["tensor"]
    if config.mesh.sequence_attention == "ring":
        steps = parts * encoder.layers * (sizes["sequence"] - 1)
        add("collective-permute", ("sequence",), steps * (2 + again), kind, keys // sizes["sequence"])
        add("collective-permute", ("sequence",), steps, "f32", keys // sizes["sequence"])
    else:
        add("all-gather", ("sequence",), parts * encoder.layers * (1 + again), kind, keys)
        add("reduce-scatter", ("sequence",), parts * encoder.layers, kind, keys)
    return found


def group_of(mesh: Mesh, axes: tuple[str, ...]) -> np.ndarray:
    """Places in the mesh of the devices that differ from the first along these axes alone."""
    places = np.arange(mesh.size).reshape(mesh.devices.shape)
    return places[tuple(slice(None) if axis in axes else 0 for axis in mesh.axis_names)].ravel()


def legal(config: Config, model: Model, sizes: Mapping[str, int]) -> None:
    """Raises a ValueError where something does not divide."""
    mesh = types.SimpleNamespace(shape=sizes)
    rules, encoder = config.mesh.rules, config.model
    for leaf in model.leaves:
        sharding.spec(leaf.names, leaf.value.shape, mesh, rules, "parameter")
    rows = config.train.batch_size
    if rows % (config.train.microbatches * sizes["data"] * sizes["fsdp"]):
        raise ValueError("the batch does not divide")
    for names, shape in {
        ("batch", "length", "act_heads"): (rows, config.data.length, encoder.heads),
        ("act_feedforward",): (encoder.hidden,),
        ("act_vocab",): (encoder.rows,),
    }.items():
        sharding.spec(names, shape, mesh, rules, "activation")
