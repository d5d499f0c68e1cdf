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

Of several slices (pods joined by the data-centre network, DCN) each holds a mesh of those sizes, and `dcn_data`,
`dcn_fsdp`, ... say over how many slices an axis goes on. Neighbours along an axis are in one slice as far as possible.
There is no axis of layers: pipeline parallelism is out of scope.
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
from jax.experimental import mesh_utils
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
    sequence_attention: Literal["gather", "ring"] = "gather"
    """How full attention meets keys of other devices: all at once, or part by part as they go round."""
    dcn_data: int = 1
    """Slices, joined by the slower network, over which `data` goes on; the sizes above are of one slice."""
    dcn_fsdp: int = 1
    """Slices over which `fsdp` goes on: every layer's parameters then cross the slower network."""
    dcn_tensor: int = 1
    """Slices over which `tensor` goes on: every layer's activations then cross the slower network."""
    dcn_sequence: int = 1
    """Slices over which `sequence` goes on: every layer's keys and values then cross the slower network."""


# The preset in force. A user context is part of jit's cache key: other rules, another compilation.
_active_rules = jax.make_user_context(default_value=None)
_active_exchange = jax.make_user_context(default_value="gather")
# Kind of the devices in force (an abstract mesh tells it on the newest versions of jax only).
_active_platform = jax.make_user_context(default_value=None)
_assumed_platform = jax.make_user_context(default_value=None)


def make_mesh(config: MeshConfig, devices: Sequence[Any] | None = None) -> Mesh:
    """The mesh that the config describes, over the first devices of the machine, or over all slices."""
    devices = list(jax.devices() if devices is None else devices)
    outer = {axis: getattr(config, f"dcn_{axis}") for axis in MESH_AXES}
    sizes = {axis: getattr(config, axis) for axis in MESH_AXES}
    for name, size in [*sizes.items(), *((f"dcn_{axis}", size) for axis, size in outer.items())]:
        if size < 1 and not (name == "data" and size == -1):
            raise ValueError(f"mesh.{name}={size}: sizes are 1 or more; only mesh.data may be -1 (the rest)")
    _check_use(config.rules, {**sizes, **{f"dcn_{axis}": size for axis, size in outer.items()}})
    slices = slices_of(devices, math.prod(outer.values()))
    here = len(slices[0])
    where = "here" if len(slices) == 1 else "of a slice"
    others = math.prod(size for axis, size in sizes.items() if axis != "data")
    if sizes["data"] == -1:
        sizes["data"] = max(here // others, 1)
        if sizes["data"] * others != here:
            raise ValueError(
                f"mesh fsdp*tensor*sequence={others} does not divide the {here} devices {where}: "
                f"it could be {_nearest_divisor(here, others)}"
            )
    total = math.prod(sizes.values())
    if total > here:
        shape = " x ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(f"mesh {shape} needs {total} devices and {here} are {where}: set mesh.data=-1")
    if total < here and (jax.process_count() > 1 or len(slices) > 1):
        raise ValueError(
            f"mesh of {total} devices would leave some of the {here} {where} idle: set mesh.data=-1"
        )
    auto = (AxisType.Auto,) * len(MESH_AXES)  # nn.Embed and most of Linen raise under Explicit axes
    inner = tuple(sizes.values())
    placed = arrange([group[:total] for group in slices], inner, tuple(outer.values()))
    return Mesh(placed, MESH_AXES, axis_types=auto)


def _check_use(rules: str, sizes: dict[str, int]) -> None:
    """Refuses a mesh axis over which the rules split nothing."""
    used = {axis for axes in PRESETS[rules].values() for axis in axes}
    for name, size in sizes.items():
        axis = name.removeprefix("dcn_")
        if size > 1 and axis not in used:
            fit = next(
                name for name, rules in PRESETS.items() if any(axis in axes for axes in rules.values())
            )
            raise ValueError(
                f"mesh.{name}={size} is of no use to mesh.rules={rules}, which splits nothing "
                f"over it: set mesh.rules={fit} or mesh.{name}=1"
            )


def slices_of(devices: Sequence[Any], number: int) -> list[list[Any]]:
    """The devices of each slice: TPUs know theirs; elsewhere the devices of a process are one."""
    attribute = "slice_index" if getattr(devices[0], "slice_index", None) is not None else "process_index"
    groups: dict[int, list[Any]] = {}
    for device in devices:
        groups.setdefault(getattr(device, attribute), []).append(device)
    if number == 1 and (attribute == "process_index" or len(groups) == 1):
        return [list(devices)]
    if len(groups) != number or len({len(group) for group in groups.values()}) > 1:
        sizes = "+".join(str(len(group)) for group in groups.values())
        many = f"{len(groups)} {'slices' if attribute == 'slice_index' else 'processes'}"
        fit = (
            f"set mesh.dcn_data={len(groups)}" if len(groups) > 1 else "leave mesh.dcn_data and its like at 1"
        )
        raise ValueError(
            f"mesh.dcn_* describe {number} slices and the {len(devices)} devices lie in {many} ({sizes}): {fit}"
        )
    return [groups[index] for index in sorted(groups)]


def arrange(slices: Sequence[Sequence[Any]], inner: tuple[int, ...], outer: tuple[int, ...]) -> np.ndarray:
    """Devices in the shape of the mesh: along every axis all places of one slice, then those of the next."""
    parts = [
        mesh_utils.create_device_mesh(inner, list(group), allow_split_physical_axes=True) for group in slices
    ]
    blocks = np.empty((len(parts), *inner), object)
    for index, part in enumerate(parts):
        blocks[index] = part
    blocks = blocks.reshape(*outer, *inner)
    axes = len(inner)
    paired = blocks.transpose([i for axis in range(axes) for i in (axis, axes + axis)])
    return paired.reshape([o * i for o, i in zip(outer, inner, strict=True)])


@contextlib.contextmanager
def activate(mesh: Mesh, rules: str, sequence_attention: str = "gather") -> Iterator[None]:
    """Puts mesh and rules in force for everything traced inside."""
    with (
        jax.set_mesh(mesh),
        _active_rules(rules),
        _active_exchange(sequence_attention),
        _active_platform(mesh.devices.flat[0].platform),
    ):
        yield


@contextlib.contextmanager
def assume(platform: str) -> Iterator[None]:
    """Everything traced inside is meant for devices of that kind, whichever trace it: a plan without the devices."""
    with _assumed_platform(platform):
        yield


def deactivate() -> contextlib.AbstractContextManager[None]:
    """Takes the rules out of force: what is traced inside, to be counted and not run, is whole."""
    return _active_rules(None)


def whole_rows() -> contextlib.AbstractContextManager[None]:
    """For what is traced inside, rows are not split by their length: for short ones, and for single tokens of rows."""
    rules = _active_rules.value
    if rules is None or "length" not in PRESETS[rules]:
        return contextlib.nullcontext()
    wanted = {name: axes for name, axes in PRESETS[rules].items() if name != "length"}
    return _active_rules(next(name for name, preset in PRESETS.items() if preset == wanted))


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
    return _assumed_platform.value or _active_platform.value or jax.default_backend()


def in_ring() -> bool:
    """Whether full attention keeps its keys where they are and sends them round the devices of a row."""
    return _active_exchange.value == "ring" and parts("length") > 1


def mesh_axes(name: str) -> tuple[str, ...]:
    """The mesh axes that split the dimension of that name."""
    _check((name,), (1,), ACTIVATION_AXES, "activation")
    rules = _active_rules.value
    return () if rules is None else PRESETS[rules].get(name, ())


def parts(name: str) -> int:
    """How many devices share the dimension of that name."""
    return math.prod(jax.sharding.get_abstract_mesh().shape[axis] for axis in mesh_axes(name))


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
