import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.layers.mask import AttentionMask
from bertjax.models.encoder import Encoder
from bertjax.models.stacking import stack_layers, unstack_layers
from tests.cases import slow_but
from tests.helpers import (
    assert_close,
    declared_parameters,
    encode,
    loss_and_gradient,
    make_batch,
    pack,
    parameters,
    small,
)

BATCH = make_batch()
NORMS = ("post", "pre")
REMATS = ("none", "block", "dots")


@pytest.mark.parametrize(
    "block, remat, scan",
    slow_but(
        [(block, remat, scan) for block in NORMS for remat in REMATS for scan in (False, True)],
        [*(("post", remat, True) for remat in REMATS), ("pre", "block", False), ("pre", "dots", True)],
    ),
)
def test_scan_loop_and_remat_agree(block, remat, scan):
    """In value, and in the gradient of every parameter."""
    params = parameters(small(block=block))
    value, grad = loss_and_gradient(small(block=block))(params, BATCH)
    changed = loss_and_gradient(small(block=block, remat=remat, scan=scan))
    if scan:
        other_value, other_grad = changed(stack_layers(params), BATCH)
        other_grad = unstack_layers(other_grad)
    else:
        other_value, other_grad = changed(params, BATCH)
    assert_close(other_value, value)
    assert_close(other_grad, grad, 2e-5)


def test_remat_and_scan_see_the_same_dropout():
    """A block that is computed again must draw what it drew before."""
    config, key = small(dropout=0.3, attention_dropout=0.3, layer_drop=0.3, scan=True), jax.random.key(5)
    params = parameters(config)
    value, grad = loss_and_gradient(config, train=True)(params, BATCH, key)
    again = dataclasses.replace(config, remat="block")
    assert_close(loss_and_gradient(again, train=True)(params, BATCH, key), (value, grad))
    assert abs(value - loss_and_gradient(config)(params, BATCH)[0]) > 1e-3


def layer_norm(x, p, epsilon):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + epsilon)
    return y * p["scale"] + p["bias"]


@pytest.mark.parametrize("block", NORMS)
def test_equals_a_plain_numpy_encoder(block):
    """Written out once more, row by row and head by head, without any of the layers."""
    config = small(block=block)
    params = jax.tree.map(lambda p: np.asarray(p, np.float64), parameters(config))
    output = encode(config)(jax.tree.map(np.float32, params), BATCH)
    norm = functools.partial(layer_norm, epsilon=config.norm_epsilon)
    erf = np.vectorize(math.erf)

    def attend(x, p, valid):
        y = np.zeros_like(x) + p["output"]["bias"]
        for head in range(config.heads):
            q, k, v = (x @ p[n]["kernel"][:, head] + p[n]["bias"][head] for n in ("query", "key", "value"))
            scores = np.where(valid[None, :], q @ k.T / np.sqrt(config.key_size), -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            y += weights / weights.sum(-1, keepdims=True) @ v @ p["output"]["kernel"][head]
        return y

    def feed(x, p):
        h = x @ p["up"]["kernel"] + p["up"]["bias"]
        return (h * 0.5 * (1 + erf(h / np.sqrt(2)))) @ p["down"]["kernel"] + p["down"]["bias"]

    embedder = params["embedder"]
    for row in range(2):
        x = embedder["tokens"][BATCH.tokens[row]] + embedder["types"][BATCH.types[row]]
        x = norm(x + params["position"]["embedding"][BATCH.positions[row]], embedder["norm"])
        for index in range(config.layers):
            p = params["stack"]["group_0"][f"layers_{index}"]["block_0"]
            if block == "pre":
                x = x + attend(norm(x, p["attention_norm"]), p["attention"], BATCH.mask[row])
                x = x + feed(norm(x, p["mlp_norm"]), p["mlp"])
            else:
                x = norm(x + attend(x, p["attention"], BATCH.mask[row]), p["attention_norm"])
                x = norm(x + feed(x, p["mlp"]), p["mlp_norm"])
        if block == "pre":
            x = norm(x, params["final_norm"])
        real = BATCH.mask[row]
        np.testing.assert_allclose(output.hidden[row][real], x[real], atol=1e-4)
        pooled = np.tanh(x[0] @ params["pooler"]["kernel"] + params["pooler"]["bias"])
        np.testing.assert_allclose(output.pooled[row], pooled, atol=1e-4)


@pytest.mark.parametrize("block", NORMS)
def test_padding_influences_nothing(block):
    config = small(block=block)
    params = parameters(config)
    before = encode(config)(params, BATCH)
    garbage = BATCH.replace(
        tokens=np.where(BATCH.mask, BATCH.tokens, 17), types=np.where(BATCH.mask, BATCH.types, 1)
    )
    after = encode(config)(params, garbage)
    np.testing.assert_array_equal(before.hidden[BATCH.mask], after.hidden[BATCH.mask])
    np.testing.assert_array_equal(before.pooled, after.pooled)
    assert np.abs(before.hidden - after.hidden)[~BATCH.mask].max() > 0.1
    longer = encode(config)(params, make_batch((7, 5), length=11))
    other = make_batch((7, 5), length=11)
    again = encode(config)(params, other.replace(tokens=np.where(other.mask, other.tokens, 3)))
    np.testing.assert_allclose(again.hidden[other.mask], longer.hidden[other.mask], atol=1e-6)


@pytest.mark.parametrize("block", NORMS)
def test_packed_segments_equal_rows_of_their_own(block):
    config, batch = small(block=block), make_batch((7, 5))
    params, packed = parameters(config), pack(batch, 13)
    apart, together = encode(config)(params, batch), encode(config)(params, packed)
    np.testing.assert_allclose(together.hidden[packed.mask], apart.hidden[batch.mask], atol=1e-5)


def test_extra_mask_restricts_attention():
    """Under a causal mask, a token has no gradient from those behind it."""
    config = small()
    params = parameters(config)

    def first_tokens(table):
        changed = {**params, "embedder": {**params["embedder"], "tokens": table}}
        output = Encoder(config).apply(
            {"params": changed}, BATCH, train=False, mask=AttentionMask(causal=True)
        )
        return jnp.square(output.hidden[0, :3]).sum()

    behind = set(BATCH.tokens[0, 3:].tolist()) - set(BATCH.tokens[0, :3].tolist())
    grad = np.asarray(jax.jit(jax.grad(first_tokens))(params["embedder"]["tokens"]))
    assert (grad[sorted(behind)] == 0).all()
    assert (np.abs(grad[BATCH.tokens[0, 1]]) > 0).any()


@pytest.mark.parametrize("scan", [False, True])
def test_states_are_those_of_every_layer(scan):
    config = small(layers=3, scan=scan)
    params = parameters(config)
    output = jax.jit(lambda p: Encoder(config, keep_states=True).apply({"params": p}, BATCH, train=False))(
        params
    )
    assert output.states.shape == (4, 2, 7, 24)
    np.testing.assert_array_equal(output.states[-1], output.hidden)
    shorter = small(layers=2)
    unrolled = unstack_layers(params)
    group = {name: value for name, value in unrolled["stack"]["group_0"].items() if name != "layers_2"}
    two = encode(shorter)({**unrolled, "stack": {"group_0": group}}, BATCH)
    np.testing.assert_allclose(output.states[2], two.hidden, atol=1e-5)


def test_attention_maps_are_given_when_asked_for():
    config = small()
    variables = {"params": parameters(config)}
    run = functools.partial(Encoder(config).apply, train=False, mutable=["intermediates"])
    _, kept = jax.jit(run)(variables, BATCH)
    (weights,) = kept["intermediates"]["stack"]["group_0"]["layers_1"]["block_0"]["attention"]["attention"]
    assert weights.shape == (2, 3, 7, 7)
    np.testing.assert_allclose(weights.sum(-1), 1.0, atol=1e-5)
    assert (np.asarray(weights)[1, :, :5, 5:] == 0).all()


def test_half_precision_stays_near_float32():
    config = small()
    params = parameters(config)
    full, half = encode(config)(params, BATCH), encode(small(dtype="bfloat16"))(params, BATCH)
    assert half.hidden.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(half.hidden, np.float32), full.hidden, atol=0.05)


def test_sharded_equals_single_and_is_really_sharded():
    config = small(heads=4, scan=True)
    batch = make_batch((8, 5, 8, 3))
    declared = declared_parameters(config)
    params = parameters(config)
    value, grad = loss_and_gradient(config)(params, batch)
    rules = "fsdp_tensor_sequence"
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=2, sequence=2, rules=rules))
    places = sharding.parameter_shardings(declared, mesh, rules)
    query = places["stack"]["group_0"]["layers"]["block_0"]["attention"]["query"]["kernel"].spec
    assert tuple(query) == (None, "fsdp", "tensor", None)
    with sharding.activate(mesh, rules):
        run = jax.jit(loss_and_gradient(config), in_shardings=(places, None), out_shardings=(None, places))
        sharded_value, sharded_grad = run(jax.device_put(params, places), batch)
    assert_close(sharded_value, value)
    assert_close(sharded_grad, grad, 2e-5)
