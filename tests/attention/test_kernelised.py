"""Linear attention, cosFormer and Performer against sums over a full matrix, in numpy."""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import AttentionOptions, make_attention
from bertjax.attention.cosformer import Cosformer
from bertjax.attention.linear import Linear
from bertjax.attention.performer import Performer, orthogonal_directions
from bertjax.layers.config import Full
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position.rope import Rope, turn
from tests.attention.battery import FAST, refusal
from tests.attention.plain import BASE, Layer, dense, matrix, ragged, run_layer

Features = Callable[[np.ndarray, Layer], np.ndarray]


def positions(layer: Layer) -> np.ndarray:
    return np.asarray(layer.context.positions, np.float64)


def elu_features(x: np.ndarray, layer: Layer) -> np.ndarray:
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def directions() -> np.ndarray:
    """The draw of a layer with thirteen random features."""
    key = jax.random.fold_in(jax.random.key(0), 0)
    w = orthogonal_directions(key, heads=BASE.heads, features=13, size=BASE.key_size)
    return np.asarray(w, np.float64)


def softmax_features(x: np.ndarray, layer: Layer) -> np.ndarray:
    """Performer's exp(w x - |x|²/2), whose products are exp(q k) in the mean."""
    x = x * x.shape[-1] ** -0.25
    return np.exp(np.einsum("blhk,hrk->blhr", x, directions()) - np.square(x).sum(-1, keepdims=True) / 2)


def relu_features(x: np.ndarray, layer: Layer) -> np.ndarray:
    """Performer's other kernel."""
    x = x * x.shape[-1] ** -0.25
    return np.maximum(np.einsum("blhk,hrk->blhr", x, directions()), 0) + 1e-3


def weighted(products: np.ndarray, allowed: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Values, averaged with non-negative weights [B H L M]."""
    weights = products * allowed
    total = np.maximum(weights.sum(-1, keepdims=True), 1e-9)  # padding sees nothing
    return np.einsum("bhlm,bmhk->blhk", weights / total, v)


@pytest.mark.parametrize(
    ("options", "features"),
    [(Linear(), elu_features), (Performer(13), softmax_features), (Performer(13, "relu"), relu_features)],
)
@pytest.mark.parametrize("length", [10, 300])  # in one block, and across several
@pytest.mark.parametrize("packed", [False, True])
def test_equals_a_full_matrix(
    options: AttentionOptions, features: Features, length: int, packed: bool
) -> None:
    mask = ragged(length, packed)
    if not packed:
        mask = dataclasses.replace(mask, segments=None)
    layer = run_layer(options, length, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    products = np.einsum("blhr,bmhr->bhlm", features(q, layer), features(k, layer))
    layer.check(weighted(products, matrix(ragged(length, packed)), v), np.asarray(mask.valid))


@pytest.mark.parametrize("length", [10, 80])  # within model.max_length, and past it
def test_cosformer_weighs_by_the_cosine_of_the_distance(length: int) -> None:
    mask = ragged(length)
    layer = run_layer(Cosformer(), length, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    products = np.einsum("blhr,bmhr->bhlm", np.maximum(q, 0), np.maximum(k, 0))
    place = positions(layer)
    near = np.cos(math.pi / 2 * (place[:, :, None] - place[:, None, :]) / max(BASE.max_length, length))
    layer.check(weighted(products * near[:, None], matrix(mask), v), np.asarray(mask.valid))


def test_rotary_positions_turn_the_numerator_of_linear_attention() -> None:
    rope = Rope()
    layer = run_layer(Linear(), 10, AttentionMask(), position=rope)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    q, k = elu_features(q, layer), elu_features(k, layer)
    turned = [np.asarray(turn(rope, jnp.asarray(x, jnp.float32), layer.context.positions)) for x in (q, k)]
    above = np.einsum("blhr,bmhr,bmhk->blhk", *turned, v)
    below = np.einsum("blhr,bmhr->blh", q, k)[..., None]
    layer.check(above / below)


@pytest.mark.parametrize("packed", [False, True])
def test_performer_estimates_softmax_attention(packed: bool) -> None:
    """The error falls like one over the square root of the number of features."""
    layer = run_layer(Full(), 12, ragged(12, packed))
    keep = np.asarray(layer.context.mask.valid)
    # Short queries and keys: the variance of the estimate grows with the exponential of their squares.
    for name in ("query", "key"):
        layer.parameters[name] = jax.tree.map(lambda x: 0.3 * x, layer.parameters[name])
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    exact = layer.output(dense(q, k, v, matrix(layer.context.mask)))[keep]
    error = lambda features: np.abs(run_at(layer, Performer(features))(None)[keep] - exact).mean()  # noqa: E731
    few, many = error(64), error(4096)
    assert many < 0.02 * np.abs(exact).mean() and 4 < few / many < 16, (few, many)


def test_directions_are_orthogonal_and_as_long_as_gaussian_vectors() -> None:
    w = np.asarray(orthogonal_directions(jax.random.key(3), heads=50, features=20, size=8), np.float64)
    assert w.shape == (50, 20, 8)
    for block in (w[:, :8], w[:, 8:16], w[:, 16:]):
        gram = np.einsum("hrk,hsk->hrs", block, block)
        off = gram - np.einsum("hrr->hr", gram)[..., None] * np.eye(block.shape[1])
        assert np.abs(off).max() < 1e-4
    squares = np.square(w).sum(-1)
    assert abs(squares.mean() - 8) < 0.5 and 12 < squares.var() < 20  # a chi-square of 8 degrees: 8 and 16
    assert (
        np.abs(w.mean((0, 1))).max() < 0.12
        and np.abs(np.einsum("hrk,hrj->kj", w, w) / 1000 - np.eye(8)).max() < 0.2
    )


def test_the_draw_follows_from_the_seed_and_the_step_alone() -> None:
    layer = run_layer(Performer(16, redraw=10), 6)
    at = run_at(layer, Performer(16, redraw=10))
    first = at(None)
    np.testing.assert_allclose(first, layer.y, atol=1e-5)
    for step in (0, 9):
        np.testing.assert_allclose(at(step), first, atol=1e-5)
    second = at(10)
    assert np.abs(second - first).max() > 1e-3
    np.testing.assert_array_equal(at(19), second)
    assert np.abs(at(20) - second).max() > 1e-3
    np.testing.assert_allclose(run_at(layer, Performer(16, redraw=None))(25), first, atol=1e-5)
    assert np.abs(run_at(layer, Performer(16, redraw=10, seed=1))(None) - first).max() > 1e-3


def run_at(layer: Layer, options: Performer) -> Callable[[int | None], np.ndarray]:
    """The layer's output at a step of training, traced as the train step traces it."""
    config = dataclasses.replace(BASE, attention=options)
    module = make_attention(config, options, "attention")

    @functools.partial(jax.jit, compiler_options=FAST)
    def apply(step: jax.Array | None) -> jax.Array:
        context = dataclasses.replace(layer.context, step=step)
        x = jnp.asarray(layer.x, jnp.float32)
        return module.apply({"params": layer.parameters}, x, context, train=False)

    return lambda step: np.asarray(apply(None if step is None else jnp.asarray(step)))


def test_layers_in_turn_have_draws_of_their_own() -> None:
    seeds = [options.seed for options in Performer(draws=3, seed=2).period()]
    assert seeds == [6, 7, 8]
    assert Performer().period() == (Performer(),)


def test_nothing_to_attend_to_is_no_division_by_zero() -> None:
    nothing = AttentionMask(valid=jnp.zeros((3, 6), bool), segments=jnp.zeros((3, 6), jnp.int32))
    for options in (Linear(), Cosformer(), Performer(16)):
        assert np.isfinite(run_layer(options, 6, nothing).y).all()


def test_sizes_without_meaning_are_refused() -> None:
    assert "model.attention.redraw=0" in refusal(lambda: Performer(redraw=0))
