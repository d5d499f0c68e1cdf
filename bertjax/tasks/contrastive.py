"""Sentence embeddings by contrast (SimCSE, 2104.08821): a view of a text is told from those of all other texts.

    loss = - sum over i of log ( exp(cos(a[i], b[i]) / t) / sum over j of exp(cos(a[i], b[j]) / t) )

    views=dropout   a and b are the same row, read twice with other dropout (unsupervised SimCSE, Section 3)
    views=pair      a and b are the two parts of a pair, each in a row of its own (Section 4, without hard negatives)

The negatives j are the whole batch, over all devices of the mesh. Each row becomes two, one below the other, before any
other task has its turn; so other tasks see both. Empty rows, and pairs without a second part, are neither anchors nor
negatives. Without dropout, as in an evaluation, a view equals the other and only the spread of the rows is measured.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, weighted
from bertjax.models.heads import NEVER
from bertjax.sharding import shard
from bertjax.tasks.base import Task
from bertjax.types import Array, Batch, Bool, EncoderOutput, Float, Int, Key, Metrics


@dataclasses.dataclass(frozen=True)
class Contrastive(Task):
    """Tells views of one text from those of others."""

    views: Literal["dropout", "pair"] = "dropout"
    """What makes two views: dropout on the same row, or the two parts of a pair."""
    temperature: float = 0.05
    """Divides the cosines."""
    pool: Literal["pooled", "first", "mean"] = "pooled"
    """The embedding of a row: the pooled token with its layer, the first token, or the mean of all real ones."""

    name: ClassVar[str] = "contrastive"
    makes_rows: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses a temperature that is none."""
        if self.temperature <= 0:
            raise ValueError(
                f"tasks.contrastive.temperature={self.temperature} must be above 0; SimCSE has 0.05"
            )

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """The views must differ, and a row must be one text or one pair."""
        if format.packed:
            raise ValueError(
                "the task contrastive embeds whole rows, and data.format packs several texts into one: "
                "set data.format=padded"
            )
        if self.views == "dropout" and model.dropout == model.attention_dropout == 0.0:
            raise ValueError(
                "tasks.contrastive.views=dropout needs dropout to tell views apart, and model.dropout=0.0: "
                "set model.dropout=0.1"
            )
        if self.views == "pair" and getattr(format, "negatives", None) != "none":
            raise ValueError(
                "tasks.contrastive.views=pair needs pairs that belong together: set data.format=sentence_pair and "
                "data.format.negatives=none"
            )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """One vector a row."""
        return {"contrastive": EmbeddingHead(self.pool)}

    def corrupt(self, batch: Batch, key: Key, vocabulary: Vocabulary, step: Int[Array, ""]) -> Batch:
        """Two rows for every one."""
        del key, step
        if self.views == "pair":
            return split_pairs(batch, vocabulary)
        return jax.tree.map(lambda x: _interleave(x, x), batch)

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of texts with two views."""
        return _complete(batch).sum().astype(jnp.float32)

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy of the anchors, and the squared distance between views."""
        rows, complete = outputs["contrastive"], _complete(batch)
        first, second = rows[0::2], rows[1::2]
        cosines = shard(first @ second.T, "batch", None)
        logits = jnp.where(complete[None, :], cosines / self.temperature, NEVER)
        label, weights = jnp.arange(len(first)), complete.astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(logits, label), weights),
            "accuracy": weighted((logits.argmax(-1) == label).astype(jnp.float32), weights),
            "distance": weighted(2.0 - 2.0 * jnp.diagonal(cosines), weights),
        }


class EmbeddingHead(nn.Module):
    """A vector of length one for every row."""

    pool: str

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B D"]:
        """Float32."""
        del table
        if self.pool == "pooled":
            x = output.pooled.astype(jnp.float32)
        elif self.pool == "first":
            x = output.hidden[:, 0].astype(jnp.float32)
        else:
            real = batch.mask[:, :, None].astype(jnp.float32)
            x = (output.hidden.astype(jnp.float32) * real).sum(1) / jnp.maximum(real.sum(1), 1.0)
        # The root of a sum that may be zero has no gradient: a little keeps it finite.
        return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-12)


def split_pairs(batch: Batch, vocabulary: Vocabulary) -> Batch:
    """[CLS] A [SEP] B [SEP] becomes [CLS] A [SEP] and [CLS] B [SEP]."""
    index = jnp.arange(batch.tokens.shape[1], dtype=jnp.int32)[None, :]
    second = batch.mask & (batch.types == 1)
    begin, size = jnp.argmax(second, axis=1)[:, None], second.sum(1, keepdims=True)
    place = jnp.where(index == 0, 0, jnp.minimum(begin + index - 1, index.size - 1))
    masks = batch.mask & (batch.types == 0), (index <= size) & (size > 0)

    def rows(x: Array, fill: Any) -> Array:
        parts = x, jnp.take_along_axis(x, place, axis=1)
        return _interleave(*(jnp.where(mask, part, fill) for part, mask in zip(parts, masks, strict=True)))

    mask = _interleave(*masks)
    targets = {}
    if "words" in batch.targets:
        targets["words"] = {"starts": rows(batch.targets["words"]["starts"], True)}
    return Batch(
        tokens=rows(batch.tokens, vocabulary.pad),
        mask=mask,
        types=jnp.zeros_like(mask, jnp.int32),
        positions=jnp.where(mask, index, 0),
        segments=None,
        targets=targets,
        example_id=_interleave(batch.example_id, batch.example_id),
        epoch=_interleave(batch.epoch, batch.epoch),
    )


def _interleave(first: Array, second: Array) -> Array:
    """Rows of both, one below the other: two views of a row stay on its device."""
    return jnp.stack([first, second], axis=1).reshape(2 * first.shape[0], *first.shape[1:])


def _complete(batch: Batch) -> Bool[Array, "pairs"]:
    """Which texts have two views."""
    return batch.mask[0::2, 0] & batch.mask[1::2, 0]
