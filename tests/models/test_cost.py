"""The operations that are read off the program against a count by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from bertjax import sharding
from bertjax.attention.feedforward_only import FeedforwardOnly
from bertjax.attention.grouped_query import GroupedQuery
from bertjax.attention.linear import Linear
from bertjax.attention.linformer import Linformer
from bertjax.attention.window import Window
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.position import Rope
from bertjax.models.cost import count_products, flops_per_token, stack_flops
from tests.helpers import small

D, H, K, F, N, C = 24, 3, 8, 40, 2, 16


def by_hand(*, head_size=K, matrices=2, layers=N, seen=C):
    """Forward operations per token: projections, feed-forward, scores and weighted values."""
    return layers * (2 * (4 * D * H * head_size + matrices * D * F) + 4 * seen * H * head_size)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, by_hand()),
        ({"scan": True, "remat": "block"}, by_hand()),
        ({"layers": 5}, by_hand(layers=5)),
        ({"head_size": 5}, by_hand(head_size=5)),
        ({"activation": "geglu"}, by_hand(matrices=3)),
        ({"block": "parallel", "bias": False}, by_hand()),
        ({"block": "sandwich", "norm": "rmsnorm", "position": Rope(fraction=0.5)}, by_hand()),
        ({"sharing": "all"}, by_hand()),  # fewer parameters, the same work
        ({"sharing": "attention", "embedding_width": 10, "tied": False}, by_hand()),
        ({"dtype": "bfloat16", "dropout": 0.1}, by_hand()),
    ],
    ids=str,
)
def test_stack_by_hand(changes, expected):
    assert stack_flops(small(**changes), C) == expected


def test_bert_base_by_hand():
    """6 N + 12 c H K layers + 6 p (D V + D²), at a length between the two that are counted."""
    base = EncoderConfig()
    expected = 6 * 12 * 7_077_888 + 12 * 300 * 768 * 12 + 6 * 0.15 * 768 * (30592 + 768)
    assert flops_per_token(base, attended=300.0, predicted=0.15) == pytest.approx(expected)
    narrow = EncoderConfig(embedding_width=128)
    expected += 6 * 768 * 128 + 6 * 0.15 * (128 - 768) * (30592 + 768)
    assert flops_per_token(narrow, attended=300.0, predicted=0.15) == pytest.approx(expected)


def test_every_number_of_attended_tokens_has_a_cost():
    """From none to more than the model was trained on; as linear as full attention is."""
    costs = [
        flops_per_token(small(), attended=length, predicted=0.1) for length in (0.0, 1.0, 11.5, 16.0, 99.0)
    ]
    slope = 12 * H * K * N
    assert costs == pytest.approx([costs[0] + slope * length for length in (0.0, 1.0, 11.5, 16.0, 99.0)])


def test_fixed_lengths_are_not_exceeded():
    """A variant with parameters for 12 tokens refuses 16."""
    fixed = small(attention=Linformer(4), max_length=12)
    with pytest.raises(ValueError, match="12 tokens and the row has 16"):
        stack_flops(fixed, 16)
    between, longest = (flops_per_token(fixed, attended=length, predicted=0.1) for length in (10.0, 12.0))
    assert between == pytest.approx(longest, rel=0.01)  # keys are compressed to four, however many there are


def test_sparse_and_linear_kinds_cost_what_they_see():
    """A linear kind the same at every length; a window no more than its blocks; full attention all."""
    growth = {
        options: stack_flops(small(attention=options), 128) - stack_flops(small(attention=options), 64)
        for options in (Full(), Window(8), Linear())
    }
    assert growth[Full()] == N * 4 * 64 * H * K
    assert growth[Window(8)] == 0
    assert abs(growth[Linear()]) < 0.01 * growth[Full()]


def test_variants_have_their_price_without_a_formula():
    """No attention at all, and keys and values of one head for three."""
    assert stack_flops(small(attention=FeedforwardOnly()), C) == N * 4 * D * F
    fewer = N * 2 * 2 * D * (H - 1) * K
    assert stack_flops(small(attention=GroupedQuery(groups=1)), C) == by_hand() - fewer


def products(function, *arguments):
    return count_products(jax.make_jaxpr(function)(*arguments).jaxpr)


def shape(*sizes):
    return jax.ShapeDtypeStruct(sizes, jnp.float32)


@jax.custom_vjp
def product(x, y):
    return x @ y


product.defvjp(lambda x, y: (x @ y, (x, y)), lambda saved, grad: (grad @ saved[1].T, saved[0].T @ grad))


def test_products_inside_of_everything_are_counted():
    x, y, one = shape(3, 5), shape(5, 7), 2 * 3 * 5 * 7
    assert products(jnp.matmul, x, y) == one
    assert products(lambda x, y: jnp.einsum("bij,bjk->bik", x, y), shape(4, 3, 5), shape(4, 5, 7)) == 4 * one
    assert products(lambda x, y: x + y, x, x) == 0
    for inside in (jax.jit(jnp.matmul), jax.checkpoint(jnp.matmul), product):
        assert products(inside, x, y) == one
    assert products(jax.grad(lambda x, y: (product(x, y) ** 2).sum(), (0, 1)), x, y) == 3 * one


def test_loops_count_as_often_as_they_run():
    x, w, one = shape(3, 5), shape(5, 5), 2 * 3 * 5 * 5
    scan = lambda x, w: jax.lax.scan(lambda carry, _: (carry @ w, None), x, length=11)[0]  # noqa: E731
    assert products(scan, x, w) == 11 * one
    longer = lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x)  # noqa: E731
    assert products(longer, x, w) == 2 * one
    fixed = lambda x, w: jax.lax.fori_loop(0, 4, lambda _, x: x @ w, x)  # noqa: E731
    assert products(fixed, x, w) == 4 * one
    idle = lambda x: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x + 1, x)  # noqa: E731
    assert products(idle, x) == 0
    endless = lambda x, w: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)  # noqa: E731
    with pytest.raises(ValueError, match="while loop"):
        products(endless, x, w)


def test_convolutions_and_transforms_are_counted():
    convolve = lambda x, w: jax.lax.conv_general_dilated(x, w, (1,), "VALID")  # noqa: E731
    assert products(convolve, shape(2, 4, 9), shape(6, 4, 3)) == 2 * (2 * 6 * 7) * (4 * 3)
    assert products(jnp.fft.fft2, shape(2, 8, 16)) == pytest.approx(5 * 2 * 8 * 16 * math.log2(8 * 16))
    assert products(jnp.fft.fft, shape(2, 8)) == 5 * 16 * 3


def test_one_row_is_counted_on_a_mesh_of_eight():
    """The count is of one row, which the mesh of the run could not split."""
    config = small(layers=4)  # no other test's, so that it is traced here
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2, rules="fsdp"))
    with sharding.activate(mesh, "fsdp"):
        assert stack_flops(config, C) == by_hand(layers=4)
