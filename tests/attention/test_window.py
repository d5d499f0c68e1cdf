"""The window against a masked full matrix in numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.window import Window
from bertjax.layers.mask import AttentionMask
from tests.attention.battery import refusal
from tests.attention.plain import bias_of, dense, matrix, near, ragged, run_layer


@pytest.mark.parametrize(("length", "size"), [(7, 4), (16, 4), (29, 6), (29, 3), (12, 8), (13, 64)])
@pytest.mark.parametrize("packed", [False, True])
def test_equals_a_masked_matrix(length: int, size: int, packed: bool) -> None:
    mask = ragged(length, packed)
    layer = run_layer(Window(size), length, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    layer.check(dense(q, k, v, matrix(mask) & near(length, size // 2)), np.asarray(mask.valid))


@pytest.mark.parametrize("length", [10, 29])
def test_causal_bias_and_the_callers_window(length: int) -> None:
    """Whatever else the caller forbids or adds holds inside the window too."""
    scores = np.random.default_rng(1).standard_normal((4, 2 * length - 1)).astype(np.float32)
    mask = dataclasses.replace(ragged(length), causal=True, window=(2, 1))
    layer = run_layer(Window(6), length, mask, jnp.asarray(scores))
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    distance = np.arange(length)[None] - np.arange(length)[:, None]
    allowed = matrix(mask) & near(length, 3) & (distance <= 0) & (distance >= -2)
    layer.check(dense(q, k, v, allowed, bias_of(scores)), np.asarray(mask.valid))


def test_no_mask_at_all() -> None:
    layer = run_layer(Window(4), 11, AttentionMask())
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    layer.check(dense(q, k, v, near(11, 2)))


def test_a_window_without_neighbours_is_refused() -> None:
    assert "model.attention.size=1" in refusal(lambda: Window(1))
