"""Every arrangement of a layer against its formula, and every option under scan, remat and a mesh."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.attention import Context
from bertjax.attention.full import FullAttention
from bertjax.layers.config import Full
from bertjax.layers.mask import AttentionMask
from bertjax.layers.mlp import Mlp
from bertjax.layers.norm import Norm
from bertjax.layers.position import T5, Alibi, NoPosition, Rope
from bertjax.models.block import Block
from bertjax.models.encoder import Encoder
from bertjax.models.stacking import locate, stack_layers, unstack_layers
from tests.cases import slow_but
from tests.helpers import (
    assert_close,
    declared_parameters,
    encode,
    loss_and_gradient,
    make_batch,
    parameters,
    small,
)

BATCH = make_batch()
X = np.random.default_rng(3).normal(size=(2, 7, 24)).astype(np.float32)
CONTEXT = Context(mask=AttentionMask(valid=BATCH.mask), positions=BATCH.positions)

# Together these have every value of every option of a layer; each is run in all the ways a model can be run.
COMBINATIONS = {
    "bert": small(),
    "modern": small(
        block="pre",
        first_norm=False,
        activation="geglu",
        bias=False,
        norm_bias=False,
        tied=False,
        position=Rope(),
        layers=3,
    ),
    "albert": small(sharing="all", embedding_width=16, activation="gelu_tanh"),
    "shared_attention": small(
        sharing="attention", block="sandwich", norm="rmsnorm", position=T5(8, 6), layers=3
    ),
    "shared_ffn": small(sharing="ffn", block="parallel", activation="swiglu", position=Alibi("learned")),
    "deep": small(residual="deepnorm", init_scheme="xavier", activation="relu2", position=NoPosition()),
    "convolution": small(convolution=3, convolution_activation="gelu", layers=3),
    "bare": small(block="pre", embedding_norm=False, activation="silu", embedding_width=16, sharing="ffn"),
}
QUICK = ("bert", "modern", "albert", "shared_attention")  # with most of the values between them

# ------------------------------------------------------------------------------------------ formulas


def formula(config, params, x):
    """The lines of the module's docstring, with the parts taken as given."""

    def norm(name, y):
        return Norm(config).apply({"params": params[name]}, y)

    def attention(y):
        return FullAttention(config, Full()).apply({"params": params["attention"]}, y, CONTEXT, train=False)

    def mlp(y):
        return Mlp(config).apply({"params": params["mlp"]}, y)

    if config.block == "post":
        keep = (2 * config.layers) ** 0.25 if config.residual == "deepnorm" else 1.0
        x = norm("attention_norm", keep * x + attention(x))
        return norm("mlp_norm", keep * x + mlp(x))
    if config.block == "pre":
        x = x + attention(norm("attention_norm", x))
        return x + mlp(norm("mlp_norm", x))
    if config.block == "sandwich":
        x = x + norm("attention_out_norm", attention(norm("attention_norm", x)))
        return x + norm("mlp_out_norm", mlp(norm("mlp_norm", x)))
    y = norm("norm", x)
    return x + attention(y) + mlp(y)


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm"])
@pytest.mark.parametrize(
    ("block", "residual"),
    [("post", "plain"), ("post", "deepnorm"), ("pre", "plain"), ("sandwich", "plain"), ("parallel", "plain")],
)
def test_block_equals_its_formula(block, residual, norm):
    config = small(block=block, residual=residual, norm=norm)
    params = parameters(config)["stack"]["group_0"]["layers_0"]["block_0"]
    y = Block(config, Full()).apply({"params": params}, X, CONTEXT, {}, False)
    np.testing.assert_allclose(y, formula(config, params, X), atol=1e-5)


def test_first_layer_may_go_without_a_norm():
    """Only the first, and only that before its attention."""
    config = COMBINATIONS["modern"]
    declared = declared_parameters(config)["stack"]
    assert [repeats for _, repeats in config.layout] == [1, 2]
    assert set(declared["group_0"]["layers_0"]["block_0"]) == {"attention", "mlp", "mlp_norm"}
    assert set(declared["group_1"]["layers_0"]["block_0"]) == {
        "attention",
        "attention_norm",
        "mlp",
        "mlp_norm",
    }
    params = parameters(config)["stack"]["group_0"]["layers_0"]["block_0"]
    y = Block(config, Full(), first=True).apply({"params": params}, X, CONTEXT, {}, False)
    attention = FullAttention(config, Full()).apply({"params": params["attention"]}, X, CONTEXT, train=False)
    middle = X + attention
    mlp = Mlp(config).apply(
        {"params": params["mlp"]}, Norm(config).apply({"params": params["mlp_norm"]}, middle)
    )
    np.testing.assert_allclose(y, middle + mlp, atol=1e-5)


def test_norm_at_the_end_unless_every_sum_has_one():
    for block in ("post", "pre", "sandwich", "parallel"):
        assert ("final_norm" in declared_parameters(small(block=block))) == (block != "post")


def test_layer_drop_skips_whole_layers_at_its_rate():
    config = small(layer_drop=0.3, layers=1)
    params = parameters(config)["stack"]["group_0"]["layers_0"]["block_0"]

    @jax.jit
    @jax.vmap
    def run(key):
        return Block(config, Full()).apply({"params": params}, X, CONTEXT, {}, True, rngs={"dropout": key})

    outputs = np.asarray(run(jax.random.split(jax.random.key(0), 1000)))
    skipped = (outputs == X).all((1, 2, 3))
    assert abs(skipped.mean() - 0.3) < 0.05  # three standard deviations of 1000 draws
    whole = Block(config, Full()).apply({"params": params}, X, CONTEXT, {}, False)
    np.testing.assert_allclose(outputs[~skipped], np.broadcast_to(whole, outputs[~skipped].shape), atol=1e-5)


# ------------------------------------------------------------------------------------------ all ways to run


@pytest.mark.parametrize("name", slow_but(COMBINATIONS, QUICK))
def test_scan_with_remat_equals_the_loop(name):
    """In value and gradient, with the one format of parameters."""
    config = COMBINATIONS[name]
    params = parameters(config)
    value, grad = loss_and_gradient(config)(params, BATCH)
    other = dataclasses.replace(config, scan=True, remat="block")
    other_value, other_grad = loss_and_gradient(other)(stack_layers(params), BATCH)
    assert_close(other_value, value)
    assert_close(unstack_layers(other_grad), grad, 5e-5)
    assert all(
        np.abs(leaf).max() > 0 for path, leaf in jax.tree_util.tree_leaves_with_path(grad) if is_used(path)
    )


def is_used(path):
    """The softmax does not see what is added to all scores of a query alike."""
    return not jax.tree_util.keystr(path).endswith("['key']['bias']")


@pytest.mark.parametrize("name", slow_but(COMBINATIONS, QUICK))
def test_sharded_equals_single(name):
    config = dataclasses.replace(COMBINATIONS[name], heads=4, scan=True)
    batch, params, declared = make_batch((8, 5, 8, 3)), parameters(config), declared_parameters(config)
    value, grad = loss_and_gradient(config)(params, batch)
    rules = "fsdp_tensor_sequence"
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=2, sequence=2, rules=rules))
    places = sharding.parameter_shardings(declared, mesh, rules)
    with sharding.activate(mesh, rules):
        run = jax.jit(loss_and_gradient(config), in_shardings=(places, None), out_shardings=(None, places))
        sharded_value, sharded_grad = run(jax.device_put(params, places), batch)
    assert_close(sharded_value, value)
    assert_close(sharded_grad, grad, 5e-5)


@pytest.mark.parametrize("name", slow_but(COMBINATIONS, QUICK))
def test_half_precision_is_near_float32(name):
    config = COMBINATIONS[name]
    params = parameters(config)
    full = encode(config)(params, BATCH)
    half = encode(dataclasses.replace(config, dtype="bfloat16"))(params, BATCH)
    assert half.hidden.dtype == jnp.bfloat16
    scale = np.abs(full.hidden).max()
    np.testing.assert_allclose(np.asarray(half.hidden, np.float32), full.hidden, atol=0.05 * max(1, scale))


# ------------------------------------------------------------------------------------------ sharing


def untied(config, params):
    """The parameters of the same model without sharing: a copy in every layer."""
    kinds = [
        type(options).__name__.lower() for period, repeats in config.layout for options in period * repeats
    ]
    shared = {name: value for name, value in params["stack"].items() if name.startswith("shared_")}
    stacked = stack_layers(params)["stack"]
    stack = {}
    for layer, (path, index) in enumerate(locate(config)):
        own = stacked
        for name in path[1:]:
            own = own.get(name, {})
        own = jax.tree.map(lambda p, i=index: p[i], own)
        stack[f"layers_{layer}"] = {"block_0": {**own, **shared[f"shared_{kinds[layer]}"]}}
    return {**params, "stack": {"group_0": stack}}


@pytest.mark.parametrize(
    "sharing, scan",
    slow_but(
        [(sharing, scan) for sharing in ("attention", "ffn", "all") for scan in (False, True)],
        [("attention", True), ("ffn", False), ("all", True)],
    ),
)
def test_sharing_equals_tied_copies(sharing, scan):
    """In value; and the gradient of what is shared is the sum of the copies' gradients."""
    config = small(layers=3, sharing=sharing)
    params = parameters(config)
    free = small(layers=3)
    copies = untied(config, params)
    value, grad = loss_and_gradient(free)(copies, BATCH)
    config = dataclasses.replace(config, scan=scan)
    shared_value, shared_grad = loss_and_gradient(config)(stack_layers(params) if scan else params, BATCH)
    assert_close(shared_value, value)
    layers = [grad["stack"]["group_0"][f"layers_{i}"]["block_0"] for i in range(3)]
    summed = jax.tree.map(lambda *leaves: sum(leaves), *layers)
    ours = shared_grad["stack"]["shared_full"]
    parts = {"attention": {"attention", "attention_norm"}, "ffn": {"mlp", "mlp_norm"}}
    assert set(ours) == parts.get(sharing, parts["attention"] | parts["ffn"])
    assert_close(ours, {name: summed[name] for name in ours}, 5e-5)
    assert_close(shared_grad["embedder"], grad["embedder"], 5e-5)


def test_shared_layers_draw_dropout_of_their_own_and_show_their_maps():
    config = small(layers=2, sharing="all", dropout=0.4)
    params, key = parameters(config), jax.random.key(7)

    def apply(train):
        run = Encoder(config).apply
        return run({"params": params}, BATCH, train=train, rngs={"dropout": key}, mutable=["intermediates"])

    _, seen = jax.jit(lambda: apply(False))()
    group = seen["intermediates"]["stack"]["group_0"]
    maps = [group[f"layers_{i}"]["block_0"]["attention"]["attention"][0] for i in range(2)]
    assert maps[0].shape == (2, 3, 7, 7) and np.abs(maps[0] - maps[1]).max() > 1e-3
    again, _ = jax.jit(lambda: apply(True))()
    calm, _ = jax.jit(lambda: apply(False))()
    assert np.abs(again.hidden - calm.hidden).max() > 0.1


# ------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 7}, "model.heads=7 does not divide model.width=24: heads=6 would"),
        ({"layers": 0}, "model.layers=0"),
        (
            {"residual": "deepnorm", "block": "pre"},
            "model.residual=deepnorm is for model.block=post, not pre",
        ),
        ({"first_norm": False}, "it needs model.block=pre"),
        ({"first_norm": False, "block": "pre", "embedding_norm": False}, "without any norm"),
        ({"layer_drop": 1.0}, "model.layer_drop=1.0 is a probability"),
        ({"dropout": -0.1}, "model.dropout=-0.1 is a probability"),
    ],
)
def test_contradictions_are_refused(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        small(**changes)
    assert "\n" not in str(error.value)
