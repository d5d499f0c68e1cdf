"""A convolution of the embeddings that joins the first layer: neighbours meet before any attention has (DeBERTa v2).

    x_1 = norm(layer_1(x_0) + act(Σ_t x_0[i + t - T/2] W_t + b)),      W [T, D, D]

It is in the published code and weights of DeBERTa's second version, in no paper; the third dropped it. Padding counts
as zeros, and the taps end at the borders of packed documents. The norm is the block's.
"""

import jax.numpy as jnp
from flax import linen as nn

from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.dropout import Dropout
from bertjax.layers.mask import AttentionMask
from bertjax.layers.mlp import NONLINEAR
from bertjax.types import Array, Float


class Convolution(nn.Module):
    """Each token and its neighbours, through one product."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], mask: AttentionMask, *, train: bool
    ) -> Float[Array, "B L D"]:
        """What is added to the first layer's result."""
        c, length = self.config, x.shape[1]
        assert c.convolution is not None
        half = c.convolution // 2
        here = jnp.arange(length, dtype=jnp.int32)[None, :, None]
        there = here + jnp.arange(-half, half + 1, dtype=jnp.int32)[None, None, :]  # [1 L T]
        # Which of the taps hold a real token of the same document: the query is each token, the keys are its taps.
        seen = mask.pairs(here[..., None], there[:, :, None, :])[:, :, 0] & (there < length)  # [B L T]
        near = jnp.take(x, jnp.clip(there[0], 0, length - 1), axis=1)  # [B L T D]
        near = jnp.where(seen[..., None], near, jnp.zeros((), x.dtype))
        shape, axes = (c.convolution, c.width, c.width), ("table", "width", "output")
        y = dense(c, "bltd,tde->ble", shape, axes, "branch", name="taps")(near)
        return NONLINEAR[c.convolution_activation](Dropout(c.dropout)(y, train=train))
