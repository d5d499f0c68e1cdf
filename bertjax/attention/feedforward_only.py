"""No mixing at all: the branch is zero, only the feed-forward part works ("FF-only" in FNet, 2105.03824, Section 3).

    attention(x) = 0

Cost: nothing. Each token is read alone, so what a model with this variant reaches is what its embeddings and its
feed-forward parts know; every other variant is to be held against it. The norm of the branch stays, which in a
post-norm block makes two norms in a row.
"""

import dataclasses

import jax.numpy as jnp

from bertjax.attention.base import Attention, Context
from bertjax.layers.config import AttentionOptions
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class FeedforwardOnly(AttentionOptions):
    """Tokens exchange nothing."""


class FeedforwardOnlyAttention(Attention):
    """A branch that adds nothing."""

    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """Zeros."""
        del context, train
        return jnp.zeros_like(x)
