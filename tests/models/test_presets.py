"""Parameter counts, pinned to published ones."""

import dataclasses
import functools

import jax
import pytest

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import Rope
from bertjax.models.heads import MaskedLmHead, PooledHead
from bertjax.models.network import Network
from bertjax.models.presets import PRESETS
from tests.helpers import make_batch


def count(config, *, heads=True):
    """Parameters with a vocabulary that is not padded, and BERT's two pretraining heads."""
    config = dataclasses.replace(config, vocab_multiple=1, scan=True)
    modules = {"mlm": MaskedLmHead(config, "mlm"), "nsp": PooledHead(config, 2)} if heads else {}
    network = Network(config, modules)
    start = functools.partial(network.init, train=False)
    return sharding.count(jax.eval_shape(start, jax.random.key(0), make_batch())["params"])


def test_bert_base():
    """109,482,240 in the encoder and its pooler, 622,650 in the masked-LM head, 1,538 in next-sentence."""
    assert count(PRESETS["base"], heads=False) == 109_482_240
    assert count(PRESETS["base"]) == 110_106_428
    assert count(dataclasses.replace(PRESETS["base"], tied=False)) == 110_106_428 + 30522 * 768


@pytest.mark.parametrize(
    ("name", "millions"),
    [("tiny", 4.4), ("mini", 11.3), ("small", 29.1), ("medium", 41.7), ("base", 110.1)],
)
def test_small_sizes_are_those_of_their_table(name, millions):
    assert round(count(PRESETS[name]) / 1e6, 1) == millions


def test_albert_base():
    """12 M: one layer, 128 wide tables and a projection; the encoder with its pooler alone."""
    albert = EncoderConfig(vocab=30000, embedding_width=128, sharing="all", activation="gelu_tanh")
    assert count(albert, heads=False) == 11_683_584


def test_modernbert_base():
    """149 M: 22 layers, GeGLU of 1152, no biases, no norm before the first attention, a tied head with a bias."""
    modern = EncoderConfig(
        layers=22, feedforward=1152, vocab=50368, types=None, activation="geglu", block="pre",
        first_norm=False, bias=False, norm_bias=False, position=Rope(base=160_000.0),
    )  # fmt: skip
    ours = count(modern) - 2 * 768 - 2 - 768 * 768  # without next-sentence head and pooler
    assert ours == 149_655_232


def test_padding_the_vocabulary_adds_rows():
    padded = PRESETS["tiny"]
    network = Network(padded, {})
    shapes = jax.eval_shape(
        lambda key: network.init(key, make_batch(), train=False)["params"], jax.random.key(0)
    )
    assert sharding.count(shapes) == count(padded, heads=False) + (30592 - 30522) * 128
