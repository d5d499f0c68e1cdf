"""What claims to be linear in the length is: operations and memory of forward and backward, as compiled."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import AttentionOptions, make_attention
from bertjax.attention.base import Context
from bertjax.attention.bigbird import BigBird
from bertjax.attention.longformer import Longformer
from bertjax.attention.window import Window
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.mask import AttentionMask

CONFIG = EncoderConfig(width=16, heads=2, attention_dropout=0.1)


def cost(options: AttentionOptions, length: int) -> np.ndarray:
    """Operations and bytes of temporaries of one layer, forward and backward."""
    layer = make_attention(dataclasses.replace(CONFIG, attention=options), options, "attention")
    rng = jax.random.key(0)

    def context(ints: Any) -> Context:
        return Context(AttentionMask(valid=ints == 0, segments=ints), ints)

    def init(x: Any, ints: Any) -> Any:
        return layer.init(rng, x, context(ints), train=False)["params"]

    def loss(parameters: Any, x: Any, ints: Any) -> Any:
        apply = functools.partial(layer.apply, {"params": parameters}, rngs={"dropout": rng})
        return apply(x, context(ints), train=True).sum()

    x = jax.ShapeDtypeStruct((1, length, CONFIG.width), jnp.float32)
    ints = jax.ShapeDtypeStruct((1, length), jnp.int32)
    parameters = jax.eval_shape(init, x, ints)
    compiled = jax.jit(jax.grad(loss, (0, 1))).lower(parameters, x, ints).compile()
    return np.asarray([compiled.cost_analysis()["flops"], compiled.memory_analysis().temp_size_in_bytes])


@pytest.mark.parametrize(
    ("options", "exponent"),
    [
        (Window(32), 1.0),
        (Longformer(32, slots=4), 1.0),
        (BigBird(block=16, random=1, plans=1), 1.0),
        (Full(), 2.0),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, float) else "",
)
def test_growth(options: AttentionOptions, exponent: float) -> None:
    short, long = cost(options, 512), cost(options, 2048)
    fitted = np.log(long / short) / np.log(4)
    assert (np.abs(fitted - exponent) < 0.15).all(), fitted
