"""The bidirectional LSTM against a loop in numpy."""

import jax
import numpy as np
from flax.core import meta
from helpers import assert_close, small

from bertjax.layers.lstm import BiLstm

B, L, E, W = 2, 7, 5, 3
MASK = np.arange(L)[None, :] < np.array([[7], [4]])


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def read(x: np.ndarray, params: dict, order: list[int]) -> np.ndarray:
    """One row, without its padding, in that order."""
    hidden, cell, found = np.zeros(W), np.zeros(W), np.zeros((len(x), W))
    for place in order:
        gates = x[place] @ params["input"]["kernel"] + params["input"]["bias"] + hidden @ params["recurrent"]
        i, f, g, o = np.split(gates, 4)
        cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        found[place] = hidden
    return found


def test_two_layers_against_a_loop() -> None:
    random = np.random.default_rng(0)
    x = random.normal(size=(B, L, E)).astype(np.float32)
    module = BiLstm(small(), layers=2, width=W)
    shapes = meta.unbox(jax.eval_shape(module.init, jax.random.key(0), x, MASK)["params"])
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    # What stands in the padding is neither read nor written.
    x[~MASK] = np.nan
    found = np.asarray(
        jax.jit(lambda p, x: module.apply({"params": p}, x, MASK))(params, np.nan_to_num(x, nan=9.0))
    )
    assert found.shape == (B, L, 2 * W) and not found[~MASK].any()
    for row, size in enumerate(MASK.sum(1)):
        y = x[row, :size].astype(np.float64)
        for layer in range(2):
            there = read(y, params[f"forward_{layer}"], list(range(size)))
            back = read(y, params[f"backward_{layer}"], list(range(size))[::-1])
            y = np.concatenate([there, back], axis=-1)
        assert_close(found[row, :size], y)
