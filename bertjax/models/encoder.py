"""The encoder: embeddings, a stack of blocks, and a pooled token (BERT, 1810.04805).

An encoder of one direction reads each sequence from its start or from its end. The one is a causal mask; the other is
the same mask over the sequence turned round, so that every attention that obeys the first serves the second. Positions
count from where it starts to read; results stand where their tokens stand. What is pooled is the first token, or where
that has seen nothing but itself, the last. BERT passes it through a layer with tanh; many published models have none.

With `model.prompt` every row begins with learned vectors (2104.08691), which all tokens see. Positions count on behind
them, but those that are looked up in a table belong to the tokens alone. What comes out are the states of the tokens.
"""

import dataclasses

import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention import Context, check_attention, name_of
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.dense import dense
from bertjax.layers.embed import Embedder, Noise
from bertjax.layers.mask import AttentionMask
from bertjax.layers.norm import Norm
from bertjax.layers.position import scheme_of
from bertjax.models.stack import Stack
from bertjax.types import Array, Batch, EncoderOutput, Float, Int


class Encoder(nn.Module):
    """Tokens in, hidden states out."""

    config: EncoderConfig
    keep_states: bool = False

    def setup(self) -> None:
        """Declares the parts."""
        c = self.config
        self.position = scheme_of(c.position).module(c)
        self.embedder = Embedder(c, self.position)
        self.stack = Stack(c, self.keep_states)
        if c.block != "post":
            self.final_norm = Norm(c)
        if c.pooler:
            self.pooler = dense(c, "bd,de->be", (c.width, c.width), ("width", "output"), "head")

    def __call__(
        self,
        batch: Batch,
        *,
        train: bool,
        mask: AttentionMask | None = None,
        step: Array | int | None = None,
        embedded: Float[Array, "B L D"] | None = None,
        noise: Noise | None = None,
    ) -> EncoderOutput:
        """Hidden states of every token; `mask` restricts attention beyond padding, packing and direction.

        `step` is the step of training, for what changes on a schedule (the random features of a performer). With
        `embedded`, the tokens as another encoder has embedded them, this one has no embeddings of its own. `noise` is
        added to them.
        """
        c, (rows, length) = self.config, batch.tokens.shape
        allowed = AttentionMask(valid=batch.mask, segments=batch.segments, causal=c.direction != "both")
        order = allowed.backwards(length, rows) if c.direction == "right_to_left" else None
        batch = batch.replace(tokens=turned(batch.tokens, order), types=turned(batch.types, order))
        allowed = allowed if mask is None else allowed & mask
        check_attention(c, causal=allowed.causal or allowed.window is not None)
        x = self.embedder(batch, train=train, noise=noise) if embedded is None else turned(embedded, order)
        first = 0 if c.prompt is None else c.prompt.size
        context = Context(
            mask=allowed.behind(first, rows) if first else allowed,
            positions=batch.positions,
            scores=self.position.bias(first + length),
            relative=self.position.relative(first + length),
            step=step,
        )
        if first:
            front = jnp.broadcast_to(jnp.arange(first, dtype=jnp.int32)[None], (rows, first))
            positions = jnp.concatenate([front, batch.positions + first], 1)
            context = dataclasses.replace(context, positions=positions)
            x = jnp.concatenate([self.embedder.prefix(rows, train=train), x], 1)
            x = sharding.shard(x, "batch", "length", "act_width")
        x, states = self.stack(x, context, train=train)
        if c.block != "post":
            x = self.final_norm(x)
        x = turned(x[:, first:], order)
        states = None if states is None else turned(states[:, :, first:], order, axis=2)
        seen = x[:, 0]
        if c.direction == "left_to_right":
            last = jnp.maximum(batch.mask.sum(1, dtype=jnp.int32) - 1, 0)
            seen = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        # Without a word XLA splits the pooler's width like its parameters, and turns the activations round for it.
        pooled = seen = sharding.shard(seen, "batch", "act_width")
        if c.pooler:
            pooled = jnp.tanh(sharding.shard(self.pooler(seen), "batch", "act_width"))
        return EncoderOutput(hidden=x, pooled=pooled, states=states)

    def write(self, tokens: Int[Array, "B"], place: Int[Array, ""], length: int) -> Float[Array, "B 1 D"]:
        """Hidden states of the tokens at `place` of rows of at most `length`, those before which are kept."""
        c, rows = self.config, len(tokens)
        if c.direction != "left_to_right" or any(type(kind) is not Full for kind in c.kinds):
            raise ValueError(
                f"text is written from left to right with full attention, and this model has "
                f"model.direction={c.direction} and model.attention={name_of(c.attention)}: load another"
            )
        with sharding.whole_rows():
            context = Context.of_token(place, rows, length, self.position.bias(length))
            zero = jnp.zeros((rows, 1), jnp.int32)
            real, batch_tokens = jnp.ones((rows, 1), bool), tokens[:, None]
            batch = Batch(batch_tokens, real, zero, context.positions, None, {}, None, None)
            x, _ = self.stack(self.embedder(batch, train=False), context, train=False)
            return x if c.block == "post" else self.final_norm(x)


def turned(x: Array, order: Int[Array, "B L"] | None, *, axis: int = 1) -> Array:
    """The positions of x, which lie along `axis` behind the rows, in another order; as they are without one."""
    if order is None:
        return x
    shape = (1,) * (axis - 1) + order.shape + (1,) * (x.ndim - axis - 1)
    return jnp.take_along_axis(x, order.reshape(shape), axis=axis)
