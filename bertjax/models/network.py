"""One encoder, what stands on it, and what may stand before it."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from bertjax.attention.base import Memory
from bertjax.layers.config import EncoderConfig
from bertjax.layers.embed import Noise
from bertjax.layers.mask import AttentionMask
from bertjax.models.encoder import Encoder
from bertjax.models.features import Features
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
        read = any(features_of(head).needs_states for head in self.heads.values())
        self.encoder = Encoder(self.config, self.keep_states or read)

    def __call__(
        self,
        batch: Batch,
        *,
        train: bool,
        mask: AttentionMask | None = None,
        step: Array | int | None = None,
        noise: Noise | None = None,
    ) -> dict[str, Any]:
        """The output of every rewriter and head by its name, and the encoder's under "encoder"."""
        outputs: dict[str, Any] = {}
        for name, rewriter in self.rewriters.items():
            batch, outputs[name] = rewriter(batch, self.encoder.embedder, train=train, step=step)
        output = self.encoder(batch, train=train, mask=mask, step=step, noise=noise)
        outputs["encoder"] = self._shown(output)
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
        return self._shown(self.encoder(batch, train=train, mask=mask))

    def _shown(self, output: EncoderOutput) -> EncoderOutput:
        """The output without states that only a head has asked for."""
        return output if self.keep_states else dataclasses.replace(output, states=None)


def features_of(head: nn.Module) -> Features:
    """What a head reads; one that does not say so reads the last layer."""
    return getattr(getattr(head, "options", None), "features", None) or Features()
