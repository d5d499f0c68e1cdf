"""Masked language modelling (BERT, 1810.04805, Section 3.1 and Appendix A.1).

Of the real tokens of a row that are not special, round(rate * number) are chosen, at least one and at most
round(rate * length). A chosen token becomes [MASK] with probability `mask`, a random token with probability `random`,
and else stays; the model predicts the original at the chosen positions only.

Deviations: the choice is made anew in every epoch (dynamic masking, RoBERTa 1907.11692), and random tokens are never
special ones.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.corpus import Vocabulary
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, weighted
from bertjax.models.heads import MaskedLmHead
from bertjax.tasks.base import Task, row_keys
from bertjax.types import Array, Batch, Float, Key, Metrics


@dataclasses.dataclass(frozen=True)
class Mlm(Task):
    """Masked language modelling."""

    rate: float = 0.15
    """Share of the real tokens that are predicted."""
    mask: float = 0.8
    """Share of the predicted tokens that are replaced by [MASK]."""
    random: float = 0.1
    """Share of the predicted tokens that are replaced by a random token; the rest stays as it is."""

    name: ClassVar[str] = "mlm"
    predicts_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        if not 0 < self.rate <= 1:
            raise ValueError(f"tasks.mlm.rate={self.rate} must be above 0 and at most 1; BERT has 0.15")
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1 + 1e-9:
            raise ValueError(
                f"tasks.mlm.mask={self.mask} and tasks.mlm.random={self.random} must add up to at most 1"
            )

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """A distribution over the vocabulary at every chosen position."""
        return {"mlm": MaskedLmHead(config, "mlm")}

    def corrupt(self, batch: Batch, key: Key, vocabulary: Vocabulary) -> Batch:
        """Chooses positions row by row and hides what stands there."""
        rows, length = batch.tokens.shape
        slots = max(1, round(self.rate * length))
        candidate = batch.mask & ~jnp.asarray(vocabulary.special)[batch.tokens]
        number = candidate.sum(1)
        chosen = jnp.clip(
            jnp.floor(self.rate * number + 0.5).astype(jnp.int32), jnp.minimum(number, 1), slots
        )

        keys = jax.vmap(lambda k: jax.random.split(k, 3))(row_keys(key, batch.example_id, batch.epoch))
        score = jax.vmap(lambda k: jax.random.uniform(k, (length,)))(keys[:, 0])
        _, positions = jax.lax.top_k(jnp.where(candidate, score, -1.0), slots)
        weights = jnp.arange(slots)[None, :] < chosen[:, None]

        labels = jnp.take_along_axis(batch.tokens, positions, axis=1)
        ordinary = jnp.asarray(np.flatnonzero(~vocabulary.special), jnp.int32)
        draw = jax.vmap(lambda k: jax.random.randint(k, (slots,), 0, ordinary.size))(keys[:, 1])
        fate = jax.vmap(lambda k: jax.random.uniform(k, (slots,)))(keys[:, 2])
        hidden = jnp.where(fate < self.mask, vocabulary.mask, labels)
        hidden = jnp.where((fate >= self.mask) & (fate < self.mask + self.random), ordinary[draw], hidden)
        # A slot that is not used writes its own token back; the positions of a row are distinct, so no two writes meet.
        written = jnp.where(weights, hidden, labels).astype(batch.tokens.dtype)
        tokens = jax.vmap(lambda row, where, value: row.at[where].set(value))(
            batch.tokens, positions, written
        )
        weights = weights.astype(jnp.float32)
        return batch.replace(tokens=tokens).with_targets(
            "mlm", positions=positions, labels=labels, weights=weights
        )

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of chosen tokens."""
        return batch.targets["mlm"]["weights"].sum()

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the chosen tokens."""
        logits, target = outputs["mlm"], batch.targets["mlm"]
        right = (logits.argmax(-1) == target["labels"]).astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(logits, target["labels"]), target["weights"]),
            "accuracy": weighted(right, target["weights"]),
        }
