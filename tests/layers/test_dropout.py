import jax
import jax.numpy as jnp
import numpy as np

from bertjax.layers.dropout import Dropout


def drop(rate, x, seed=0, train=True):
    return Dropout(rate).apply({}, x, train=train, rngs={"dropout": jax.random.key(seed)})


def test_keeps_a_share_and_scales_what_is_kept():
    x = jnp.full((100, 1000), 3.0)
    y = np.asarray(drop(0.25, x))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 4.0, rtol=1e-6)
    # A binomial share of 1e5 draws has a standard deviation of 0.0014.
    assert abs(kept.mean() - 0.75) < 0.007


def test_is_the_identity_outside_of_training_and_without_a_rate():
    x = jnp.arange(5.0)
    np.testing.assert_array_equal(drop(0.5, x, train=False), x)
    np.testing.assert_array_equal(drop(0.0, x), x)


def test_follows_its_key_and_keeps_the_dtype():
    x = jnp.ones((50,), jnp.bfloat16)
    assert drop(0.5, x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(np.asarray(drop(0.5, x), np.float32), np.asarray(drop(0.5, x), np.float32))
    assert (drop(0.5, x) != drop(0.5, x, seed=1)).any()


def test_gradient_flows_where_the_value_does():
    x = jnp.linspace(1.0, 2.0, 40)
    y, grad = drop(0.5, x), jax.grad(lambda x: drop(0.5, x).sum())(x)
    np.testing.assert_allclose(grad, np.where(np.asarray(y) != 0, 2.0, 0.0))


def test_elements_are_dropped_independently():
    kept = np.asarray(drop(0.3, jnp.ones((3, 4, 256, 256)))) != 0
    both = [kept[..., 1:] & kept[..., :-1], kept[..., 1:, :] & kept[..., :-1, :], kept[:, 1:] & kept[:, :-1]]
    both += [
        kept[1:] & kept[:-1],
        kept[..., 16:] & kept[..., :-16],
        kept & (np.asarray(drop(0.3, jnp.ones(kept.shape), 1)) != 0),
    ]
    for pairs in both:  # a share of about 6e5 draws has a standard deviation of 0.0007
        assert abs(pairs.mean() - 0.49) < 0.003
    counts = kept.sum(-1)  # of rows of 256: binomial, neither all alike nor uneven
    assert abs(counts.std() - (256 * 0.3 * 0.7) ** 0.5) < 0.4


def test_a_jitted_gradient_drops_what_the_value_drops():
    x = jnp.linspace(1.0, 2.0, 6 * 50).reshape(6, 50)
    key = jax.random.key(3)

    @jax.jit
    def both(x, key):
        return jax.vjp(lambda x: Dropout(0.4).apply({}, x, train=True, rngs={"dropout": key}), x)[1](x)[0]

    y = Dropout(0.4).apply({}, x, train=True, rngs={"dropout": key})
    np.testing.assert_allclose(both(x, key), y, rtol=1e-6)
