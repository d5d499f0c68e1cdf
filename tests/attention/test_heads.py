"""Full attention, talking heads, grouped queries and query-key normalisation against numpy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.grouped_query import GroupedQuery
from bertjax.attention.qk_norm import QkNorm
from bertjax.attention.talking_heads import TalkingHeads
from bertjax.layers.config import Full
from tests.attention.battery import refusal
from tests.attention.plain import bias_of, dense, matrix, ragged, run_layer, scores_of, softmax


@pytest.mark.parametrize("packed", [False, True])
def test_full_with_scores_by_distance(packed: bool) -> None:
    mask = ragged(9, packed)
    scores = np.random.default_rng(1).standard_normal((4, 17)).astype(np.float32)
    layer = run_layer(Full(), 9, mask, jnp.asarray(scores))
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    layer.check(dense(q, k, v, matrix(mask), bias_of(scores)), np.asarray(mask.valid))


def test_talking_heads() -> None:
    mask = ragged(9, packed=True)
    layer = run_layer(TalkingHeads(), 9, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    before, after = (np.asarray(layer.parameters[name], np.float64) for name in ("scores", "weights"))
    scores = np.einsum("bhlm,hg->bglm", scores_of(q, k), before)
    weights = np.einsum("bglm,gh->bhlm", softmax(np.where(matrix(mask), scores, -1e30)), after)
    layer.check(np.einsum("bhlm,bmhk->blhk", weights, v), np.asarray(mask.valid))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_grouped_query(groups: int) -> None:
    mask = ragged(9)
    layer = run_layer(GroupedQuery(groups=groups), 9, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    assert k.shape[2] == groups
    heads = [
        dense(q[:, :, [h]], k[:, :, [h * groups // 4]], v[:, :, [h * groups // 4]], matrix(mask))
        for h in range(4)
    ]
    layer.check(np.concatenate(heads, 2), np.asarray(mask.valid))


def test_groups_that_do_not_divide_the_heads_are_refused() -> None:
    assert "1, 2, 4 do" in refusal(lambda: run_layer(GroupedQuery(groups=3), 9))


def test_unit_queries_and_keys() -> None:
    mask = ragged(9)
    layer = run_layer(QkNorm(), 9, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    q, k = (t / np.linalg.norm(t, axis=-1, keepdims=True) for t in (q, k))
    temperature = float(layer.parameters["temperature"][0])
    heads = dense(q * temperature * math.sqrt(q.shape[-1]), k, v, matrix(mask))
    layer.check(heads, np.asarray(mask.valid))


def test_layernorm_of_queries_and_keys() -> None:
    mask = ragged(9)
    layer = run_layer(QkNorm(form="layernorm"), 9, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    q, k = (
        (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-6)
        * np.asarray(layer.parameters[name], np.float64)
        for t, name in ((q, "query_scale"), (k, "key_scale"))
    )  # fmt: skip
    layer.check(dense(q, k, v, matrix(mask)), np.asarray(mask.valid))
