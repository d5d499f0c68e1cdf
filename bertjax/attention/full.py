"""Softmax attention of every token to every token (Vaswani et al., 1706.03762).

    mix(q, k, v) = softmax(q kᵀ / sqrt(K) + bias) v

Cost: O(L² D) time, O(H L²) memory. The scores are summed and normalised in float32. A query that may see nothing
(a row of padding) gets the mean of all values, so that gradients stay finite; nobody reads the result.
"""

import math

import jax
import jax.numpy as jnp

from bertjax import sharding
from bertjax.attention.base import Attention, Context
from bertjax.attention.kernels import KERNELS, Request, choose
from bertjax.attention.ring import ring
from bertjax.layers.config import Full
from bertjax.layers.dropout import Dropout
from bertjax.types import Array, Bool, Float

FORBIDDEN = -1e30  # far below any score, yet finite: minus infinity makes NaN of a row that may see nothing


def scores_of(q: Float[Array, "B L H K"], k: Float[Array, "B M H K"]) -> Float[Array, "B H L M"]:
    """Scaled products of queries and keys, in float32."""
    return jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])


def normalise(scores: Float[Array, "*n"], allowed: Bool[Array, "..."]) -> Float[Array, "*n"]:
    """Softmax over the keys that are allowed."""
    return jax.nn.softmax(jnp.where(allowed, scores, FORBIDDEN), axis=-1)


class FullAttention(Attention):
    """The einsums, or a kernel in their place (`attention/kernels.py`)."""

    options: Full

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """The kernel that the backend names, or the reference."""
        chosen = self.kernel(context, q.shape[1], train=train)
        if chosen == "reference":
            return self.reference(q, k, v, context, train=train)
        if chosen == "ring":
            return ring(q, k, v, context.mask)
        return KERNELS[chosen](q, k, v, context.mask)

    @property
    def in_ring(self) -> bool:
        """As the mesh says; what narrows the mask (a window) would send most keys round in vain."""
        return isinstance(self.options, Full) and not self.is_initializing() and sharding.in_ring()

    def kernel(self, context: Context, length: int, *, train: bool) -> str:
        """The name of the implementation for this call.

        Parameters are made by the reference, on any machine, and single queries are too little for a kernel.
        """
        if self.is_initializing() or context.place is not None:
            return "reference"
        mask, c = context.mask, self.config
        request = Request(
            platform=sharding.platform(),
            dtype=c.dtype,
            length=length,
            head_size=c.key_size,
            dropout=c.attention_dropout if train else 0.0,
            bias=context.scores is not None,
            maps=self.is_mutable_collection("intermediates"),
            window=mask.window is not None,
            globals=mask.globals is not None,
            ring=self.in_ring,
        )
        return choose(self.options.backend, request)[0]

    def reference(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """Scores, softmax, weighted values."""
        scores = scores_of(q, k)
        if context.bias is not None:
            scores = scores + context.bias
        weights = normalise(scores, context.mask.matrix(q.shape[1], k.shape[1])).astype(q.dtype)
        return self.gather(weights, v, train=train)

    def gather(
        self, weights: Float[Array, "B H L M"], v: Float[Array, "B M H K"], *, train: bool
    ) -> Float[Array, "B L H K"]:
        """The values, weighted, with dropout on the weights."""
        self.sow("intermediates", "attention", weights)
        weights = Dropout(self.config.attention_dropout)(weights, train=train)
        y = jnp.einsum("bhlm,bmhk->blhk", weights, v, preferred_element_type=jnp.float32)
        return y.astype(v.dtype)
