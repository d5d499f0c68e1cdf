"""The decoder: a second stack that writes a row while it looks at the one that the encoder has read.

    x = embed(y[1 .. t]),   every layer: causal attention, attention to the encoder's output, feed-forward
    p(y[t + 1] | y[1 .. t], source) = softmax(T norm(act(x[t] W + b)) + c)

(Vaswani et al., 1706.03762; with the layers of BERT, Rothe et al., "Leveraging Pre-trained Checkpoints for Sequence
Generation Tasks", 1907.12461.) A decoder is a head: it stands on the encoder's output and reads its token table T, for
what goes in and for what comes out, or a `table` of its own; those of positions and types are its own. Layers are
those of the encoder (`models/block.py`) with one branch more, in the same arrangement, scanned, recomputed and sharded
in the same way; the last layer is that of the masked-LM head. So all but the branch can start from an encoder
(`bertjax/inherit.py`).

Deviations: attention is full attention, whatever the encoder has: what is written is short. DeepNorm keeps the
constants of an encoder. Rows are whole on every device of the `sequence` axis.
"""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar, Literal

import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention import Context
from bertjax.attention.base import Memory
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.embed import Embedder
from bertjax.layers.mask import AttentionMask
from bertjax.layers.norm import Norm
from bertjax.layers.position import Position, scheme_of
from bertjax.models import cost
from bertjax.models.heads import MaskedLmHead
from bertjax.models.stack import Stack
from bertjax.models.task_heads import HeadOptions
from bertjax.types import Array, Batch, Bool, EncoderOutput, Float, Int


@dataclasses.dataclass(frozen=True)
class DecoderOptions:
    """What a decoder has of its own."""

    layers: int | None = None
    """Number of blocks; none has as many as the encoder."""
    table: Literal["encoder", "own"] = "encoder"
    """Of tokens, for what goes in and for what comes out: the encoder's, or one that starts from it."""
    start: Literal["encoder", "random"] = "encoder"
    """What its layers start from where model.init has no decoder: those of the encoder there, or random numbers."""

    def __post_init__(self) -> None:
        """Refuses a decoder without layers."""
        if self.layers is not None and self.layers < 1:
            raise ValueError(
                f"decoder.layers={self.layers}: a decoder has at least one, or none for as many as above"
            )


def decoder_config(config: EncoderConfig, options: DecoderOptions) -> EncoderConfig:
    """The decoder's layers, in the terms of an encoder; an error where its positions are of no use to them."""
    if scheme_of(config.position).module.relative is not Position.relative:
        raise ValueError(
            "model.position=relative is read by disentangled attention, which a decoder does not have: "
            "use an encoder with positions that are embedded, rotated or added to scores"
        )
    return dataclasses.replace(
        config,
        layers=options.layers or config.layers,
        attention=Full(),
        direction="left_to_right",
        convolution=None,
        pooler=False,
        adapter=None,
        prompt=None,
    )


def decoder_flops(config: EncoderConfig, options: DecoderOptions, *, attended: float) -> float:
    """Operations of a training step per token of a source that is as long as its target, without the logits."""
    c = decoder_config(config, options)
    own = cost.flops_per_token(c, attended=attended, predicted=0.0)
    inner = c.heads * c.key_size
    return own + c.layers * (24 * c.width * inner + 12 * attended * inner)


@dataclasses.dataclass(frozen=True)
class DecoderHead(HeadOptions):
    """A decoder that no task of the run learns: that of a published model."""

    decoder: DecoderOptions = DecoderOptions()
    """What it has of its own."""

    name: ClassVar[str] = "translate"

    def module(self, config: EncoderConfig) -> nn.Module:
        """[B L V]."""
        return Decoder(decoder_config(config, self.decoder), self.name, self.decoder)


class Decoder(nn.Module):
    """Rows of targets in, logits of their next tokens out; at once, or token by token."""

    config: EncoderConfig  # of the decoder
    task: str
    options: DecoderOptions = DecoderOptions()

    def setup(self) -> None:
        """Declares the parts; the names are those of the encoder's."""
        c = self.config
        self.position = scheme_of(c.position).module(c)
        self.embedder = Embedder(c, self.position, borrows=self.options.table == "encoder")
        self.stack = Stack(c, keep_states=False)
        if c.block != "post":
            self.final_norm = Norm(c)
        self.head = MaskedLmHead(c, self.task)

    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B L V"]:
        """Logits [B T V] of the token after each of `batch.targets[task]["row"]`, which all are there (in training).

        Rows of a batch that is another task's get one place, whose logits nobody reads.
        """
        target = batch.targets.get(self.task)
        one = (batch.tokens.shape[0], 1)
        tokens: Array = jnp.zeros(one, jnp.int32)
        mask: Array = jnp.ones(one, bool)
        if target is not None:
            tokens, mask = inputs_of(target, batch.tokens.shape[1])
        length = tokens.shape[1]
        with sharding.whole_rows():
            context = Context(
                mask=AttentionMask(valid=mask, causal=True),
                positions=jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32)[None, :], tokens.shape),
                scores=self.position.bias(length),
                memory=Memory(output.hidden, batch.mask),
            )
            return self.run(tokens, context, table)

    def write(
        self,
        tokens: Int[Array, "B"],
        place: Int[Array, ""],
        memory: Memory,
        length: int,
        table: Float[Array, "V E"],
    ) -> Float[Array, "B V"]:
        """Logits of what follows the token at `place` of rows of at most `length`, those before which are kept.

        Several rows may be written about each row of the memory: they stand below each other.
        """
        with sharding.whole_rows():
            context = Context.of_token(place, len(tokens), length, self.position.bias(length), memory)
            return self.run(tokens[:, None], context, table)[:, 0]

    def run(
        self, tokens: Int[Array, "B L"], context: Context, table: Float[Array, "V E"]
    ) -> Float[Array, "B L V"]:
        """Embeddings, layers, logits."""
        train, zero = self.has_rng("dropout"), jnp.zeros_like(jnp.asarray(tokens))
        batch = Batch(tokens, jnp.ones_like(zero, bool), zero, context.positions, None, {}, None, None)
        table = table if self.options.table == "encoder" else self.embedder.tokens
        x = self.embedder(batch, train=train, table=table)
        x, _ = self.stack(x, context, train=train)
        if self.config.block != "post":
            x = self.final_norm(x)
        return self.head(EncoderOutput(hidden=x, pooled=None), batch, table)


def inputs_of(target: Mapping[str, Array], most: int) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """What a decoder reads of targets: all of a row but its last token; a batch of short rows has short targets."""
    length = min(target["row"].shape[1] - 1, most)
    read = target["row"][:, :length]
    return read, jnp.arange(length)[None, :] < jnp.maximum(target["size"] - 1, 1)[:, None]


def labels_of(target: Mapping[str, Array], most: int) -> tuple[Int[Array, "B L"], Float[Array, "B L"]]:
    """What it should give, token by token, and the weight of each."""
    length = min(target["row"].shape[1] - 1, most)
    real = jnp.arange(length)[None, :] < (target["size"] - 1)[:, None]
    return target["row"][:, 1 : length + 1], real * jnp.asarray(target["weight"], jnp.float32)[:, None]
