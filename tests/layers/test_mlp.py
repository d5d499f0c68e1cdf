import math

import jax
import numpy as np
import pytest

from bertjax.layers.mlp import Mlp
from tests.helpers import small, unbox

ERF = np.vectorize(math.erf)
REFERENCE = {
    "gelu": lambda x: x * 0.5 * (1 + ERF(x / math.sqrt(2))),
    "gelu_tanh": lambda x: x * 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    "relu": lambda x: np.maximum(x, 0),
}


@pytest.mark.parametrize("activation", REFERENCE)
def test_equals_numpy(activation):
    mlp = Mlp(small(activation=activation))
    x = np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
    params = unbox(mlp.init(jax.random.key(0), x)["params"])
    params = jax.tree.map(lambda p: p + 0.1, params)  # biases start at zero
    up, down = params["up"], params["down"]
    hidden = REFERENCE[activation](np.asarray(x @ up["kernel"] + up["bias"][None, None], np.float64))
    expected = hidden @ np.asarray(down["kernel"]) + np.asarray(down["bias"])
    np.testing.assert_allclose(mlp.apply({"params": params}, x), expected, atol=1e-5)
