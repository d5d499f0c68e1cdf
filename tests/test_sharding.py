"""Sharding: rules, meshes, and above all that arrays really lie where they are said to lie once compiled."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
import pytest
from flax import linen as nn
from flax.core import meta
from jax.sharding import NamedSharding, PartitionSpec

from bertjax import sharding
from bertjax.sharding import ACTIVATION_AXES, MESH_AXES, PARAMETER_AXES, PRESETS, MeshConfig

FULL = MeshConfig(data=1, fsdp=2, tensor=2, sequence=2, rules="fsdp_tensor_sequence")


def test_names_and_presets_are_consistent() -> None:
    assert not set(PARAMETER_AXES) & set(ACTIVATION_AXES)
    for rules in PRESETS.values():
        assert rules.keys() <= {*PARAMETER_AXES, *ACTIVATION_AXES}
        assert {axis for axes in rules.values() for axis in axes} <= set(MESH_AXES)
        assert "data" in rules["batch"]


# ---------------------------------------------------------------------------------------------- meshes


@pytest.mark.parametrize(
    ("config", "sizes"),
    [
        (MeshConfig(), (8, 1, 1, 1)),
        (MeshConfig(data=3), (3, 1, 1, 1)),
        (MeshConfig(fsdp=4, rules="fsdp"), (2, 4, 1, 1)),
        (MeshConfig(fsdp=2, tensor=2, rules="fsdp_tensor"), (2, 2, 2, 1)),
        (FULL, (1, 2, 2, 2)),
    ],
)
def test_mesh(config: MeshConfig, sizes: tuple[int, ...]) -> None:
    mesh = sharding.make_mesh(config)
    assert dict(mesh.shape) == dict(zip(MESH_AXES, sizes, strict=True))
    assert list(mesh.devices.flat) == jax.devices()[: mesh.size]


def test_mesh_over_given_devices() -> None:
    devices = jax.devices()[2:6]
    assert list(sharding.make_mesh(MeshConfig(), devices).devices.flat) == devices


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (MeshConfig(data=0), "mesh.data=0: sizes are 1 or more"),
        (MeshConfig(fsdp=-1, rules="fsdp"), "mesh.fsdp=-1: sizes are 1 or more; only mesh.data may be -1"),
        (MeshConfig(fsdp=2), "set mesh.rules=fsdp or mesh.fsdp=1"),
        (MeshConfig(tensor=2, rules="fsdp"), "set mesh.rules=fsdp_tensor or mesh.tensor=1"),
        (MeshConfig(sequence=2), "set mesh.rules=fsdp_tensor_sequence or mesh.sequence=1"),
        (MeshConfig(fsdp=3, rules="fsdp"), "=3 does not divide the 8 devices here: it could be 2"),
        (MeshConfig(fsdp=16, rules="fsdp"), "=16 does not divide the 8 devices here: it could be 8"),
        (MeshConfig(dcn_data=0), "mesh.dcn_data=0: sizes are 1 or more"),
        (MeshConfig(dcn_tensor=2), "mesh.dcn_tensor=2 is of no use to mesh.rules=data"),
        (MeshConfig(dcn_data=2), "mesh.dcn_* describe 2 slices and the 8 devices lie in 1 processes"),
        (MeshConfig(data=16), "needs 16 devices and 8 are here: set mesh.data=-1"),
        (
            MeshConfig(data=4, fsdp=4, rules="fsdp"),
            "data=4 x fsdp=4 x tensor=1 x sequence=1 needs 16 devices",
        ),
    ],
)
def test_mesh_errors(config: MeshConfig, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        sharding.make_mesh(config)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as a mesh is arranged by."""

    id: int
    slice_index: int | None = None
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_neighbours_of_an_axis_are_in_one_slice_as_far_as_possible() -> None:
    slices = [[Device(4 * s + i, slice_index=s) for i in range(4)] for s in range(2)]
    both = sharding.slices_of([device for pair in zip(*slices, strict=True) for device in pair], 2)
    assert both == slices
    placed = sharding.arrange(both, (2, 2, 1, 1), (2, 1, 1, 1))
    assert [[d.id for d in row] for row in placed[:, :, 0, 0]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    placed = sharding.arrange(
        both, (2, 2, 1, 1), (1, 2, 1, 1)
    )  # fsdp over both: two of one slice, two of the other
    assert [[d.id for d in row] for row in placed[:, :, 0, 0]] == [[0, 1, 4, 5], [2, 3, 6, 7]]


def test_without_slices_the_devices_of_a_process_are_one() -> None:
    devices = [Device(i, process_index=i // 4) for i in range(8)]
    assert sharding.slices_of(devices, 1) == [devices]  # one mesh over all processes
    assert sharding.slices_of(devices, 2) == [devices[:4], devices[4:]]


@pytest.mark.parametrize(
    ("devices", "number", "message"),
    [
        ([Device(i) for i in range(8)], 2, "lie in 1 processes (8): leave mesh.dcn_data and its like at 1"),
        (
            [Device(i, process_index=i // 2) for i in range(8)],
            2,
            "in 4 processes (2+2+2+2): set mesh.dcn_data=4",
        ),
        ([Device(i, slice_index=i // 4) for i in range(8)], 1, "lie in 2 slices (4+4): set mesh.dcn_data=2"),
        ([Device(i, slice_index=i // 5) for i in range(8)], 2, "lie in 2 slices (5+3)"),
    ],
)
def test_slices_that_are_not_there(devices: list[Device], number: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        sharding.slices_of(devices, number)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_mesh_of_slices_computes_what_one_slice_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight CPU devices, said to lie in two slices: sizes are of one slice, sums run over both."""
    devices = jax.devices()
    monkeypatch.setattr(sharding, "slices_of", lambda given, number: [given[:4], given[4:]])
    config = MeshConfig(fsdp=2, rules="fsdp", dcn_data=2)
    mesh = sharding.make_mesh(config, devices)
    assert dict(mesh.shape) == {"data": 4, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert [d.id for d in mesh.devices[:, 0, 0, 0]] == [0, 2, 4, 6]
    with pytest.raises(ValueError, match=r"does not divide the 4 devices of a slice: it could be 2"):
        sharding.make_mesh(dataclasses.replace(config, fsdp=3), devices)
    with pytest.raises(ValueError, match=r"would leave some of the 4 of a slice idle"):
        sharding.make_mesh(dataclasses.replace(config, data=1), devices)
    x = jnp.arange(8 * 6 * 24, dtype=jnp.float32).reshape(8, 6, 24)
    with sharding.activate(mesh, config.rules):
        assert jnp.allclose(jax.jit(lambda x: pinned(x).sum())(x), jnp.sin(x).sum(), rtol=1e-4)


# ---------------------------------------------------------------------------------------------- names to axes


def spec(names: tuple[str | None, ...], shape: tuple[int, ...], config: MeshConfig = FULL) -> PartitionSpec:
    return sharding.spec(names, shape, sharding.make_mesh(config), config.rules, "it")


def test_spec() -> None:
    assert spec(("width", "heads", "head_size"), (24, 4, 8)) == PartitionSpec("fsdp", "tensor", None)
    assert spec(("batch", "length", None), (4, 6, 5)) == PartitionSpec(("data", "fsdp"), "sequence", None)
    assert spec(("vocab", "norm"), (54, 24)) == PartitionSpec("tensor", None)
    assert spec(("heads",), (3,), MeshConfig()) == PartitionSpec(None)


@pytest.mark.parametrize(
    ("names", "shape", "message"),
    [
        (("heads",), (3,), "heads of size 3 does not divide over mesh.tensor=2; 2 or 4 would"),
        (("heads",), (3,), "or mesh.tensor=1"),
        (("heads",), (1,), "does not divide over mesh.tensor=2; 2 would"),
        (("batch",), (5,), "batch of size 5 does not divide over mesh.data*mesh.fsdp=2; 4 or 6 would"),
        (("heads", "feedforward"), (4, 4), "put two dimensions on one mesh axis"),
    ],
)
def test_spec_errors(names: tuple[str, ...], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        spec(names, shape)
    assert message in str(caught.value)
    assert str(caught.value).startswith("it")
    assert "\n" not in str(caught.value)


def test_batch_sharding() -> None:
    mesh = sharding.make_mesh(FULL)
    where = sharding.batch_sharding((4, 6), mesh, FULL.rules, length=True)
    assert where.spec == PartitionSpec(("data", "fsdp"), "sequence")
    assert sharding.batch_sharding((4,), mesh, FULL.rules, length=False).spec == PartitionSpec(
        ("data", "fsdp")
    )
    where = sharding.batch_sharding((4, 7, 3), mesh, FULL.rules, length=False)
    assert where.spec == PartitionSpec(("data", "fsdp"), None, None)
    with pytest.raises(ValueError, match="batch: length of size 7 does not divide over mesh.sequence=2"):
        sharding.batch_sharding((4, 7), mesh, FULL.rules, length=True)


# ---------------------------------------------------------------------------------------------- activations


def pinned(x: jax.Array) -> jax.Array:
    # The sine keeps the constraint from being that of the output alone.
    return sharding.shard(jnp.sin(x), "batch", "length", "act_width") * 1.0


def test_shard_is_compiled() -> None:
    x = jnp.ones((4, 6, 24))
    mesh = sharding.make_mesh(FULL)
    with sharding.activate(mesh, FULL.rules):
        result = jax.jit(pinned)(x)
    assert result.sharding.is_equivalent_to(
        NamedSharding(mesh, PartitionSpec(("data", "fsdp"), "sequence", None)), 3
    )
    assert result.addressable_shards[0].data.shape == (2, 3, 24)


def test_other_rules_are_another_compilation() -> None:
    x = jnp.ones((8, 6, 24))
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=8, rules="fsdp"))
    compiled = jax.jit(pinned)
    shapes = []
    for rules in ("fsdp", "data", "fsdp"):
        with sharding.activate(mesh, rules):
            shapes.append(compiled(x).addressable_shards[0].data.shape)
    assert shapes == [(1, 6, 24), (8, 6, 24), (1, 6, 24)]
    assert compiled(x).sharding.num_devices == 1  # and outside nothing is in force


def test_shard_checks_names_everywhere() -> None:
    x = jnp.ones((4, 6, 24))
    assert sharding.shard(x, "batch", "length", None) is x
    for config in (None, FULL):
        mesh = sharding.make_mesh(config or MeshConfig())
        active = sharding.activate(mesh, config.rules) if config else sharding.contextlib.nullcontext()
        with active:
            with pytest.raises(ValueError, match="unknown axis 'widht': choose from batch, length"):
                sharding.shard(x, "batch", "length", "widht")
            with pytest.raises(ValueError, match="unknown axis 'width'"):  # a name of parameters
                sharding.shard(x, "batch", "length", "width")
            with pytest.raises(ValueError, match=r"shape \(4, 6, 24\) needs 3 axis names"):
                sharding.shard(x, "batch", "length")


def test_shard_inside_scan_vmap_and_gradient() -> None:
    x = jnp.ones((4, 6, 24))
    mesh = sharding.make_mesh(FULL)

    def layers(x: jax.Array) -> jax.Array:
        def layer(h: jax.Array, _: None) -> tuple[jax.Array, None]:
            return pinned(h), None

        return jax.lax.scan(jax.checkpoint(layer), x, length=3)[0].sum()

    with sharding.activate(mesh, FULL.rules):
        inside = jax.jit(jax.grad(layers))(x)
    assert jnp.allclose(inside, jax.grad(layers)(x), atol=1e-5)


# ---------------------------------------------------------------------------------------------- parameters


class Layer(nn.Module):
    """x -> tanh(x w) v, with the axes of a feed-forward."""

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        init = nn.initializers.normal(0.1)
        up = sharding.param(self, "up", init, (24, 40), ("width", "feedforward"))
        down = sharding.param(self, "down", init, (40, 24), ("feedforward", "width"))
        return jnp.tanh(x @ up) @ down, None


class Stack(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scanned = nn.scan(
            Layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=5,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
        x, _ = scanned(name="layers")(x)
        return Layer(name="last")(x)[0]


X = jnp.linspace(-1, 1, 8 * 24).reshape(8, 24)


@jax.jit
def declared() -> Mapping[str, Any]:
    return Stack().init(jax.random.key(0), X)["params"]


def test_param_carries_its_names_through_a_scan() -> None:
    tree = declared()
    assert tree["last"]["up"].names == ("width", "feedforward")
    assert tree["layers"]["up"].names == ("layers", "width", "feedforward")
    assert tree["layers"]["up"].value.shape == (5, 24, 40)
    bare = meta.unbox(tree)
    assert bare["layers"]["down"].shape == (5, 40, 24)
    assert bare["last"]["up"].dtype == jnp.float32
    assert sharding.count(bare) == 6 * 2 * 24 * 40


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("width", "feedfoward"), "parameter deep/w: unknown axis 'feedfoward': choose from layers, vocab"),
        (("width", "act_heads"), "parameter deep/w: unknown axis 'act_heads'"),
        (("width",), r"parameter deep/w of shape \(2, 3\) needs 2 axis names, not \('width',\)"),
    ],
)
def test_param_errors(names: tuple[str, ...], message: str) -> None:
    class Wrong(nn.Module):
        @nn.compact
        def __call__(self) -> jax.Array:
            return sharding.param(self, "w", nn.initializers.zeros, (2, 3), names)

    class Outer(nn.Module):
        @nn.compact
        def __call__(self) -> jax.Array:
            return Wrong(name="deep")()

    with pytest.raises(ValueError, match=message):
        Outer().init(jax.random.key(0))


def test_parameter_shardings_name_what_does_not_fit() -> None:
    mesh = sharding.make_mesh(MeshConfig(data=1, fsdp=5, rules="fsdp"))
    with pytest.raises(
        ValueError, match="parameter last/down: width of size 24 does not divide over mesh.fsdp=5"
    ):
        sharding.parameter_shardings({"last": declared()["last"]}, mesh, "fsdp")


PARTS = {  # shape of one device's piece of layers/up, [5 24 40]
    MeshConfig(): (5, 24, 40),
    MeshConfig(data=2, fsdp=4, rules="fsdp"): (5, 6, 40),
    MeshConfig(data=2, fsdp=2, tensor=2, rules="fsdp_tensor"): (5, 12, 20),
    FULL: (5, 12, 20),
}


@pytest.mark.parametrize("config", PARTS, ids=lambda config: config.rules)
def test_a_compiled_step_keeps_everything_where_it_belongs(config: MeshConfig) -> None:
    mesh = sharding.make_mesh(config)
    optimizer = optax.adam(1e-2)

    def create() -> tuple[Any, Any]:
        params = meta.unbox(declared())
        return params, optimizer.init(params)

    def step(params: Any, moments: Any, x: jax.Array) -> tuple[Any, Any, jax.Array]:
        loss, gradient = jax.value_and_grad(lambda p: Stack().apply({"params": p}, x).var())(params)
        updates, moments = optimizer.update(gradient, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    with sharding.activate(mesh, config.rules):
        boxes = jax.eval_shape(declared)
        wanted = sharding.parameter_shardings(boxes, mesh, config.rules)
        shapes = jax.eval_shape(create)
        where = (wanted, sharding.like_parameters(shapes[1], shapes[0], wanted, mesh))
        params, moments = jax.jit(create, out_shardings=where)()
        assert params["layers"]["up"].addressable_shards[0].data.shape == PARTS[config]
        rows = sharding.batch_sharding(X.shape, mesh, config.rules, length=False)
        run = jax.jit(step, out_shardings=(*where, sharding.replicated(mesh)))
        params, moments, loss = run(params, moments, jax.device_put(X, rows))
    for tree in (params, moments[0].mu, moments[0].nu):
        assert tree["layers"]["up"].addressable_shards[0].data.shape == PARTS[config]
        placed = jax.tree.map(lambda x, s: x.sharding.is_equivalent_to(s, x.ndim), tree, wanted)
        assert all(jax.tree.leaves(placed))
    alone, _, alone_loss = jax.jit(step)(*create(), X)
    assert jnp.allclose(loss, alone_loss, atol=1e-6)
    close = jax.tree.map(lambda a, b: jnp.allclose(a, jax.device_get(b), atol=1e-5), params, alone)
    assert all(jax.tree.leaves(close))


def test_optimizer_state_lies_where_its_parameter_lies() -> None:
    mesh = sharding.make_mesh(FULL)
    box = sharding.Declared(jnp.zeros((24, 40)), ("width", "feedforward"))
    # One parameter's path is a part of another's, and both have one shape.
    turned = sharding.Declared(jnp.zeros((24, 40)), ("feedforward", "width"))
    tree = {"dense": {"kernel": box}, "pooler": {"dense": {"kernel": turned}}}
    wanted = sharding.parameter_shardings(tree, mesh, FULL.rules)
    params = meta.unbox(tree)
    state = {
        "mu": params,
        "groups": {"decayed": {**params, "factors": {"dense": {"kernel": jnp.zeros(24)}}}},
        "per_parameter": {"dense": {"kernel": {"trace": jnp.zeros((24, 40))}}},
        "count": jnp.zeros(()),
    }
    found = jax.tree.map(lambda s: s.spec, sharding.like_parameters(state, params, wanted, mesh))
    one, other, copy = PartitionSpec("fsdp", "tensor"), PartitionSpec("tensor", "fsdp"), PartitionSpec()
    placed = {"dense": {"kernel": one}, "pooler": {"dense": {"kernel": other}}}
    assert found["mu"] == placed
    assert found["groups"]["decayed"] == {**placed, "factors": {"dense": {"kernel": copy}}}
    assert found["per_parameter"]["dense"]["kernel"]["trace"] == one
    assert found["count"] == copy
