"""The gated attention unit against numpy."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bertjax.attention import Context
from bertjax.attention.gated_unit import GatedUnit
from bertjax.layers.config import EncoderConfig
from bertjax.models.block import Block
from tests.attention.battery import refusal
from tests.attention.plain import Layer, matrix, ragged, run_layer


def silu(x: np.ndarray) -> np.ndarray:
    return x / (1 + np.exp(-x))


def unit(layer: Layer, weights_of: Any) -> np.ndarray:
    """The unit with weights [B L M] made of its views of z."""
    p = jax.tree.map(lambda x: np.asarray(x, np.float64), layer.parameters)
    into = lambda name: silu(layer.x @ p[name]["kernel"] + p[name]["bias"])  # noqa: E731
    views = [into("base") * scale + offset for scale, offset in zip(p["scales"], p["offsets"], strict=True)]
    mixed = np.einsum("blm,bmf->blf", weights_of(*views), into("value"))
    return (into("gate") * mixed) @ p["output"]["kernel"] + p["output"]["bias"]


def squared(q: np.ndarray, k: np.ndarray, allowed: np.ndarray) -> np.ndarray:
    """The squared ReLU over the number of keys seen."""
    number = np.maximum(allowed.sum(-1, keepdims=True), 1)
    return np.square(np.maximum(q @ k.swapaxes(1, 2) / np.sqrt(q.shape[-1]), 0)) * allowed / number


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("form", "length"), [("quadratic", 11), ("chunked", 11), ("chunked", 150)])
def test_equals_numpy(form: Any, length: int, packed: bool, causal: bool) -> None:
    mask = dataclasses.replace(ragged(length, packed), causal=causal)
    if not packed:
        mask = dataclasses.replace(mask, segments=None)
    layer = run_layer(GatedUnit(form, size=5, chunk=4), length, mask)
    allowed = matrix(ragged(length, packed))[:, 0] & (np.tri(length, dtype=bool) if causal else True)
    chunk = np.arange(length) // 4
    near = allowed & (chunk[:, None] == chunk[None])

    def chunked(near_q: np.ndarray, near_k: np.ndarray, q: np.ndarray, k: np.ndarray) -> np.ndarray:
        over = (q @ k.swapaxes(1, 2)) * allowed / np.maximum(allowed.sum(-1, keepdims=True), 1)
        return squared(near_q, near_k, near) + over

    y = unit(layer, chunked if form == "chunked" else lambda q, k: squared(q, k, allowed))
    keep = np.asarray(mask.valid)
    np.testing.assert_allclose(layer.y[keep], y[keep], atol=2e-5 * np.abs(y).max())


@pytest.mark.parametrize("block", ["post", "pre"])
def test_a_block_holds_nothing_else(block: Any) -> None:
    """A base block with four times its width inside has a Transformer block's parameters."""
    config = EncoderConfig(attention=GatedUnit(), block=block)
    x = jax.ShapeDtypeStruct((3, 8, config.width), jnp.float32)

    def parameters(config: EncoderConfig) -> Any:
        module = Block(config, config.attention)
        context = Context(ragged(8), jnp.zeros((3, 8), jnp.int32))
        return jax.eval_shape(lambda x: module.init(jax.random.key(0), x, context, {}, False), x)["params"]

    found = nn.unbox(parameters(config))
    assert set(found) == {"attention", "attention_norm"}
    count = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    full = count(nn.unbox(parameters(EncoderConfig(block=block))))
    assert abs(count(found) / full - 1) < 0.02


def test_sizes_without_meaning_are_refused() -> None:
    assert "model.attention.chunk=0" in refusal(lambda: GatedUnit(chunk=0))
