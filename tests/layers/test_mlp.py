import math

import jax
import numpy as np
import pytest

from bertjax.layers.mlp import Mlp, gelu
from tests.helpers import small, unbox

ERF = np.vectorize(math.erf)
REFERENCE = {
    "gelu": lambda x: x * 0.5 * (1 + ERF(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
    "relu2": lambda x: np.maximum(x, 0) ** 2,
    "silu": lambda x: x / (1 + np.exp(-x)),
}
GATES = {"geglu": "gelu", "swiglu": "silu"}


@pytest.mark.parametrize("activation", [*REFERENCE, *GATES])
def test_equals_numpy(activation):
    mlp = Mlp(small(activation=activation))
    x = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
    params = unbox(mlp.init(jax.random.key(0), x)["params"])
    params = jax.tree.map(lambda p: np.asarray(p + 0.1, np.float64), params)  # biases start at zero
    up, down = params["up"], params["down"]
    hidden = x @ up["kernel"] + up["bias"]
    if activation in GATES:
        gate = x @ params["gate"]["kernel"] - params["gate"]["bias"]
        params["gate"]["bias"] = -params["gate"]["bias"]  # the gate's bias is not that of `up`
        hidden = REFERENCE[GATES[activation]](gate) * hidden
    else:
        hidden = REFERENCE[activation](hidden)
    expected = hidden @ down["kernel"] + down["bias"]
    y = mlp.apply({"params": jax.tree.map(np.float32, params)}, x)
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)


def test_gate_costs_no_parameters_by_default():
    """Two thirds of the hidden size for three matrices, to the next multiple of 64."""
    assert small(width=768, feedforward=None).hidden == 3072
    assert small(width=768, feedforward=None, activation="swiglu").hidden == 2048
    assert small(width=1024, heads=4, feedforward=None, activation="geglu").hidden == 2752
    assert small(feedforward=40, activation="geglu").hidden == 40


def test_gelu_has_the_slope_of_its_formula():
    x = np.linspace(-6.0, 6.0, 53, dtype=np.float32)
    density = np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)
    wanted = 0.5 * (1 + ERF(x / math.sqrt(2))) + x * density
    np.testing.assert_allclose(jax.grad(lambda x: gelu(x).sum())(x), wanted, atol=2e-6)
    half = jax.grad(lambda x: gelu(x).astype("float32").sum())(x.astype("bfloat16"))
    assert half.dtype == "bfloat16"
    np.testing.assert_allclose(np.asarray(half, np.float32), wanted, atol=1e-2)
