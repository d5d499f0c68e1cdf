"""A learned vector per absolute position, added to the embeddings (BERT, 1810.04805).

    x_i = token_i + table[p_i + offset]

Rows are at most as long as the table. In RoBERTa (1907.11692) the first positions of the table stand for padding: the
offset counts them, so that their weights are kept as they are.
"""

import jax.numpy as jnp

from bertjax import sharding
from bertjax.layers.einsum import kernel_init
from bertjax.layers.position.base import Position
from bertjax.types import Array, Float, Int


class LearnedPosition(Position):
    """A table of max_length vectors, and of those before them."""

    def setup(self) -> None:
        """Declares the table."""
        c = self.config
        shape = (c.max_length + self.options.offset, c.table_width)
        self.table = sharding.param(self, "embedding", kernel_init(c.init_std), shape, ("table", "width"))

    def embed(self, positions: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The rows at the positions."""
        if positions.shape[1] > self.config.max_length:
            raise ValueError(
                f"rows of {positions.shape[1]} tokens are longer than the table of learned positions: "
                f"set model.max_length={positions.shape[1]} (now {self.config.max_length}) or train with "
                f"model.position=rope, which serves any length"
            )
        table = sharding.shard(self.table, None, "act_width")  # whole, as the token table in embed.py
        return jnp.take(table, positions + self.options.offset, axis=0, mode="clip")
