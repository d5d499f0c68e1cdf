"""The bidirectional state-space mixer against loops over tokens, in numpy."""

import dataclasses

import jax
import numpy as np
import pytest

from bertjax.attention.state_space import StateSpace, _rates, _steps
from tests.attention.battery import refusal
from tests.attention.plain import BASE, Layer, ragged, run_layer


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def document(layer: Layer, x: np.ndarray) -> np.ndarray:
    """One document [L D] on its own: filters, two recurrences, the diagonal, the gate."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), layer.parameters)
    length, width = len(x), p["input_filter"].shape[0]

    def through(name: str, filter: str) -> np.ndarray:
        made = np.einsum("ld,d...->l...", x, p[name]["kernel"]) + p[name]["bias"]
        padded = np.pad(made, ((width // 2, width // 2), (0, 0), (0, 0)))
        return silu(sum(padded[tap : tap + length] * p[filter][tap] for tap in range(width)))

    u, states = through("input", "input_filter"), through("states", "state_filter")
    gate = np.einsum("ld,d...->l...", x, p["gate"]["kernel"]) + p["gate"]["bias"]
    delta = np.logaddexp(0, np.einsum("ld,d...->l...", x, p["step"]["kernel"]) + p["step_bias"])
    y = np.zeros_like(u)
    for side, order in enumerate((range(length), range(length - 1, -1, -1))):
        state = np.zeros((BASE.heads, states.shape[-1], u.shape[-1]))
        keys, queries = states[:, 2 * side], states[:, 2 * side + 1]
        for i in order:
            state = state * np.exp(-np.exp(p["rate"]) * delta[i, side])[:, None, None]
            y[i] += np.einsum("r,hrk->hk", queries[i], state)
            state = state + np.einsum("r,h,hk->hrk", keys[i], delta[i, side], u[i])
    skip = p["skip"] + np.einsum("lhk,hkg->lg", u, p["diagonal"]["kernel"])
    y = (y + skip[..., None] * u) * silu(gate)
    y = y / np.sqrt(np.square(y).mean((1, 2), keepdims=True) + BASE.norm_epsilon) * p["scale"]
    return np.einsum("lhk,hkd->ld", y, p["output"]["kernel"]) + p["output"]["bias"]


@pytest.mark.parametrize(("length", "expansion"), [(12, 1), (12, 2), (300, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_equals_a_loop_over_tokens(length: int, expansion: int, packed: bool) -> None:
    mask = ragged(length, packed)
    if not packed:
        mask = dataclasses.replace(mask, segments=None)
    layer = run_layer(StateSpace(expansion, state=5, convolution=3), length, mask)
    for row in range(3):
        number = int(np.asarray(mask.valid)[row].sum())
        parts = [slice(0, 5), slice(5, number)] if packed else [slice(0, number)]
        for part in parts:
            expected = document(layer, layer.x[row, part])
            np.testing.assert_allclose(layer.y[row, part], expected, atol=5e-5)


def test_it_begins_with_short_steps_and_slow_decays() -> None:
    """What the module draws itself: steps between 0.001 and 0.1, rates between 1 and 16."""
    steps = np.logaddexp(0, np.asarray(_steps(jax.random.key(0), (2, 100), np.float32)))
    rates = np.exp(np.asarray(_rates(jax.random.key(1), (100,), np.float32)))
    assert 0.00099 < steps.min() < 0.002 and 0.05 < steps.max() < 0.101
    assert 1 <= rates.min() < 2 and 14 < rates.max() <= 16.001


def test_sizes_without_meaning_are_refused() -> None:
    assert "model.attention.convolution=4" in refusal(lambda: StateSpace(convolution=4))
    assert "model.attention.state=0" in refusal(lambda: StateSpace(state=0))
