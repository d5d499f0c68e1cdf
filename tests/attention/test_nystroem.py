"""Nystroemformer against numpy, and its convergence to full attention."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.filters import BLOCK, convolve
from bertjax.attention.nystroem import Nystroem, norms, pseudo_inverse, stretches
from tests.attention.battery import refusal
from tests.attention.plain import Layer, dense, matrix, ragged, run_layer, softmax


def through_landmarks(layer: Layer, landmarks: int) -> np.ndarray:
    """Each row on its own, without its padding, with the exact pseudo-inverse."""
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    y = np.zeros_like(v)
    assert layer.context.mask.valid is not None
    for row, number in enumerate(np.asarray(layer.context.mask.valid).sum(1)):
        parts = [np.nonzero(np.arange(number) * landmarks // number == i)[0] for i in range(landmarks)]
        for head in range(q.shape[2]):
            one_q, one_k, one_v = (x[row, :number, head] for x in (q, k, v))
            scale = np.sqrt(q.shape[-1])
            few_q, few_k = (np.stack([x[part].mean(0) for part in parts]) for x in (one_q, one_k))
            core = np.linalg.pinv(softmax(few_q @ few_k.T / scale))
            y[row, :number, head] = (
                softmax(one_q @ few_k.T / scale) @ core @ softmax(few_q @ one_k.T / scale) @ one_v
            )
    return y


@pytest.mark.parametrize(("length", "landmarks"), [(12, 4), (13, 3)])
def test_equals_numpy(length: int, landmarks: int) -> None:
    mask = ragged(length)
    # More rounds than anybody needs, so that the iteration is the inverse that numpy has.
    layer = run_layer(Nystroem(landmarks, convolution=None, rounds=30), length, mask)
    close(layer, through_landmarks(layer, landmarks), np.asarray(mask.valid))


def close(layer: Layer, y: np.ndarray, keep: np.ndarray) -> None:
    """Wider than elsewhere: the small matrix has a condition of 100 and more, and its inverse is made in float32."""
    theirs = layer.output(y)[keep]
    np.testing.assert_allclose(layer.y[keep], theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_skip_convolves_the_values() -> None:
    mask = ragged(12)
    keep = np.asarray(mask.valid)
    layer = run_layer(Nystroem(4, convolution=5, rounds=30), 12, mask)
    v = layer.project("value") * keep[:, :, None, None]
    taps = np.asarray(layer.parameters["convolution"], np.float64)
    padded = np.pad(v, ((0, 0), (2, 2), (0, 0), (0, 0)))
    skip = sum(padded[:, tap : tap + 12] * taps[tap][None, None, :, None] for tap in range(5))
    close(layer, through_landmarks(layer, 4) + skip, keep)


def test_short_rows_are_exact() -> None:
    mask = ragged(12)
    layer = run_layer(Nystroem(12, convolution=None), 12, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    layer.check(dense(q, k, v, matrix(mask)), np.asarray(mask.valid))


def test_more_padding_changes_nothing() -> None:
    short, long = (stretches(jnp.arange(n)[None] < 10, 4) for n in (11, 17))
    np.testing.assert_array_equal(short[0], long[0][:, :, :11])
    assert not np.asarray(long[0])[:, :, 10:].any() and short[1].all()
    few = stretches(jnp.arange(6)[None] < 2, 4)
    np.testing.assert_array_equal(few[1], [[True, False, True, False]])
    np.testing.assert_array_equal(np.asarray(few[0]).sum(-1), [[1, 0, 1, 0]])


def test_the_iteration_finds_the_pseudo_inverse() -> None:
    draw = np.random.default_rng(0).standard_normal((2, 3, 5, 5))
    x = softmax(2 * draw).astype(np.float32)
    x[0, :, 4], x[0, :, :, 4] = 0, 0  # an empty stretch
    found = jax.jit(lambda x: pseudo_inverse(x, 25))(x)
    np.testing.assert_allclose(found, np.linalg.pinv(x), atol=2e-3)


@pytest.mark.parametrize(
    ("length", "width"), [(7, 3), (BLOCK, 9), (2 * BLOCK + 5, 2 * BLOCK + 3), (9, 1), (5, 9)]
)
def test_convolve(length: int, width: int) -> None:
    rng = np.random.default_rng(width)
    x, taps = rng.standard_normal((2, length, 3, 4)), rng.standard_normal((width, 3))
    half = width // 2
    padded = np.pad(x, ((0, 0), (half, half), (0, 0), (0, 0)))
    theirs = sum(padded[:, tap : tap + length] * taps[tap][None, None, :, None] for tap in range(width))
    ours = jax.jit(convolve)(jnp.asarray(x, jnp.float32), jnp.asarray(taps, jnp.float32))
    np.testing.assert_allclose(ours, theirs, atol=5e-5)


def test_sizes_without_meaning_are_refused() -> None:
    assert "model.attention.convolution=4" in refusal(lambda: Nystroem(convolution=4))
    assert "model.attention.landmarks=0" in refusal(lambda: Nystroem(landmarks=0))


def test_padding_may_be_mixed_in() -> None:
    """As in published models: landmarks are means of padding, too, and the convolution reads its values."""
    mask, length, landmarks = ragged(12), 12, 4
    keep = np.asarray(mask.valid)
    assert not keep.all()
    layer = run_layer(Nystroem(landmarks, convolution=3, rounds=30, padding="mixed"), length, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    few_q, few_k = (x.reshape(3, landmarks, -1, *x.shape[2:]).mean(2) for x in (q, k))
    scale = np.sqrt(q.shape[-1])
    y = np.zeros_like(v)
    for row, head in np.ndindex(3, 4):
        one_q, one_k, fq, fk = (x[row, :, head] / np.sqrt(scale) for x in (q, k, few_q, few_k))
        gathered = softmax(np.where(keep[row], fq @ one_k.T, -1e30)) @ v[row, :, head]
        y[row, :, head] = softmax(one_q @ fk.T) @ np.linalg.pinv(softmax(fq @ fk.T)) @ gathered
    taps = np.asarray(layer.parameters["convolution"], np.float64)
    padded = np.pad(v, ((0, 0), (1, 1), (0, 0), (0, 0)))
    skip = sum(padded[:, tap : tap + 12] * taps[tap][None, None, :, None] for tap in range(3))
    close(layer, y + skip, keep)


def test_one_start_for_a_batch_is_its_largest_norm() -> None:
    """Rows without a token do not count; each matrix alone starts from its own."""
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(3, 2, 4, 4)), jnp.float32)
    each = np.asarray(x).sum(-2).max(-1)
    np.testing.assert_allclose(np.asarray(norms(x))[:, :, 0, 0], each, rtol=1e-6)
    counts = np.array([True, True, False]) if each[2].max() == each.max() else np.array([True, False, True])
    found = norms(x, jnp.asarray(counts)[:, None, None, None])
    np.testing.assert_allclose(np.asarray(found)[0, 0, 0, 0], each[counts].max(), rtol=1e-6)
