"""Where every array lives: logical axes, rule presets, meshes. The only file that touches Flax partitioning.

Each parameter is declared with the names of its axes (`param`), each important activation is pinned by name
(`shard`), and a rule preset maps names to mesh axes. The names are a closed set in two disjoint families, so
that a misspelt or misplaced one is an error and never a silently replicated array:

    parameters   layers vocab width output heads head_size feedforward table norm classes
    activations  batch length key_length predictions
                 act_width act_heads act_head_size act_feedforward act_vocab

The mesh always has four axes: `data` (replicas), `fsdp` (replicas that also split the parameters), `tensor`
(splits heads, feed-forward and vocabulary) and `sequence` (splits the length). A preset that has no use for
a mesh axis refuses a mesh where that axis is larger than one.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct
from flax.core import meta
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from bertjax.types import Array, Tree

MESH_AXES = ("data", "fsdp", "tensor", "sequence")

PARAMETER_AXES = (
    "layers",  # the stack made by a scan over layers
    "vocab",  # rows of the token embedding
    "width",  # the model width on the side that FSDP splits
    "output",  # the other side of a square matrix
    "heads",
    "head_size",
    "feedforward",
    "table",  # rows of a small embedding: positions, types, relative distances
    "norm",  # scales and biases of the width of the residual stream
    "classes",
)
ACTIVATION_AXES = (
    "batch",
    "length",
    "key_length",
    "predictions",
    "act_width",
    "act_heads",
    "act_head_size",
    "act_feedforward",
    "act_vocab",
)

Rules = dict[str, tuple[str, ...]]
_DATA: Rules = {"batch": ("data",)}
_FSDP: Rules = {"batch": ("data", "fsdp"), "width": ("fsdp",)}
_TENSOR: Rules = {name: ("tensor",) for name in ("vocab", "heads", "feedforward")}
_TENSOR_ACTIVATIONS: Rules = {name: ("tensor",) for name in ("act_vocab", "act_heads", "act_feedforward")}
_SEQUENCE: Rules = {"length": ("sequence",)}

PRESETS: dict[str, Rules] = {
    "data": _DATA,
    "fsdp": _FSDP,
    "fsdp_tensor": {**_FSDP, **_TENSOR, **_TENSOR_ACTIVATIONS},
    "fsdp_tensor_sequence": {**_FSDP, **_TENSOR, **_TENSOR_ACTIVATIONS, **_SEQUENCE},
}


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Sizes of the mesh axes and the rules that map arrays onto them."""

    data: int = -1
    """Copies of the model that see different rows; -1 takes the devices that the other axes leave."""
    fsdp: int = 1
    """Copies that also split parameters and optimizer state among them."""
    tensor: int = 1
    """Devices that share heads, feed-forward and vocabulary of one copy."""
    sequence: int = 1
    """Devices that share the length of one row."""
    rules: Literal["data", "fsdp", "fsdp_tensor", "fsdp_tensor_sequence"] = "data"
    """Rule preset: which array axes each mesh axis splits."""


# The preset in force. A user context is part of jit's cache key: other rules, another compilation.
_active_rules = jax.make_user_context(default_value=None)
# Kind of the devices in force (an abstract mesh tells it on the newest versions of jax only).
_active_platform = jax.make_user_context(default_value=None)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that the config describes, over the first devices of the machine."""
    devices = list(jax.devices() if devices is None else devices)
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    for axis, size in sizes.items():
        if size < 1 and not (axis == "data" and size == -1):
            raise ValueError(f"mesh.{axis}={size}: sizes are 1 or more; only mesh.data may be -1 (the rest)")
    used = {axis for axes in PRESETS[config.rules].values() for axis in axes}
    for axis, size in sizes.items():
        if size > 1 and axis not in used:
            fit = next(
                name for name, rules in PRESETS.items() if any(axis in axes for axes in rules.values())
            )
            raise ValueError(
                f"mesh.{axis}={size} is of no use to mesh.rules={config.rules}, which splits nothing "
                f"over it: set mesh.rules={fit} or mesh.{axis}=1"
            )
    others = math.prod(size for axis, size in sizes.items() if axis != "data")
    if sizes["data"] == -1:
        sizes["data"] = max(len(devices) // others, 1)
        if sizes["data"] * others != len(devices):
            raise ValueError(
                f"mesh fsdp*tensor*sequence={others} does not divide the {len(devices)} devices here: "
                f"it could be {_nearest_divisor(len(devices), others)}"
            )
    total = math.prod(sizes.values())
    if total > len(devices):
        shape = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(f"mesh {shape} needs {total} devices and {len(devices)} are here: set mesh.data=-1")
    if total < len(devices) and jax.process_count() > 1:
        raise ValueError(
            f"mesh of {total} devices would leave some of the {len(devices)} idle: set mesh.data=-1"
        )
    auto = (AxisType.Auto,) * len(MESH_AXES)  # nn.Embed and most of Linen raise under Explicit axes
    return jax.make_mesh(tuple(sizes.values()), MESH_AXES, axis_types=auto, devices=devices[:total])


@contextlib.contextmanager
def activate(mesh: Mesh, rules: str) -> Iterator[None]:
    """Puts mesh and rules in force for everything traced inside."""
    with jax.set_mesh(mesh), _active_rules(rules), _active_platform(mesh.devices.flat[0].platform):
        yield


def deactivate() -> contextlib.AbstractContextManager[None]:
    """Takes the rules out of force: what is traced inside, to be counted and not run, is whole."""
    return _active_rules(None)


def spec(
    names: Sequence[str | None], shape: Sequence[int], mesh: Mesh | Any, rules: str, what: str
) -> PartitionSpec:
    """The mesh axes for an array; an error where a size does not divide or an axis is used twice."""
    preset = PRESETS[rules]
    chosen = [preset.get(name, ()) if name else () for name in names]
    flat = [axis for axes in chosen for axis in axes]
    if len(flat) != len(set(flat)):
        raise ValueError(
            f"{what} with axes {tuple(names)}: rules {rules!r} put two dimensions on one mesh axis"
        )
    for name, size, axes in zip(names, shape, chosen, strict=True):
        parts = math.prod(mesh.shape[axis] for axis in axes)
        if size % parts:
            over = "*".join(f"mesh.{axis}" for axis in axes)
            fitting = [number for number in (size // parts * parts, (size // parts + 1) * parts) if number]
            raise ValueError(
                f"{what}: {name} of size {size} does not divide over {over}={parts}; "
                f"{' or '.join(map(str, fitting))} would, or {over}={_nearest_divisor(size, parts)}"
            )
    return PartitionSpec(*(axes[0] if len(axes) == 1 else (axes or None) for axes in chosen))


def shard(x: Array, *names: str | None) -> jax.Array:
    """Pins an activation to the mesh by the names of its axes; without an active mesh only checks them."""
    _check(names, x.shape, ACTIVATION_AXES, "activation")
    rules = _active_rules.value
    if rules is None:
        return jnp.asarray(x)
    mesh = jax.sharding.get_abstract_mesh()
    return jax.lax.with_sharding_constraint(x, spec(names, x.shape, mesh, rules, "activation"))


def platform() -> str:
    """What the traced code will run on (cpu, gpu, tpu): the active mesh's devices, else the default backend's."""
    return _active_platform.value or jax.default_backend()


def parts(name: str) -> int:
    """How many devices share the dimension of that name."""
    rules = _active_rules.value
    _check((name,), (1,), ACTIVATION_AXES, "activation")
    if rules is None:
        return 1
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in PRESETS[rules].get(name, ()))


def placement(names: Sequence[str | None], shape: Sequence[int]) -> NamedSharding | None:
    """Where an activation with these axes lies; None without an active mesh."""
    rules = _active_rules.value
    _check(names, shape, ACTIVATION_AXES, "activation")
    if rules is None:
        return None
    mesh = jax.sharding.get_abstract_mesh()
    return NamedSharding(mesh, spec(names, shape, mesh, rules, "activation"))


def on_each_device(
    function: Callable[..., Any], inputs: Sequence[Any], output: Sequence[str | None]
) -> Callable[..., Any]:
    """`function`, run by every device on its own part of each input; without an active mesh the function itself.

    Inputs are described by the names of their axes, or by a tree of partition specs.
    """
    rules = _active_rules.value
    if rules is None:
        return function
    preset, mesh = PRESETS[rules], jax.sharding.get_abstract_mesh()

    def of(names: Any) -> Any:
        if not isinstance(names, tuple):
            return names
        return PartitionSpec(*(preset.get(name, ()) if name else None for name in names))

    return jax.shard_map(
        function,
        mesh=mesh,
        in_specs=tuple(of(i) for i in inputs),
        out_specs=of(tuple(output)),
        check_vma=False,
    )


class Declared(struct.PyTreeNode, meta.AxisMetadata[Any]):
    """A parameter together with the names of its axes, as Flax carries it out of `init`."""

    value: Any
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def unbox(self) -> Any:
        """The bare array: placement is decided by the train step, not on every use."""
        return self.value

    def replace_boxed(self, val: Any) -> "Declared":
        """The same names around another value."""
        return self.replace(value=val)

    def add_axis(self, index: int, params: dict[Any, Any]) -> "Declared":
        """Called by a scan or vmap that stacks this parameter."""
        names = list(self.names)
        names.insert(index, params[nn.PARTITION_NAME])
        return self.replace(names=tuple(names))

    def remove_axis(self, index: int, params: dict[Any, Any]) -> "Declared":
        """The inverse of `add_axis`."""
        del params
        return self.replace(names=self.names[:index] + self.names[index + 1 :])


def param(
    module: nn.Module, name: str, init: Callable[..., jax.Array], shape: Sequence[int], names: Sequence[str]
) -> jax.Array:
    """Declares a float32 parameter: shape, initialiser and the name of each axis, in one place."""
    _check(names, shape, PARAMETER_AXES, f"parameter {'/'.join(map(str, module.path))}/{name}")

    def boxed(key: jax.Array) -> Declared:
        return Declared(init(key, tuple(shape), jnp.float32), tuple(names))

    return module.param(name, boxed)


def parameter_shardings(declared: Tree, mesh: Mesh, rules: str) -> Tree:
    """NamedShardings for a tree of `Declared` shapes, in the structure of the bare parameters."""

    def one(path: Any, box: Declared) -> NamedSharding:
        what = f"parameter {jax.tree_util.keystr(path, simple=True, separator='/')}"
        return NamedSharding(mesh, spec(box.names, box.value.shape, mesh, rules, what))

    return jax.tree_util.tree_map_with_path(one, declared, is_leaf=lambda x: isinstance(x, Declared))


def like_parameters(state: Tree, params: Tree, shardings: Tree, mesh: Mesh) -> Tree:
    """Shardings for an optimizer state: a moment lies where its parameter lies, the rest is replicated.

    A leaf belongs to the parameter whose path is a part of its own path, if the shapes agree.
    """
    owners = {
        tuple(map(str, path)): (leaf.shape, sharding)
        for (path, leaf), sharding in zip(
            jax.tree_util.tree_leaves_with_path(params), jax.tree.leaves(shardings), strict=True
        )
    }

    def one(path: Any, leaf: Any) -> NamedSharding:
        keys = tuple(map(str, path))
        for start, end in itertools.combinations(range(len(keys) + 1), 2):
            shape, sharding = owners.get(keys[start:end], (None, None))
            if shape == leaf.shape:
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(one, state)


def batch_sharding(shape: Sequence[int], mesh: Mesh, rules: str, *, length: bool) -> NamedSharding:
    """Where an array of the batch lies: rows over replicas, positions over `sequence` if it has any."""
    names = ("batch", "length" if length else None, *(None,) * len(shape))[: len(shape)]
    return NamedSharding(mesh, spec(names, shape, mesh, rules, "batch"))


def _check(names: Sequence[str | None], shape: Sequence[int], legal: Sequence[str], what: str) -> None:
    if len(names) != len(shape):
        raise ValueError(f"{what} of shape {tuple(shape)} needs {len(shape)} axis names, not {tuple(names)}")
    for name in names:
        if name is not None and name not in legal:
            raise ValueError(f"{what}: unknown axis {name!r}: choose from {', '.join(legal)}")


def _nearest_divisor(number: int, wanted: int) -> int:
    return min((d for d in range(1, number + 1) if number % d == 0), key=lambda d: (abs(d - wanted), d))


def replicated(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def count(tree: Tree) -> int:
    """Number of scalars in a tree of arrays or shapes."""
    return int(sum(np.prod(leaf.shape, dtype=np.int64) for leaf in jax.tree.leaves(tree)))
