"""What weights start from, and that every product of a model is told its role."""

import collections
import math

import jax
import numpy as np
import pytest

from bertjax.layers.dense import dense, initial
from tests.helpers import declared_parameters, small, unbox

D, N, STD = 200, 4, 0.05
CUT = 0.8796  # standard deviation of a normal that is cut at two


def deviation(scheme, role, shape=(D, 10, 30), inputs=(0,), residual="plain"):
    config = small(init_scheme=scheme, init_std=STD, width=D, heads=10, layers=N, residual=residual)
    return float(np.std(initial(config, role, list(inputs))(jax.random.key(0), shape, np.float32)))


@pytest.mark.parametrize(
    ("scheme", "role", "expected"),
    [
        ("bert", "score", CUT * STD),
        ("bert", "exit", CUT * STD),
        ("depth", "branch", CUT * STD),
        ("depth", "exit", CUT * STD / math.sqrt(2 * N)),
        ("fan_in", "branch", 1 / math.sqrt(D)),
        ("xavier", "branch", math.sqrt(2 / (D + 300))),
        ("small", "branch", math.sqrt(2 / (5 * D))),
        ("small", "exit", 2 / (N * math.sqrt(D))),
    ],
)
def test_standard_deviation(scheme, role, expected):
    assert deviation(scheme, role) == pytest.approx(expected, rel=0.02)


def test_fans_count_all_dimensions_on_either_side():
    """An output projection sums over heads and head size."""
    assert deviation("fan_in", "exit", (10, 30, D), (0, 1)) == pytest.approx(1 / math.sqrt(300), rel=0.02)
    layer = dense(
        small(init_scheme="fan_in", init_std=STD),
        "blhk,hkd->bld",
        (10, 30, D),
        ("heads", "head_size", "width"),
        "exit",
    )
    kernel = layer.initializer(jax.random.key(0), (10, 30, D), np.float32)
    assert np.std(kernel) == pytest.approx(1 / math.sqrt(300), rel=0.02)


def test_deepnorm_makes_branches_and_exits_smaller():
    for role, gain in (
        ("score", 1.0),
        ("branch", (8 * N) ** -0.25),
        ("exit", (8 * N) ** -0.25),
        ("head", 1.0),
    ):
        expected = gain * math.sqrt(2 / (D + 300))
        assert deviation("xavier", role, residual="deepnorm") == pytest.approx(expected, rel=0.02)


def test_roles_in_a_model(monkeypatch):
    roles = collections.Counter()

    def record(config, role, inputs):
        def start(key, shape, dtype):
            roles[role, shape] += 1
            return np.zeros(shape, dtype)

        return start

    monkeypatch.setattr("bertjax.layers.dense.initial", record)
    declared_parameters(
        small(layers=1, activation="geglu", embedding_width=16, max_length=17)
    )  # not in the cache
    assert roles == {
        ("score", (24, 3, 8)): 2,
        ("branch", (24, 3, 8)): 1,
        ("exit", (3, 8, 24)): 1,
        ("branch", (24, 40)): 2,
        ("exit", (40, 24)): 1,
        ("head", (16, 24)): 1,
        ("head", (24, 24)): 1,
    }


def test_bias_follows_the_config_but_for_logits():
    names = {
        "/".join(key.key for key in path)
        for path, _ in jax.tree_util.tree_leaves_with_path(unbox(declared_parameters(small(bias=False))))
    }
    assert {name for name in names if name.endswith("bias")} == {
        name for name in names if name.endswith("norm/bias")
    }
    axes = ("width", "classes")
    assert dense(small(bias=False), "bd,dc->bc", (D, 3), axes, "head", bias=True).bias
