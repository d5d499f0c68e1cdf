"""Talking heads: heads exchange scores before the softmax, weights after it (Shazeer et al., 2003.02436).

    A = q kᵀ / sqrt(K),   W = softmax(Σ_h A_h P_hg),   U = Σ_g W_g Q_gh,   y = U v

Cost: full attention and 2 H² L² more operations. P and Q start at the identity plus noise (the paper starts them
at random), so that training begins at plain attention. The mask and the position bias are added after P.
Both exchanges are float32, as all that happens between scores and weights.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention.base import Context
from bertjax.attention.full import FullAttention, normalise, scores_of
from bertjax.layers.config import AttentionOptions
from bertjax.layers.einsum import einsum, kernel_init
from bertjax.sharding import param
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class TalkingHeads(AttentionOptions):
    """Full attention whose heads exchange scores and weights."""


class TalkingHeadsAttention(FullAttention):
    """Full attention with two H x H matrices."""

    options: TalkingHeads  # type: ignore[assignment]

    @nn.compact
    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """Scores, exchange, softmax, exchange, weighted values."""
        scores = einsum("bhlm,hg->bglm", scores_of(q, k), self.exchange("scores"), jnp.dtype(jnp.float32))
        if context.bias is not None:
            scores = scores + context.bias
        weights = normalise(scores, context.mask.matrix(q.shape[1], k.shape[1]))
        weights = einsum("bglm,gh->bhlm", weights, self.exchange("weights"), jnp.dtype(jnp.float32))
        return self.gather(weights.astype(q.dtype), v, train=train)

    def exchange(self, name: str) -> Float[Array, "H H"]:
        """A matrix from heads to heads."""
        noise = kernel_init(self.config.init_std)

        def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
            return jnp.eye(shape[0], dtype=dtype) + noise(key, shape, dtype)

        size = (self.config.heads, self.config.heads)
        return param(self, name, init, size, ("heads", "output"))
