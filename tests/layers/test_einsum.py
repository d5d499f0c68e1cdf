import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.layers.einsum import WIDE, Einsum, add_bias, einsum
from tests.helpers import unbox

B, L, D, H, K = 2, 7, 24, 3, 8
PROJECT, BACK, TIED = "bld,dhk->blhk", "blhk,hkd->bld", "bld,vd->blv"


def normal(*shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


@pytest.mark.parametrize(
    ("subscripts", "left", "right"),
    [
        (PROJECT, (B, L, D), (D, H, K)),
        (BACK, (B, L, H, K), (H, K, D)),
        (TIED, (B, L, D), (53, D)),
        # Wide on one side and far more tokens than that: the kernel's gradient is made the other way round.
        ("blf,fd->bld", (B, 61, 40), (40, 3)),
        ("bld,vd->blv", (B, 61, 3), (53, 3)),
    ],
)
def test_value_and_both_gradients_equal_numpy(subscripts, left, right):
    x, kernel = normal(*left), normal(*right, seed=1)
    y, pull = jax.vjp(lambda x, kernel: einsum(subscripts, x, kernel, jnp.dtype("float32")), x, kernel)
    grad = normal(*y.shape, seed=2)
    operands, result = subscripts.split("->")
    a, b = operands.split(",")
    np.testing.assert_allclose(y, np.einsum(subscripts, x, kernel), atol=1e-5)
    grad_x, grad_kernel = pull(grad)
    np.testing.assert_allclose(grad_x, np.einsum(f"{result},{b}->{a}", grad, kernel), atol=2e-5)
    np.testing.assert_allclose(grad_kernel, np.einsum(f"{a},{result}->{b}", x, grad), atol=2e-5)


def test_half_precision_products_sum_in_float32():
    """1 + 2¹² terms of 2⁻¹² make 2; a bfloat16 sum would stay near 1, since 1 + 2⁻¹² rounds to 1 there."""
    half = jnp.dtype("bfloat16")
    terms = 2**12
    x = np.concatenate([np.ones(1), np.full(terms, 2.0**-12)]).astype(np.float32)[None, None]
    ones = np.ones((terms + 1, 1), np.float32)
    assert einsum("bld,de->ble", x, ones, half).item() == 2.0
    # The gradient of the kernel sums over positions; that of x over outputs.
    wide, narrow = np.moveaxis(x, 2, 1), np.ones((1, 1), np.float32)
    _, pull = jax.vjp(lambda kernel: einsum("bld,de->ble", wide, kernel, half), narrow)
    (grad,) = pull(jnp.ones((1, terms + 1, 1), half))
    assert grad.dtype == jnp.float32 and grad.item() == 2.0
    _, pull = jax.vjp(lambda y: einsum("bld,ed->ble", y, ones, half), np.ones((1, 1, 1), np.float32))
    (grad,) = pull(jnp.asarray(x, half))
    assert grad.item() == 2.0


def test_gradients_in_half_precision_follow_float32():
    x, kernel = normal(B, L, D), normal(D, H, K, seed=1)

    def gradients(dtype):
        def loss(x, kernel):
            return jnp.square(einsum(PROJECT, x, kernel, jnp.dtype(dtype)).astype(jnp.float32)).sum()

        return jax.grad(loss, (0, 1))(x, kernel)

    for full, half in zip(gradients("float32"), gradients("bfloat16"), strict=True):
        assert half.dtype == jnp.float32
        np.testing.assert_allclose(half, full, atol=0.01 * np.abs(full).max())
        assert np.abs(half - full).max() > 0  # or nothing was computed in half precision


@pytest.mark.parametrize(
    ("subscripts", "shape", "axes", "where"),
    [
        (PROJECT, (D, H, K), ("width", "heads", "head_size"), (H, K)),
        (BACK, (H, K, D), ("heads", "head_size", "width"), (D,)),
    ],
)
def test_bias_lies_over_the_outputs(subscripts, shape, axes, where):
    layer = Einsum(subscripts, shape, axes, jnp.dtype("float32"), jax.nn.initializers.zeros)
    x = normal(B, L, *shape[: -len(where)])
    params = unbox(layer.init(jax.random.key(0), x)["params"])
    assert params["bias"].shape == where
    bias = normal(*where, seed=3)
    y = layer.apply({"params": {**params, "bias": bias}}, x)
    np.testing.assert_array_equal(y, np.broadcast_to(bias, y.shape))


def test_layer_without_bias_has_none():
    shape, axes = (D, D + 1), ("width", "output")
    layer = Einsum("bld,de->ble", shape, axes, jnp.dtype("float32"), jax.nn.initializers.ones, bias=False)
    assert set(layer.init(jax.random.key(0), normal(B, L, D))["params"]) == {"kernel"}


@pytest.mark.parametrize("width", [K, WIDE])
def test_the_gradient_of_a_bias_sums_in_float32(width):
    """1 + 2¹⁰ terms of 2⁻¹⁰ make 2; a bfloat16 sum would stay near 1."""
    half, terms = jnp.dtype("bfloat16"), 2**10
    rows = np.concatenate([np.ones(1), np.full(terms, 2.0**-10)]).astype(np.float32)
    grad = jnp.broadcast_to(rows[None, :, None], (1, terms + 1, width)).astype(half)
    x, kernel = np.ones((1, terms + 1, 2), np.float32), np.ones((2, width), np.float32)
    bias = np.arange(width, dtype=np.float32)
    y, pull = jax.vjp(lambda bias: einsum("bld,df->blf", x, kernel, half, bias), bias)
    np.testing.assert_array_equal(y[0, 0], (2 + bias).astype(half))
    np.testing.assert_array_equal(pull(grad)[0], np.full(width, 2.0))
    y, pull = jax.vjp(lambda bias: add_bias(np.zeros(grad.shape, np.float32), bias), bias)
    np.testing.assert_array_equal(y[0, 3], bias)
    np.testing.assert_array_equal(pull(grad.astype(np.float32))[0], np.full(width, 2.0))
