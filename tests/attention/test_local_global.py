"""The pattern of local and global layers, each with its own RoPE base."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from bertjax.attention.local_global import LocalGlobal
from bertjax.attention.window import Window
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.position.rope import Rope, turn
from tests.attention.battery import refusal
from tests.attention.plain import dense, matrix, near, ragged, run_layer


def test_every_third_layer_is_global() -> None:
    """Also where the depth is no multiple of three: ModernBERT-base has 22 layers."""
    config = EncoderConfig(layers=22, attention=LocalGlobal())
    kinds = [kind for period, times in config.attention.layout(22) for kind in period * times]
    assert len(kinds) == 22
    assert all(isinstance(kind, Full) == (layer % 3 == 0) for layer, kind in enumerate(kinds))
    assert kinds[1] == Window(128, base=10_000.0)
    assert "every=0" in refusal(lambda: LocalGlobal(every=0)) and "size=1" in refusal(
        lambda: LocalGlobal(size=1)
    )


def test_local_layers_have_their_own_base() -> None:
    mask = ragged(11)
    for kind, base, allowed in ((Full(), 160_000.0, True), (Window(4, base=100.0), 100.0, near(11, 2))):
        layer = run_layer(kind, 11, mask, position=Rope(base=160_000.0))
        q, k, v = (layer.project(name) for name in ("query", "key", "value"))
        own = dataclasses.replace(Rope(), base=base)
        q, k = (np.asarray(turn(own, jnp.asarray(t, jnp.float32), layer.context.positions)) for t in (q, k))
        layer.check(dense(q, k, v, matrix(mask) & allowed), np.asarray(mask.valid))
