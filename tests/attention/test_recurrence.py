"""Sums in blocks against sums over a full matrix, in numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.recurrence import hide, running_sum, visible_sum
from bertjax.layers.mask import AttentionMask
from tests.attention.battery import FAST, refusal
from tests.attention.plain import matrix

LENGTHS = [(11, 4), (12, 4), (3, 4), (8, 1)]


def draw(length: int) -> tuple[np.ndarray, ...]:
    """q, k [2 L 3 5], v [2 L 3 6] and decays [2 L 3]."""
    rng = np.random.default_rng(length)
    q, k = rng.standard_normal((2, 2, length, 3, 5)).astype(np.float32)
    v = rng.standard_normal((2, length, 3, 6)).astype(np.float32)
    return q, k, v, -rng.random((2, length, 3)).astype(np.float32)


def documents(length: int) -> AttentionMask:
    """A row of documents of 1, 5 and the rest but two tokens; a row of one document and a token of padding."""
    index = np.arange(length)
    first = np.where(index < 1, 1, np.where(index < 6, 2, 3)) * (index < max(length - 2, 1))
    segments = np.stack([first, (index < length - 1).astype(int)])
    return AttentionMask(valid=jnp.asarray(segments > 0), segments=jnp.asarray(segments.astype(np.int32)))


def seen(mask: AttentionMask, length: int) -> np.ndarray:
    """Pairs that a mask allows [2 1 L L]."""
    pairs = np.ones((2, 1, length, length), bool) if mask.segments is None else matrix(mask)
    return pairs & np.tri(length, dtype=bool) if mask.causal else pairs


@pytest.mark.parametrize(("length", "block"), LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_visible_sum(length: int, block: int, packed: bool, causal: bool) -> None:
    q, k, v, _ = draw(length)
    mask = dataclasses.replace(documents(length) if packed else AttentionMask(), causal=causal)
    compute = jax.jit(
        lambda q, k, v: visible_sum(q, hide(k, mask), v, mask, block=block), compiler_options=FAST
    )
    ours = compute(q, k, v)
    products = np.einsum("blhr,bmhr->bhlm", q, k) * seen(mask, length)
    theirs = np.einsum("bhlm,bmhk->blhk", products, v)
    keep = np.ones((2, length), bool) if mask.valid is None else np.asarray(mask.valid)
    np.testing.assert_allclose(np.asarray(ours)[keep], theirs[keep], atol=2e-5)


@pytest.mark.parametrize(("length", "block"), LENGTHS)
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
def test_running_sum(length: int, block: int, packed: bool, heads: int) -> None:
    q, k, v, decay = draw(length)
    q, k = q[:, :, :heads], k[:, :, :heads]
    mask = documents(length) if packed else AttentionMask()

    def compute(*given: jax.Array) -> jax.Array:
        return running_sum(*(hide(x, mask) for x in given), mask.segments, block=block)

    ours = jax.jit(compute, compiler_options=FAST)(q, k, v, decay)
    total = np.cumsum(np.moveaxis(decay, 2, 1), axis=-1)
    weights = np.exp(np.minimum(total[..., :, None] - total[..., None, :], 0))
    weights = weights * (seen(mask, length) & np.tri(length, k=-1, dtype=bool))
    products = np.einsum("blhr,bmhr->bhlm", q, k)
    theirs = np.einsum("bhlm,bmhk->blhk", products * weights, v)
    keep = np.ones((2, length), bool) if mask.valid is None else np.asarray(mask.valid)
    np.testing.assert_allclose(np.asarray(ours)[keep], theirs[keep], atol=2e-5)


def test_forgetting_at_once_has_finite_gradients() -> None:
    q, k, v, decay = (jnp.asarray(x) for x in draw(9))
    loss = lambda *given: running_sum(*given, None, block=4).sum()  # noqa: E731
    found = jax.jit(jax.grad(loss, (0, 1, 2, 3)), compiler_options=FAST)(q, k, v, 500 * decay)
    assert all(np.isfinite(x).all() for x in found)


def test_a_window_is_refused() -> None:
    q, k, v, _ = (jnp.asarray(x) for x in draw(5))
    message = refusal(lambda: visible_sum(q, k, v, AttentionMask(window=(2, 2))))
    assert "window" in message
