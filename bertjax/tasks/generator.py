"""A small masked language model whose samples take the place of hidden tokens (ELECTRA, 2003.10555, Section 2).

    z = generator(x with k positions hidden)           trained as a masked language model, loss over the k positions
    x'[k] ~ softmax(z[k] / temperature)                what the encoder reads instead of the hidden tokens

No gradient passes through the sample. Alone it only makes inputs; `rtd` tells the samples from the text, `restore`
finds the text again. Sampling adds Gumbel noise that is keyed, like what is hidden, by (seed, example, epoch).

Its size is a share of the encoder's heads, rounded to whole ones; width and feed-forward shrink alike, and the depth
stays (Section 3.2: a quarter to a half works best). With `embeddings=shared` it reads the sum of the encoder's tables
through a projection of its own and predicts with the encoder's token table.

Deviations: all hidden tokens become [MASK], as the paper says; its code lets 15 % of them stand.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.data.corpus import Vocabulary
from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.embed import Embedder
from bertjax.models.cost import flops_per_token
from bertjax.models.encoder import Encoder
from bertjax.models.heads import MaskedLmHead
from bertjax.tasks.base import row_keys
from bertjax.tasks.mlm import Mlm, put, token_metrics
from bertjax.types import Array, Batch, Float, Int, Key, Metrics


@dataclasses.dataclass(frozen=True)
class Generator(Mlm):
    """Replaces hidden tokens by samples of a small masked language model."""

    mask: float = 1.0
    """Share of the chosen tokens that the generator sees as [MASK]."""
    random: float = 0.0
    """Share of the chosen tokens that the generator sees as a random token; the rest it sees as it is."""
    size: float = 0.25
    """Heads, width and feed-forward of the generator as a share of the encoder's, rounded to whole heads."""
    layers: int | None = None
    """Depth of the generator; none takes the encoder's."""
    embeddings: Literal["shared", "own"] = "shared"
    """Whether the generator reads and predicts with the encoder's embeddings."""
    temperature: float = 1.0
    """Divides the logits before a token is drawn: below 1 the likely ones come more often."""

    name: ClassVar[str] = "generator"

    def __post_init__(self) -> None:
        """Refuses sizes and temperatures that are none."""
        super().__post_init__()
        if not 0 < self.size <= 1:
            raise ValueError(
                f"tasks.generator.size={self.size} must be above 0 and at most 1; ELECTRA has 0.25"
            )
        if self.temperature <= 0:
            raise ValueError(
                f"tasks.generator.temperature={self.temperature} must be above 0; ELECTRA has 1.0"
            )
        if self.layers is not None and self.layers < 1:
            raise ValueError(
                f"tasks.generator.layers={self.layers} must be at least 1, or none for the encoder's"
            )

    def config(self, encoder: EncoderConfig) -> EncoderConfig:
        """The generator beside this encoder."""
        heads = max(1, round(encoder.heads * self.size))
        return dataclasses.replace(
            encoder,
            layers=self.layers or encoder.layers,
            heads=heads,
            width=encoder.width * heads // encoder.heads,
            head_size=encoder.key_size,
            feedforward=encoder.hidden * heads // encoder.heads,
            init=None,
            adapter=None,
            prompt=None,
            embedding_width=encoder.table_width if self.embeddings == "shared" else None,
        )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """None: the encoder is for other tasks."""
        del config
        return {}

    def rewriters(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """The small model."""
        return {"generator": Sampler(self.config(config), self)}

    def extra_flops(self, config: EncoderConfig, *, attended: float) -> float:
        """Those of the small model."""
        return flops_per_token(self.config(config), attended=attended, predicted=0.0)

    def corrupt(self, batch: Batch, key: Key, vocabulary: Vocabulary, step: Int[Array, ""]) -> Batch:
        """Hides tokens, and gives every row a key for its samples."""
        hidden, draw = jax.random.split(key)
        batch = super().corrupt(batch, hidden, vocabulary, step)
        keys = jax.random.key_data(row_keys(draw, batch.example_id, batch.epoch))
        return batch.with_targets("generator", keys=keys)

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy of the generator over the hidden tokens, and the share of samples that err."""
        target, replaced = batch.targets["generator"], outputs["generator"]["replaced"]
        return {
            **token_metrics(outputs["generator"]["logits"], target),
            "replaced": (replaced.sum().astype(jnp.float32), target["weights"].sum()),
        }


class Sampler(nn.Module):
    """The small model and its samples."""

    config: EncoderConfig
    options: Generator

    @nn.compact
    def __call__(
        self, batch: Batch, embedder: Embedder, *, train: bool, step: Array | int | None = None
    ) -> tuple[Batch, Mapping[str, Array]]:
        """The batch with samples for the hidden tokens, and `logits` [B S V], `sampled` [B S], `replaced` [B L]."""
        c, encoder, embedded = self.config, Encoder(self.config, name="encoder"), None
        if self.options.embeddings == "shared":
            shape, axes = (c.table_width, c.width), ("output", "width")
            project = dense(c, "ble,ed->bld", shape, axes, "head", name="projection")
            embedded = project(embedder.sum(batch, train=train))
        output = encoder(batch, train=train, step=step, embedded=embedded)
        table = encoder.embedder.tokens if embedded is None else embedder.tokens
        logits = MaskedLmHead(c, "generator", name="head")(output, batch, table)

        target = batch.targets["generator"]
        labels, chosen = target["labels"], target["weights"] > 0
        sampled = jnp.where(chosen, sample(logits, target["keys"], self.options.temperature), labels)
        nowhere = jnp.zeros(batch.tokens.shape, jnp.int32)
        different = put(nowhere, target["positions"], (sampled != labels).astype(jnp.int32))
        tokens = put(batch.tokens, target["positions"], sampled)
        samples = {"logits": logits, "sampled": sampled, "replaced": different > 0}
        return batch.replace(tokens=tokens), samples


def sample(logits: Float[Array, "B S V"], keys: Array, temperature: float) -> Int[Array, "B S"]:
    """Draws from softmax(logits / temperature) by the maximum of logits with Gumbel noise; one key a row."""
    draw = lambda key: jax.random.gumbel(jax.random.wrap_key_data(key), logits.shape[1:])  # noqa: E731
    return jnp.argmax(logits / temperature + jax.vmap(draw)(keys), axis=-1).astype(jnp.int32)


def original(batch: Batch) -> Int[Array, "B L"]:
    """The text before the generator hid some of it."""
    target = batch.targets["generator"]
    return put(batch.tokens, target["positions"], target["labels"])
