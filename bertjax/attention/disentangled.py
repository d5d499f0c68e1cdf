"""Disentangled attention: content and relative position meet in three products (DeBERTa, 2006.03654).

    A_ij = (q_i · k_j  +  q_i · k'_δ(i,j)  +  k_j · q'_δ(i,j)) / sqrt(3 K)
            content       content to position   position to content

    k' = R Wk,  q' = R Wq,  with R the vectors of relative distances, the same in all layers

Cost: full attention with two more products of L x 2L per head: O(L² D) time, O(H L²) memory. The table R, its buckets
and its norm belong to the position scheme (model.position=relative), which names a vector for each distance; each
product with it is turned from [query, distance] to [query, key] by a shift of memory, not by a gather.

`share` takes the content's projections for R too (v2 and v3); otherwise R has projections of its own (v1). As in
the published code, and unlike the formula of the paper, both terms read the distance i - j. The divisor counts the
terms that are in use. R has the dropout of the residual stream, drawn anew in each layer.
"""

import dataclasses
import math

import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention.base import Context, by_pairs
from bertjax.attention.full import FullAttention, normalise
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dense import dense
from bertjax.layers.dropout import Dropout
from bertjax.layers.einsum import Einsum
from bertjax.sharding import shard
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Disentangled(AttentionOptions):
    """Content and relative position as separate vectors."""

    c2p: bool = True
    """Content to position: what a token looks for, against the distance of the other."""
    p2c: bool = True
    """Position to content: what a distance looks for, against the content of the other."""
    share: bool = True
    """Distances are projected by the content's query and key matrices (v2, v3) instead of their own (v1)."""


class DisentangledAttention(FullAttention):
    """Full attention with two more terms in the scores."""

    options: Disentangled  # type: ignore[assignment]

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        o, length = self.options, x.shape[1]
        query, key = self.projection("query"), self.projection("key")
        q = shard(query(x), "batch", "length", "act_heads", "act_head_size")
        k = shard(key(x), "batch", "key_length", "act_heads", "act_head_size")
        v = self.project(x, "value")
        scores = jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32)
        if o.c2p or o.p2c:
            assert context.relative is not None  # check_attention has seen to it
            distances = Dropout(self.config.dropout)(context.relative, train=train)[None]
            distances = distances.astype(self.config.compute)
            if o.c2p:
                wanted = (key if o.share else self.projection("position_key"))(distances)[0, ::-1]
                terms = jnp.einsum("blhk,ehk->bhle", q, wanted, preferred_element_type=jnp.float32)
                scores = scores + by_pairs(terms)
            if o.p2c:
                wanted = (query if o.share else self.projection("position_query"))(distances)[0]
                terms = jnp.einsum("bmhk,ehk->bhme", k, wanted, preferred_element_type=jnp.float32)
                scores = scores + by_pairs(terms).swapaxes(2, 3)
        scores = scores / math.sqrt((1 + o.c2p + o.p2c) * q.shape[-1])
        if context.bias is not None:
            scores = scores + context.bias
        weights = normalise(scores, context.mask.matrix(length, length)).astype(q.dtype)
        return self.output(self.gather(weights, v, train=train))

    def projection(self, name: str) -> Einsum:
        """A projection to heads, of tokens or of distances."""
        c = self.config
        shape, axes = (c.width, c.heads, c.key_size), ("width", "heads", "head_size")
        return dense(c, "bld,dhk->blhk", shape, axes, "score", name=name)
