"""The input of the first block (BERT, 1810.04805, Figure 2).

    x = dropout(norm(token[t] + position[p] + type[s]))

With `embedding_width` the tables are narrower than the model (ALBERT, 1909.11942, Section 3.1) and a product leads from
one to the other: V E + E D parameters instead of V D. As in the published code of ALBERT and ELECTRA it comes last,
after norm and dropout.

`model.prompt` learns vectors as wide as the tables, with neither position nor type, that go the same way (prompt
tuning, 2104.08691); where they stand is the encoder's business.

Training may add noise, to the sum or to what the norm makes of it (adversarial.py).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.dropout import Dropout
from bertjax.layers.einsum import kernel_init
from bertjax.layers.norm import Norm
from bertjax.layers.position import Position
from bertjax.types import Array, Batch, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Noise:
    """What is added to the embeddings of a batch."""

    words: Any = None  # float [B L E], to the sum
    normalised: Any = None  # float [B L E], to the sum behind its norm


class Embedder(nn.Module):
    """Tables and their sum. The token table is read again by the masked-LM head."""

    config: EncoderConfig
    position: Position
    borrows: bool = False  # the token table, which is then handed in

    def setup(self) -> None:
        """Declares the tables."""
        c, init = self.config, kernel_init(self.config.init_std)
        narrow = c.table_width
        if not self.borrows:
            self.tokens = sharding.param(self, "tokens", init, (c.rows, narrow), ("vocab", "width"))
        if c.types is not None:
            self.types = sharding.param(self, "types", init, (c.types, narrow), ("table", "width"))
        if c.prompt is not None and c.prompt.at == "input":
            self.prompt = sharding.param(self, "prompt", init, (c.prompt.size, narrow), ("table", "width"))
        if c.embedding_norm:
            self.norm = Norm(c)
        self.dropout = Dropout(c.dropout)
        if c.embedding_width is not None:
            self.projection = dense(c, "ble,ed->bld", (narrow, c.width), ("output", "width"), "head")

    def __call__(
        self,
        batch: Batch,
        *,
        train: bool,
        noise: Noise | None = None,
        table: Float[Array, "V E"] | None = None,
    ) -> Float[Array, "B L D"]:
        """The sum, normalised, with dropout, as wide as the model; of another token table than its own, if given."""
        return self.widen(self.sum(batch, train=train, noise=noise, table=table))

    def prefix(self, rows: int, *, train: bool) -> Float[Array, "B P D"]:
        """The learned vectors that stand before the tokens of every row; zeros where each layer has its own."""
        c = self.config
        assert c.prompt is not None
        if c.prompt.at == "layers":
            return jnp.zeros((rows, c.prompt.size, c.width), c.compute)
        x = jnp.broadcast_to(self.prompt[None], (rows, *self.prompt.shape))
        return self.widen(self.finish(x, train=train, noise=Noise()))

    def sum(
        self,
        batch: Batch,
        *,
        train: bool,
        noise: Noise | None = None,
        table: Float[Array, "V E"] | None = None,
    ) -> Float[Array, "B L E"]:
        """The sum, normalised, with dropout, as wide as the tables."""
        c = self.config
        # Gathered over `fsdp` before it is read: from a table split by width, XLA would look up all rows of the mesh.
        table = sharding.shard(self.tokens if table is None else table, "act_vocab", "act_width")
        x = jnp.take(table, batch.tokens, axis=0, mode="clip")
        if c.types is not None:
            # A product with one-hot rows: so is its gradient, where a gather's would scatter into two rows.
            x = x + jax.nn.one_hot(batch.types, c.types, dtype=x.dtype) @ self.types
        place = self.position.embed(batch.positions)
        x = x if place is None else x + place
        return self.finish(x, train=train, noise=noise or Noise())

    def finish(self, x: Float[Array, "B L E"], *, train: bool, noise: Noise) -> Float[Array, "B L E"]:
        """A sum, normalised, with dropout."""
        c = self.config
        x = x if noise.words is None else x + noise.words
        x = self.norm(x) if c.embedding_norm else x.astype(c.compute)
        if noise.normalised is not None:
            x = (x.astype(jnp.float32) + noise.normalised).astype(c.compute)
        return self.dropout(sharding.shard(x, "batch", "length", "act_width"), train=train)

    def widen(self, x: Float[Array, "B L E"]) -> Float[Array, "B L D"]:
        """As wide as the model."""
        if self.config.embedding_width is None:
            return x
        return sharding.shard(self.projection(x), "batch", "length", "act_width")
