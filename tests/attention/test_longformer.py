"""Longformer against two full matrices in numpy: one for local queries, one for global ones."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.longformer import Longformer
from bertjax.layers.mask import AttentionMask
from tests.attention.battery import refusal
from tests.attention.plain import Layer, bias_of, dense, matrix, near, ragged, run_layer


def expected(
    layer: Layer, mask: AttentionMask, special: np.ndarray, half: int, bias: np.ndarray
) -> np.ndarray:
    length = special.shape[1]
    allowed, special = matrix(mask), special & np.asarray(mask.valid)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    local = dense(q, k, v, allowed & (near(length, half) | special[:, None, None]), bias)
    q, k, v = (layer.project(f"global_{name}") for name in ("query", "key", "value"))
    return np.where(special[:, :, None, None], dense(q, k, v, allowed, bias), local)


@pytest.mark.parametrize(("length", "size"), [(9, 4), (23, 6), (16, 64)])
@pytest.mark.parametrize("packed", [False, True])
def test_the_first_tokens_of_documents_are_global(length: int, size: int, packed: bool) -> None:
    mask = ragged(length, packed)
    index = np.broadcast_to(np.arange(length), (3, length))
    scores = np.random.default_rng(1).standard_normal((4, 2 * length - 1)).astype(np.float32)
    layer = run_layer(Longformer(size, tokens=2, slots=5), length, mask, jnp.asarray(scores))
    heads = expected(
        layer, mask, index < 2, size // 2, bias_of(scores)
    )  # run_layer counts positions through the row
    layer.check(heads, np.asarray(mask.valid))


@pytest.mark.parametrize("slots", [4, 2])
def test_the_caller_names_global_tokens(slots: int) -> None:
    """Those past the slots stay local."""
    length, mask = 19, ragged(19)
    special = np.zeros((3, length), bool)
    special[0, [3, 9, 18]] = special[1, [0]] = special[2, [1, 18]] = True  # the last is padding
    layer = run_layer(
        Longformer(4, slots=slots), length, dataclasses.replace(mask, globals=jnp.asarray(special))
    )
    kept = special & (np.cumsum(special, 1) <= slots)
    layer.check(expected(layer, mask, kept, 2, np.zeros(())), np.asarray(mask.valid))


def test_sizes_without_meaning_are_refused() -> None:
    assert "slots" in refusal(lambda: Longformer(tokens=4, slots=2))
    assert "size" in refusal(lambda: Longformer(size=1))
