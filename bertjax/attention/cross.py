"""Attention of a row to another one, which another stack has read (Vaswani et al., 1706.03762, Section 3.2.3).

    q = x Wq,   k = m Wk,   v = m Wv,      y = softmax(q kᵀ / sqrt(K)) v Wo

m are the hidden states of the row that is looked at (`Context.memory`), and only its padding is hidden. Positions of
two rows have no distance, so none turn queries and keys or add to the scores.

A row that is written token by token makes keys and values of m once and keeps them in the collection `memory`. Several
rows may be written about one: their queries then meet the same keys and values, of which there are no copies.
"""

import jax
from flax import linen as nn

from bertjax.attention.base import Context
from bertjax.attention.full import FullAttention
from bertjax.layers.mask import AttentionMask
from bertjax.types import Array, Float


class CrossAttention(FullAttention):
    """Queries of the row, keys and values of what is looked at."""

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        assert context.memory is not None
        q, k, v = self.project(x, "query"), self.look("key", context), self.look("value", context)
        rows = k.shape[0]
        there = Context(mask=AttentionMask(valid=context.memory.mask), positions=context.positions)
        # The rows that are written about one stand below each other: here they are queries of one row.
        y = self.reference(q.reshape(rows, -1, *q.shape[2:]), k, v, there, train=train)
        return self.output(y.reshape(q.shape))

    def look(self, name: str, context: Context) -> Float[Array, "B M H K"]:
        """Keys or values of what is looked at."""
        memory = context.memory
        assert memory is not None

        def make() -> jax.Array:
            assert memory.hidden is not None
            return jax.numpy.asarray(self.project(memory.hidden, name))

        if context.place is None:
            return make()
        return self.variable("memory", f"{name}s", make).value

    @property
    def in_ring(self) -> bool:
        """Never: all queries meet all keys."""
        return False
