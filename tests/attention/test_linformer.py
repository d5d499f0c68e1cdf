"""Linformer against numpy."""

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import make_attention
from bertjax.attention.linformer import Linformer
from bertjax.layers.mask import AttentionMask
from tests.attention.battery import refusal
from tests.attention.plain import BASE, dense, ragged, run_layer, scores_of, softmax


@pytest.mark.parametrize("share", ["none", "heads", "keys"])
@pytest.mark.parametrize("length", [11, 64])  # shorter than model.max_length, and just as long
def test_equals_numpy(share: str, length: int) -> None:
    mask = ragged(length)
    layer = run_layer(Linformer(5, share), length, mask)  # type: ignore[arg-type]
    keep = np.asarray(mask.valid)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    keys = np.asarray(layer.parameters["compress_keys"], np.float64)[..., :length]
    values = keys
    if share != "keys":
        values = np.asarray(layer.parameters["compress_values"], np.float64)[..., :length]
    heads = {"none": "hrm"}.get(share, "rm")
    k = np.einsum(f"{heads},bmhk->brhk", keys, k * keep[:, :, None, None])
    v = np.einsum(f"{heads},bmhk->brhk", values, v * keep[:, :, None, None])
    layer.check(np.einsum("bhlr,brhk->blhk", softmax(scores_of(q, k)), v), keep)


def test_what_no_token_feeds_is_left_out() -> None:
    """Compressed keys of the padding alone would hold a part of the softmax."""
    rows = AttentionMask(valid=jnp.arange(6)[None] < jnp.asarray([[4], [6], [0]]))
    layer = run_layer(Linformer(64, "keys"), 6, rows, max_length=64)
    layer.parameters["compress_keys"] = jnp.eye(64)
    module = make_attention(BASE, Linformer(64, "keys"), "attention")
    y = module.apply(
        {"params": layer.parameters}, jnp.asarray(layer.x, jnp.float32), layer.context, train=False
    )
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    full = layer.output(dense(q, k, v, np.asarray(rows.valid)[:, None, None, :]))
    np.testing.assert_allclose(np.asarray(y)[:2], full[:2], atol=2e-5)
    assert np.isfinite(y).all()


def test_longer_rows_and_no_rank_are_refused() -> None:
    message = refusal(lambda: run_layer(Linformer(4), 65))
    assert "64 tokens" in message and "model.max_length=65" in message
    assert "model.attention.rank=0" in refusal(lambda: Linformer(0))
