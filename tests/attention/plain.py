"""Attention in plain numpy, float64, one full matrix: what the layers are held against."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.attention import AttentionOptions, make_attention
from bertjax.attention.base import Context
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from tests.attention.battery import FAST, draw_parameters

BASE = EncoderConfig(width=24, heads=4, head_size=8, max_length=64, attention_dropout=0.0)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One attention layer, its inputs and what it made of them."""

    x: np.ndarray
    parameters: Any
    context: Context
    y: np.ndarray

    def project(self, name: str, x: np.ndarray | None = None) -> np.ndarray:
        """Queries, keys or values [B L H K], of the layer's inputs or of others."""
        part = {key: np.asarray(value, np.float64) for key, value in self.parameters[name].items()}
        return np.einsum("bld,dhk->blhk", self.x if x is None else x, part["kernel"]) + part["bias"]

    def output(self, y: np.ndarray) -> np.ndarray:
        """Heads [B L H K] back to the width."""
        part = {key: np.asarray(value, np.float64) for key, value in self.parameters["output"].items()}
        return np.einsum("blhk,hkd->bld", y, part["kernel"]) + part["bias"]

    def check(self, y: np.ndarray, keep: np.ndarray | None = None) -> None:
        """The layer gave what the heads `y` give, at the tokens to keep."""
        keep = np.ones(self.x.shape[:2], bool) if keep is None else keep
        np.testing.assert_allclose(self.y[keep], self.output(y)[keep], atol=2e-5)


def run_layer(
    options: AttentionOptions,
    length: int,
    mask: AttentionMask | None = None,
    scores: Any = None,
    relative: Any = None,
    positions: Any = None,
    **changes: Any,
) -> Layer:
    """A layer with random parameters on three random rows; tokens stand where they are in the row, unless told."""
    config = dataclasses.replace(BASE, attention=options, **changes)
    layer = make_attention(config, options, "attention")
    x = jnp.asarray(np.random.default_rng(length).standard_normal((3, length, config.width)), jnp.float32)
    places = jnp.asarray(np.arange(length)[None] if positions is None else positions, jnp.int32)
    places = jnp.broadcast_to(places, (3, length))
    context = Context(AttentionMask() if mask is None else mask, places, scores, relative)
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, context, train=False))
    parameters = draw_parameters(nn.unbox(shapes.get("params", {})))
    apply = jax.jit(lambda p, x: layer.apply({"params": p}, x, context, train=False), compiler_options=FAST)
    return Layer(np.asarray(x, np.float64), parameters, context, np.asarray(apply(parameters, x)))


def softmax(scores: np.ndarray) -> np.ndarray:
    """Over the last axis."""
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def scores_of(q: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Scaled products [B H L M]."""
    return np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(q.shape[-1])


def dense(q: np.ndarray, k: np.ndarray, v: np.ndarray, allowed: np.ndarray, bias: Any = 0.0) -> np.ndarray:
    """Softmax attention under a matrix that broadcasts to [B H L M]."""
    weights = softmax(np.where(allowed, scores_of(q, k) + bias, -1e30))
    return np.einsum("bhlm,bmhk->blhk", weights, v)


def bias_of(scores: np.ndarray) -> np.ndarray:
    """The matrix [1 H L L] of scores [H 2L-1] by distance key - query."""
    length = (scores.shape[1] + 1) // 2
    index = np.arange(length)
    return scores[:, index[None] - index[:, None] + length - 1][None]


def near(length: int, half: int) -> np.ndarray:
    """Pairs at most `half` apart [L L]."""
    index = np.arange(length)
    return np.abs(index[:, None] - index[None]) <= half


def ragged(length: int, packed: bool = False) -> AttentionMask:
    """Three rows that end in 0, 1 and 3 tokens of padding, and begin a second document after 5 tokens if packed."""
    valid = np.arange(length)[None] < length - np.asarray([[0], [1], [3]])
    if not packed:
        return AttentionMask(valid=jnp.asarray(valid))
    segments = np.where(valid, 1 + (np.arange(length) >= 5)[None], 0)
    return AttentionMask(valid=jnp.asarray(valid), segments=jnp.asarray(segments.astype(np.int32)))


def matrix(mask: AttentionMask) -> np.ndarray:
    """Pairs that padding and packing allow [B 1 L L]."""
    valid = np.asarray(mask.valid)
    segments = np.ones_like(valid) if mask.segments is None else np.asarray(mask.segments)
    return (valid[:, None, :] & (segments[:, :, None] == segments[:, None, :]))[:, None]
