import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.layers.norm import Norm
from tests.helpers import small, unbox

D = 24


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_layer_norm_equals_numpy():
    x, scale, bias = normal(2, 7, D) * 5 + 3, normal(D, seed=1), normal(D, seed=2)
    y = Norm(small(norm_epsilon=0.1)).apply({"params": {"scale": scale, "bias": bias}}, x)
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(variance + 0.1) * scale + bias, atol=1e-5)


def test_rms_norm_equals_numpy():
    x, scale = normal(2, 7, D) * 5 + 3, normal(D, seed=1)
    y = Norm(small(norm="rmsnorm", norm_epsilon=0.1)).apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(y, x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 0.1) * scale, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("layernorm", {}),
        ("layernorm", {"norm_bias": False}),
        ("rmsnorm", {"norm": "rmsnorm"}),
    ],
)
def test_gradients_are_those_of_the_plain_equation(kind, options):
    config = small(norm_epsilon=0.1, **options)
    x, grad = normal(2, 7, D) * 5 + 3, normal(2, 7, D, seed=3)
    params = {"scale": normal(D, seed=1)}
    if kind == "layernorm" and config.norm_bias:
        params["bias"] = normal(D, seed=2)

    def plain(params, x):
        centred = x - x.mean(-1, keepdims=True) if kind == "layernorm" else x
        unit = centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 0.1)
        return unit * params["scale"][None, None] + params.get("bias", jnp.zeros(D))[None, None]

    y, back = jax.vjp(lambda params, x: Norm(config).apply({"params": params}, x), params, x)
    wanted, wanted_back = jax.vjp(plain, params, x)
    np.testing.assert_allclose(y, wanted, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), back(grad), wanted_back(grad))


def test_the_backward_pass_keeps_the_input_alone():
    """In half precision a quarter of what float32 arrays of the input and of its norm would take."""
    x = jnp.asarray(normal(2, 7, D), jnp.bfloat16)
    params = {"scale": np.ones(D, np.float32), "bias": np.zeros(D, np.float32)}
    _, back = jax.vjp(lambda x: Norm(small(dtype="bfloat16")).apply({"params": params}, x), x)
    kept = [leaf for leaf in jax.tree.leaves(back) if leaf.size == x.size]
    assert [leaf.dtype for leaf in kept] == [jnp.bfloat16]


def test_layer_norm_without_bias():
    x, scale = normal(2, 7, D) * 5 + 3, normal(D, seed=1)
    y = Norm(small(norm_bias=False)).apply({"params": {"scale": scale}}, x)
    np.testing.assert_allclose(
        y, (x - x.mean(-1, keepdims=True)) / x.std(-1, keepdims=True) * scale, atol=1e-5
    )


def test_starts_as_the_plain_norm():
    params = unbox(Norm(small()).init(jax.random.key(0), normal(2, D))["params"])
    np.testing.assert_array_equal(params["scale"], 1.0)
    np.testing.assert_array_equal(params["bias"], 0.0)


def test_half_precision_input_has_float32_statistics():
    """A bfloat16 mean over values near 256 would be off by one; the spread here is smaller than that."""
    x = jnp.asarray(256 + 2 * np.arange(D)[None, :], jnp.bfloat16)
    params = {"scale": np.ones(D, np.float32), "bias": np.zeros(D, np.float32)}
    y = Norm(small(dtype="bfloat16")).apply({"params": params}, x)
    assert y.dtype == jnp.bfloat16
    exact = np.asarray(x, np.float32)
    exact = (exact - exact.mean()) / exact.std()
    np.testing.assert_allclose(np.asarray(y, np.float32), exact, atol=0.01)
