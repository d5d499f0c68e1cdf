"""One encoder and the heads that its tasks put on it."""

from collections.abc import Mapping
from typing import Any

from flax import linen as nn

from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.models.encoder import Encoder
from bertjax.types import Array, Batch, EncoderOutput


class Network(nn.Module):
    """Runs the encoder once and every head on its output."""

    config: EncoderConfig
    heads: Mapping[str, nn.Module]
    keep_states: bool = False

    def setup(self) -> None:
        """Declares the encoder; the heads are given."""
        self.encoder = Encoder(self.config, self.keep_states)

    def __call__(
        self, batch: Batch, *, train: bool, mask: AttentionMask | None = None, step: Array | int | None = None
    ) -> dict[str, Any]:
        """The output of every head by its name, and the encoder's under "encoder"."""
        output = self.encoder(batch, train=train, mask=mask, step=step)
        table = self.encoder.embedder.tokens
        return {"encoder": output, **{name: head(output, batch, table) for name, head in self.heads.items()}}

    def encode(
        self, batch: Batch, *, train: bool = False, mask: AttentionMask | None = None
    ) -> EncoderOutput:
        """The encoder alone."""
        return self.encoder(batch, train=train, mask=mask)
