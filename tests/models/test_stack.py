"""Depth as groups of repeated periods: every layout computes what its layers one by one would compute."""

import dataclasses

import jax
import pytest

from bertjax import attention
from bertjax.attention import Variant
from bertjax.attention.full import FullAttention
from bertjax.layers.config import AttentionOptions, Full, Layout, runs
from bertjax.models.stacking import locate, stack_layers, unstack_layers
from tests.cases import slow_but
from tests.helpers import SMALL, assert_close, encode, loss_and_gradient, make_batch, parameters, small

BATCH = make_batch()


@dataclasses.dataclass(frozen=True)
class Loud(Full):
    """Full attention times a factor: layers that differ and have equal parameters."""

    factor: float = 2.0


class LoudAttention(FullAttention):
    def mix(self, q, k, v, context, *, train):
        return self.options.factor * FullAttention.mix(self, q, k, v, context, train=train)


@dataclasses.dataclass(frozen=True)
class Alternating(AttentionOptions):
    """Full, loud, full, loud, ..."""

    def period(self) -> tuple[AttentionOptions, ...]:
        return (Full(), Loud())


@dataclasses.dataclass(frozen=True)
class DistinctFirst(AttentionOptions):
    """One loud layer, then full ones."""

    def layout(self, layers: int) -> Layout:
        return runs([Loud(factor=3.0)] + [Full()] * (layers - 1))


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    monkeypatch.setitem(attention.ATTENTIONS, "loud", Variant(Loud(), LoudAttention, parameters=0))


def test_layouts():
    full, loud = Full(), Loud()
    assert Full().layout(3) == (((full,), 3),)
    assert Alternating().layout(6) == (((full, loud), 3),)
    assert Alternating().layout(5) == (((full, loud), 2), ((full,), 1))
    assert Alternating().layout(1) == (((full,), 1),)
    assert DistinctFirst().layout(4) == (((Loud(factor=3.0),), 1), ((full,), 3))


def one_by_one(params, config, x_params):
    """The same layers as a stack of single ones, each with its own group."""
    stacked = stack_layers(params)
    stack = {}
    for layer, (path, index) in enumerate(locate(config)):
        block = stacked
        for name in path:
            block = block[name]
        stack[f"group_{layer}"] = {"layers_0": {"block_0": jax.tree.map(lambda p, i=index: p[i], block)}}
    return {**x_params, "stack": stack}


@dataclasses.dataclass(frozen=True)
class Singles(AttentionOptions):
    """Each layer a group of its own."""

    like: AttentionOptions = Full()

    def layout(self, layers: int) -> Layout:
        kinds = [kind for period, repeats in self.like.layout(layers) for kind in period * repeats]
        return tuple(((kind,), 1) for kind in kinds)


@pytest.mark.parametrize(
    "kinds",
    slow_but([Full(), Alternating(), DistinctFirst()], [Alternating(), DistinctFirst()]),
    ids=lambda options: type(options).__name__,
)
def test_groups_scanned_or_not_equal_single_layers(kinds):
    config = small(layers=5, attention=kinds)
    params = parameters(config)
    expected = encode(small(layers=5, attention=Singles(kinds)))(one_by_one(params, config, params), BATCH)
    assert_close(encode(config)(params, BATCH).hidden, expected.hidden)
    value, grad = loss_and_gradient(config)(params, BATCH)
    scanned_value, scanned_grad = loss_and_gradient(small(layers=5, attention=kinds, scan=True))(
        stack_layers(params), BATCH
    )
    assert_close(scanned_value, value)
    assert_close(unstack_layers(scanned_grad), grad, 2e-5)
    if kinds != Full():  # the pattern is not ignored
        plain = encode(small(layers=5, attention=Singles(Full())))(one_by_one(params, config, params), BATCH)
        assert abs(plain.hidden - expected.hidden)[BATCH.mask].max() > 1e-2


def test_scan_compiles_one_period_however_deep():
    """The number of matrix products in the program does not grow with the depth."""

    def products(layers, scan):
        config = small(layers=layers, attention=Alternating(), scan=scan)
        return encode(config).lower(parameters(config), BATCH).as_text().count("dot_general")

    assert products(4, True) == products(12, True)
    assert products(4, False) < products(12, False)


def test_no_layers_are_refused():
    with pytest.raises(ValueError, match="model.layers=0"):
        dataclasses.replace(SMALL, layers=0)
