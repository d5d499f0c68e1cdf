"""One encoder, what stands on it, and what may stand before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from bertjax.attention.base import Memory
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.models.encoder import Encoder
from bertjax.types import Array, Batch, EncoderOutput, Float


class Network(nn.Module):
    """Runs the rewriters, the encoder once, and every head on its output.

    A rewriter is called with the batch and the encoder's embedder, and gives another batch and an output of its own:
    it is a model that makes the inputs of this one. A head is called with the encoder's output, the batch that the
    encoder read, and the token embedding.
    """

    config: EncoderConfig
    heads: Mapping[str, nn.Module]
    rewriters: Mapping[str, nn.Module] = dataclasses.field(default_factory=dict)
    keep_states: bool = False

    def setup(self) -> None:
        """Declares the encoder; the rest is given."""
        self.encoder = Encoder(self.config, self.keep_states)

    def __call__(
        self, batch: Batch, *, train: bool, mask: AttentionMask | None = None, step: Array | int | None = None
    ) -> dict[str, Any]:
        """The output of every rewriter and head by its name, and the encoder's under "encoder"."""
        outputs: dict[str, Any] = {}
        for name, rewriter in self.rewriters.items():
            batch, outputs[name] = rewriter(batch, self.encoder.embedder, train=train, step=step)
        outputs["encoder"] = output = self.encoder(batch, train=train, mask=mask, step=step)
        table = self.encoder.embedder.tokens
        return {**outputs, **{name: head(output, batch, table) for name, head in self.heads.items()}}

    def write(
        self, name: str, tokens: Array, place: Array, memory: Memory | None = None, *, length: int
    ) -> Float[Array, "B V"]:
        """What follows one token of every row, by a decoder or, without a memory, by the encoder and a head on it.

        Rows are of at most `length` tokens, and keys and values of all before `place` are kept.
        """
        head, table = self.heads[name], self.encoder.embedder.tokens
        if memory is not None:
            logits: jax.Array = head.write(tokens, place, memory, length, table)
            return logits
        hidden = self.encoder.write(tokens, place, length)
        after: jax.Array = head.after(hidden, table)[:, 0]
        return after

    def encode(
        self, batch: Batch, *, train: bool = False, mask: AttentionMask | None = None
    ) -> EncoderOutput:
        """The encoder alone."""
        return self.encoder(batch, train=train, mask=mask)
