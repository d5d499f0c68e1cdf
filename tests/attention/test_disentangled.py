"""Disentangled attention against the sum over pairs, written out in numpy."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import check_attention
from bertjax.attention.base import by_pairs
from bertjax.attention.disentangled import Disentangled
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position.relative import Relative, bucket
from tests.attention.battery import refusal
from tests.attention.plain import matrix, ragged, run_layer, softmax

LENGTH = 9
DISTANCES = np.random.default_rng(3).standard_normal((2 * LENGTH - 1, 24)).astype(np.float32)


@pytest.mark.parametrize(("c2p", "p2c"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("share", [True, False])
def test_equals_the_sum_over_pairs(c2p: bool, p2c: bool, share: bool) -> None:
    mask = ragged(LENGTH, packed=True)
    layer = run_layer(Disentangled(c2p, p2c, share), LENGTH, mask, relative=jnp.asarray(DISTANCES))
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    scores = np.einsum("blhk,bmhk->bhlm", q, k)
    if c2p:
        keys = layer.project("key" if share else "position_key", DISTANCES[None])[0]
        for i in range(LENGTH):
            for j in range(LENGTH):
                scores[:, :, i, j] += np.einsum("bhk,hk->bh", q[:, i], keys[i - j + LENGTH - 1])
    if p2c:
        queries = layer.project("query" if share else "position_query", DISTANCES[None])[0]
        for i in range(LENGTH):
            for j in range(LENGTH):
                scores[:, :, i, j] += np.einsum("bhk,hk->bh", k[:, j], queries[i - j + LENGTH - 1])
    scores /= np.sqrt((1 + c2p + p2c) * q.shape[-1])
    weights = softmax(np.where(matrix(mask), scores, -1e30))
    layer.check(np.einsum("bhlm,bmhk->blhk", weights, v), np.asarray(mask.valid))


def test_the_shift_of_memory() -> None:
    x = np.arange(2 * 3 * 4 * 7).reshape(2, 3, 4, 7).astype(np.float32)
    y = by_pairs(jnp.asarray(x))
    for i in range(4):
        for j in range(4):
            np.testing.assert_array_equal(y[:, :, i, j], x[:, :, i, j - i + 3])


def test_buckets_are_single_near_by_and_wider_far_away() -> None:
    """256 of them over 512, as in the published v2 and v3 models, and odd about the middle."""
    rows = bucket(np.arange(-600, 601), 256, 512) - 256
    np.testing.assert_array_equal(rows[600 - 128 : 600 + 129], np.arange(-128, 129))
    assert (np.diff(rows) >= 0).all() and rows[-1] == 255 and rows[0] == -256
    np.testing.assert_array_equal(rows[89:600], -rows[601:-89][::-1])  # farther ones meet the table's end
    assert len(set(rows[600 + 129 : 600 + 500])) < 128
    np.testing.assert_array_equal(bucket(np.arange(-9, 10), None, 5), np.clip(np.arange(-9, 10), -5, 4) + 5)


def test_positions_and_attention_that_do_not_fit_are_refused() -> None:
    config: Any = EncoderConfig
    assert "model.position=relative" in refusal(lambda: check_attention(config(attention=Disentangled())))
    assert "disentangled" in refusal(lambda: check_attention(config(position=Relative())))
    check_attention(config(attention=Disentangled(), position=Relative()), packed=True, causal=True)
    assert "buckets" in refusal(lambda: Relative(buckets=512))
