"""Metrics: pairs that add up, whatever was split."""

import jax
import jax.numpy as jnp
import numpy as np

from bertjax import metrics


def test_adding_parts_gives_the_mean_of_the_whole() -> None:
    random = np.random.default_rng(0)
    values, weights = random.normal(size=60).astype(np.float32), random.integers(0, 3, 60).astype(np.float32)
    for cuts in ([60], [1, 59], [7, 20, 33], [0, 60]):
        parts = np.split(np.arange(60), np.cumsum(cuts)[:-1])
        total = metrics.add(
            {"x": metrics.weighted(jnp.asarray(values[part]), jnp.asarray(weights[part]))} for part in parts
        )
        mean = (values * weights).sum() / weights.sum()
        np.testing.assert_allclose(metrics.means(total)["x"], mean, rtol=1e-5)
        assert type(metrics.means(total)["x"]) is float


def test_parts_may_measure_different_things() -> None:
    parts = [{"a": (1.0, 2.0)}, {"b": (3.0, 4.0)}, {"a": (2.0, 1.0), "b": (5.0, 0.0)}]
    assert metrics.add(parts) == {"a": (3.0, 3.0), "b": (8.0, 4.0)}
    assert metrics.add([]) == {}


def test_what_nothing_contributed_to_is_left_out_and_nan_is_kept() -> None:
    found = metrics.means({"none": (0.0, 0.0), "some": (1.0, 4.0), "broken": (float("nan"), 1.0)})
    assert set(found) == {"some", "broken"} and found["some"] == 0.25 and np.isnan(found["broken"])


def test_cross_entropy_against_numpy() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(2, 5, 53)) * 5, random.integers(0, 53, (2, 5))
    want = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, labels[..., None], -1)[..., 0]
    found = metrics.cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)


def test_cross_entropy_is_computed_in_float32_and_survives_large_logits() -> None:
    logits = jnp.asarray([[100.0, -100.0, 99.5]], jnp.bfloat16)
    found = metrics.cross_entropy(logits, jnp.asarray([2]))
    assert found.dtype == jnp.float32
    wide = np.asarray(logits, np.float64)[0]
    np.testing.assert_allclose(found[0], np.logaddexp(wide[0], wide[2]) - wide[2], atol=1e-5)


def test_the_gradient_of_cross_entropy_is_softmax_minus_one_hot() -> None:
    random = np.random.default_rng(1)
    logits, labels = random.normal(size=(2, 7, 53)).astype(np.float32), random.integers(0, 53, (2, 7))
    weights = random.random((2, 7)).astype(np.float32)

    def loss(logits: jax.Array) -> jax.Array:
        return (metrics.cross_entropy(logits, jnp.asarray(labels)) * weights).sum()

    power = np.exp(logits.astype(np.float64))
    wanted = (power / power.sum(-1, keepdims=True) - np.eye(53)[labels]) * weights[..., None]
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(logits), wanted, atol=1e-6)


def test_the_first_of_equal_logits_is_the_prediction() -> None:
    logits = np.random.default_rng(2).integers(0, 4, (200, 7)).astype(np.float32)  # mostly ties
    for label in range(7):
        found = metrics.is_first(jnp.asarray(logits), jnp.full(200, label))
        np.testing.assert_array_equal(found, logits.argmax(-1) == label)
