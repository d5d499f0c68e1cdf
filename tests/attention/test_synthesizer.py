"""Synthesizers against numpy."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from bertjax.attention.synthesizer import Synthesizer
from tests.attention.battery import refusal
from tests.attention.plain import BASE, Layer, matrix, ragged, run_layer, scores_of, softmax

KINDS = ("dense", "factorised_dense", "random", "factorised_random", "content")


def scores(layer: Layer, kind: str, places: np.ndarray) -> np.ndarray:
    """Made-up scores [B H L M] for tokens that stand at `places` [B L]."""
    part = lambda name: np.asarray(layer.parameters[name], np.float64)  # noqa: E731
    row = np.arange(3)[:, None, None, None]
    head = np.arange(BASE.heads)[None, :, None, None]
    token = np.arange(places.shape[1])[None, None, :, None]
    key, query = places[:, None, None, :], places[:, None, :, None]
    if kind == "content":
        return scores_of(layer.project("query"), layer.project("key"))
    if kind == "dense":
        hidden = np.maximum(layer.project("dense_hidden"), 0)
        last = {name: np.asarray(value, np.float64) for name, value in layer.parameters["dense"].items()}
        made = np.einsum("blhk,mhk->bhlm", hidden, last["kernel"]) + last["bias"]
        return made[row, head, token, key]
    if kind == "factorised_dense":  # 64 = 8 x 8
        coarse, fine = layer.project("factorised_coarse"), layer.project("factorised_fine")
        return coarse[row, token, head, key // 8] * fine[row, token, head, key % 8]
    if kind == "random":
        return part("random")[head, query, key]
    return np.einsum("phr,qhr->hpq", part("factorised_query"), part("factorised_key"))[head, query, key]


@pytest.mark.parametrize("kinds", [*((kind,) for kind in KINDS), KINDS], ids=",".join)
@pytest.mark.parametrize("packed", [False, True])
def test_equals_numpy(kinds: Any, packed: bool) -> None:
    length = 11
    mask = ragged(length, packed)
    places = np.broadcast_to(np.arange(length), (3, length))
    if packed:
        places = np.where(places >= 5, places - 5, places)
    else:
        mask = dataclasses.replace(mask, segments=None)
    layer = run_layer(Synthesizer(kinds), length, mask, positions=places)
    shares = softmax(np.asarray(layer.parameters["mixture"])) if len(kinds) > 1 else [1.0]
    total = sum(share * scores(layer, kind, places) for share, kind in zip(shares, kinds, strict=True))
    weights = softmax(np.where(matrix(ragged(length, packed)), total, -1e30))
    layer.check(np.einsum("bhlm,bmhk->blhk", weights, layer.project("value")), np.asarray(mask.valid))


def test_what_makes_no_scores_is_refused() -> None:
    assert "model.attention.kinds=" in refusal(lambda: Synthesizer(()))
    assert "dense,dense" in refusal(lambda: Synthesizer(("dense", "dense")))
    assert "model.max_length=65" in refusal(lambda: run_layer(Synthesizer(), 65))
