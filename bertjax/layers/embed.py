"""The input of the first block (BERT, 1810.04805, Figure 2).

x = dropout(norm(token[t] + position[p] + type[s]))
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.dropout import Dropout
from bertjax.layers.einsum import kernel_init
from bertjax.layers.norm import Norm
from bertjax.layers.position import Position
from bertjax.types import Array, Batch, Float


class Embedder(nn.Module):
    """Tables and their sum. The token table is read again by the masked-LM head."""

    config: EncoderConfig
    position: Position

    def setup(self) -> None:
        """Declares the tables."""
        c, init = self.config, kernel_init(self.config.init_std)
        self.tokens = sharding.param(self, "tokens", init, (c.rows, c.width), ("vocab", "width"))
        self.types = sharding.param(self, "types", init, (c.types, c.width), ("table", "width"))
        self.norm = Norm(c)
        self.dropout = Dropout(c.dropout)

    def __call__(self, batch: Batch, *, train: bool) -> Float[Array, "B L D"]:
        """The sum, normalised, with dropout."""
        # Gathered over `fsdp` before it is read: from a table split by width, XLA would look up all rows of the mesh.
        table = sharding.shard(self.tokens, "act_vocab", "act_width")
        x = jnp.take(table, batch.tokens, axis=0, mode="clip")
        # A product with one-hot rows: so is its gradient, where a gather's would scatter into two rows.
        x = x + jax.nn.one_hot(batch.types, self.config.types, dtype=x.dtype) @ self.types
        place = self.position.embed(batch.positions)
        x = x if place is None else x + place
        x = sharding.shard(self.norm(x), "batch", "length", "act_width")
        return self.dropout(x, train=train)
