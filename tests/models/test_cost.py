"""The operations that are read off the program against a count by hand."""

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


def test_products_inside_of_everything_are_counted():
    x, w = jnp.ones((2, 3)), jnp.ones((3, 3))

    @jax.custom_vjp
    def own(x):
        return x @ w

    own.defvjp(lambda x: (own(x), x), lambda x, g: (g,))

    def program(x):
        x = jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=5)[0]  # five times
        x = jax.checkpoint(lambda x: x @ w)(x)
        x = jax.jit(lambda x: own(x))(x)
        return jax.lax.cond(x.sum() > 0, lambda x: x @ w @ w, lambda x: x, x)  # the longer way

    assert count_products(jax.make_jaxpr(program)(x).jaxpr) == (5 + 1 + 1 + 2) * 2 * 2 * 3 * 3
    signal = jnp.ones((2, 8), jnp.complex64)
    assert count_products(jax.make_jaxpr(jnp.fft.fft)(signal).jaxpr) == 5 * 16 * 3


def test_one_row_is_counted_on_a_mesh_of_eight():
    """The count is of one row, which the mesh of the run could not split."""
    config = small(layers=4)  # no other test's, so that it is traced here
    mesh = sharding.make_mesh(sharding.MeshConfig(data=4, fsdp=2, rules="fsdp"))
    with sharding.activate(mesh, "fsdp"):
        assert stack_flops(config, C) == by_hand(layers=4)
