"""Masked language modelling (BERT, 1810.04805, Section 3.1 and Appendix A.1), with every way of choosing what to hide.

Of a row of n real tokens ([CLS] and [SEP] count, as in BERT), round(rate * n) are predicted, but at least one, and
never special ones; `masking` says what is hidden together, and by how much whole words may stay below that number. A
chosen token becomes [MASK] with probability `mask`, a random ordinary token with probability `random`, and else stays;
the model predicts the original at the chosen positions only.

    dynamic   duplicates=none   another choice in every epoch (RoBERTa, 1907.11692, Section 4.1); the default
    static    duplicates=10     as many choices for every example, one after the other: BERT's, whose data were
                                written ten times; with 1 an example always looks the same
    schedule  final_rate, rate_steps   the rate moves in a straight line over the first steps (2212.04761); held-out
                                text is always read at the rate of the last step, so that its numbers compare

Deviation: random tokens are never special ones.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.corpus import Vocabulary
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, is_first, weighted
from bertjax.models.heads import MaskedLmHead
from bertjax.tasks.base import Task, row_draws, unit
from bertjax.tasks.masking import MaskingOptions, Subword, choose
from bertjax.types import Array, Batch, Bool, Float, Int, Key, Metrics


@dataclasses.dataclass(frozen=True)
class Mlm(Task):
    """Masked language modelling."""

    rate: float = 0.15
    """Share of the real tokens that are predicted."""
    mask: float = 0.8
    """Share of the predicted tokens that are replaced by [MASK]."""
    random: float = 0.1
    """Share of the predicted tokens that are replaced by a random token; the rest stays as it is."""
    masking: MaskingOptions = Subword()
    """What is hidden together."""
    duplicates: int | None = None
    """Choices for each example, taken in turn epoch by epoch (static masking); none chooses anew in every epoch."""
    final_rate: float | None = None
    """Rate from step `rate_steps` on, reached in a straight line; none keeps `rate`."""
    rate_steps: int | None = None
    """Steps over which the rate moves to `final_rate`."""

    name: ClassVar[str] = "mlm"
    predicts_tokens: ClassVar[bool] = True
    hides_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses shares that are none."""
        here = f"tasks.{self.name}"
        for field, value in (("rate", self.rate), ("final_rate", self.final_rate)):
            if value is not None and not 0 < value <= 1:
                raise ValueError(f"{here}.{field}={value} must be above 0 and at most 1; BERT has 0.15")
        if min(self.mask, self.random) < 0 or self.mask + self.random > 1 + 1e-9:
            raise ValueError(
                f"{here}.mask={self.mask} and {here}.random={self.random} must add up to at most 1"
            )
        if self.duplicates is not None and self.duplicates < 1:
            raise ValueError(
                f"{here}.duplicates={self.duplicates} must be at least 1; none masks dynamically"
            )
        if (self.final_rate is None) != (self.rate_steps is None):
            raise ValueError(
                f"{here}.final_rate={self.final_rate} and {here}.rate_steps={self.rate_steps} go together: "
                f"set both or none"
            )
        if self.rate_steps is not None and self.rate_steps < 1:
            raise ValueError(f"{here}.rate_steps={self.rate_steps} must be at least 1; none keeps the rate")

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """A distribution over the vocabulary at every chosen position."""
        return {self.name: MaskedLmHead(config, self.name)}

    def corrupt(self, batch: Batch, key: Key, vocabulary: Vocabulary, step: Int[Array, ""]) -> Batch:
        """Chooses positions row by row and hides what stands there."""
        length = batch.tokens.shape[1]
        special = jnp.asarray(vocabulary.special)[batch.tokens]
        epoch = batch.epoch if self.duplicates is None else batch.epoch % self.duplicates
        draws = row_draws(key, batch.example_id, epoch, 4, length)
        positions, weights, together = choose(
            self.masking,
            unit(draws[:, :2]),
            word_starts(batch, vocabulary),
            batch.mask & ~special,
            jnp.maximum(self.numbers(step, length)[batch.mask.sum(1)], 1),
            slots=max(1, round(self.predicted(()) * length)),
        )
        labels = jnp.take_along_axis(batch.tokens, positions, axis=1)
        ordinary = jnp.asarray(np.flatnonzero(~vocabulary.special), jnp.int32)
        other = ordinary[draws[:, 2, : positions.shape[1]] % ordinary.size]
        fate = jnp.take_along_axis(unit(draws[:, 3]), together, axis=1)
        hidden = jnp.where(fate < self.mask, vocabulary.mask, labels)
        hidden = jnp.where((fate >= self.mask) & (fate < self.mask + self.random), other, hidden)
        # A slot that is not used writes its own token back; the positions of a row are distinct, so no two writes meet.
        tokens = put(batch.tokens, positions, jnp.where(weights, hidden, labels))
        return batch.replace(tokens=tokens).with_targets(
            self.name, positions=positions, labels=labels, weights=weights.astype(jnp.float32)
        )

    def numbers(self, step: Int[Array, ""], length: int) -> Int[Array, "rows"]:
        """round(rate * n), as Python rounds, for rows of n = 0 ... L real tokens."""
        n = np.arange(length + 1)
        if self.final_rate is None or self.rate_steps is None:
            # In double precision: single precision has no 0.15 * 190 = 28.5, and would round to the other side.
            return jnp.asarray(np.rint(self.rate * n), jnp.int32)
        done = jnp.clip(step.astype(jnp.float32) / self.rate_steps, 0.0, 1.0)
        rate = self.rate + (self.final_rate - self.rate) * done
        return jnp.rint(rate * n.astype(np.float32)).astype(jnp.int32)

    def predicted(self, tasks: Sequence[Task]) -> float:
        """The rate, or the highest that its schedule reaches."""
        del tasks
        return max(self.rate, self.final_rate or 0.0)

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of chosen tokens."""
        return batch.targets[self.name]["weights"].sum()

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the chosen tokens."""
        return token_metrics(outputs[self.name], batch.targets[self.name])


def token_metrics(logits: Float[Array, "B S V"], target: Mapping[str, Array]) -> Metrics:
    """Cross-entropy and accuracy of predicted tokens."""
    right = is_first(logits, target["labels"]).astype(jnp.float32)
    return {
        "loss": weighted(cross_entropy(logits, target["labels"]), target["weights"]),
        "accuracy": weighted(right, target["weights"]),
    }


def word_starts(batch: Batch, vocabulary: Vocabulary) -> Bool[Array, "B L"]:
    """Where words start: by the segmenter that the corpus was prepared with, else by the vocabulary."""
    if "words" in batch.targets:
        return batch.targets["words"]["starts"]
    return jnp.asarray(vocabulary.starts_word)[batch.tokens]


def put(
    tokens: Int[Array, "B L"], positions: Int[Array, "B S"], values: Int[Array, "B S"]
) -> Int[Array, "B L"]:
    """The tokens with others at given positions of each row."""
    write = jax.vmap(lambda row, where, value: row.at[where].set(value))
    return write(tokens, positions, values.astype(tokens.dtype))
