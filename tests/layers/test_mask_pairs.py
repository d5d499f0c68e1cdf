"""Chosen pairs obey the same rules as the matrix, and global tokens loosen windows and nothing else."""

import dataclasses
import itertools
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.layers.mask import AttentionMask

L = 7
VALID = np.array([[1] * 7, [1] * 5 + [0] * 2, [0] * 7], bool)
SEGMENTS = np.array([[1, 1, 1, 2, 2, 3, 3], [1, 2, 2, 2, 3, 0, 0], [0] * 7], np.int32)
GLOBALS = np.array([[1, 0, 0, 1, 0, 0, 0], [0, 1, 0, 0, 0, 1, 0], [0] * 7], bool)
KINDS = list(
    itertools.product((None, VALID), (None, SEGMENTS), (False, True), (None, (1, 2)), (None, GLOBALS))
)


@pytest.mark.parametrize(("valid", "segments", "causal", "window", "globals_"), KINDS)
def test_pairs_equal_the_matrix(valid: Any, segments: Any, causal: bool, window: Any, globals_: Any) -> None:
    mask = AttentionMask(valid, segments, causal, window, globals_)
    whole = np.broadcast_to(mask.matrix(L, L), (3, 1, L, L))[:, 0]
    index = jnp.arange(L, dtype=jnp.int32)
    found = mask.pairs(index[None, :, None], index[None, None, :])
    np.testing.assert_array_equal(np.broadcast_to(found, (3, L, L)), whole)

    draw = np.random.default_rng(0)  # pairs that differ from row to row, in blocks of 2 x 5
    queries, keys = draw.integers(0, L, (3, 4, 2, 1), np.int32), draw.integers(0, L, (3, 4, 1, 5), np.int32)
    rows = np.arange(3)[:, None, None, None]
    found = np.broadcast_to(mask.pairs(jnp.asarray(queries), jnp.asarray(keys)), (3, 4, 2, 5))
    np.testing.assert_array_equal(found, whole[rows, queries, keys])


def test_an_index_outside_the_row_sees_nothing() -> None:
    mask = AttentionMask(valid=VALID)
    index = jnp.asarray([-1, 0, L], jnp.int32)
    found = np.asarray(mask.pairs(index[None, :, None], index[None, None, :]))
    assert found[0].tolist() == [[False] * 3, [False, True, False], [False] * 3]


def test_global_tokens_see_and_are_seen_beyond_the_window() -> None:
    narrow = AttentionMask(window=(0, 0))
    found = np.asarray((narrow & AttentionMask(globals=GLOBALS)).matrix(L, L))[:, 0]
    expected = np.eye(L, dtype=bool)[None] | GLOBALS[:, :, None] | GLOBALS[:, None, :]
    np.testing.assert_array_equal(found, expected)


def test_global_tokens_are_given_once_and_are_no_interval() -> None:
    mask = AttentionMask(globals=GLOBALS)
    with pytest.raises(ValueError, match="global tokens cannot be combined"):
        mask & mask
    with pytest.raises(ValueError, match="longformer"):
        dataclasses.replace(mask, window=(1, 1)).intervals(L, 3)
    start, end = mask.intervals(L, 3)  # without a window they change nothing
    assert (np.asarray(start) == 0).all() and (np.asarray(end) == L).all()
