"""Replaced token detection (ELECTRA, 2003.10555, Section 2): is a token the one of the text, or a sample?

    logit[i] = w . act(h[i] W + b),     label[i] = 1 where the sample differs from the text, else 0

A sample that happens to be the token of the text counts as text. All real tokens are judged, the special ones
included; `over=hidden` judges only those that were sampled, which is the paper's "ELECTRA 15 %" (Section 3.5).
ELECTRA's loss is `tasks=generator,rtd` with the weights 1 and 50.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.mlp import ACTIVATIONS
from bertjax.metrics import weighted
from bertjax.tasks.base import Task
from bertjax.types import Array, Batch, EncoderOutput, Float, Metrics


class DetectionHead(nn.Module):
    """One logit for every token."""

    config: EncoderConfig

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "rows width"]
    ) -> Float[Array, "B L"]:
        """Float32 logits of being a sample."""
        del batch, table
        c = self.config
        square, axes = (c.width, c.width), ("width", "output")
        x = dense(c, "bld,de->ble", square, axes, "head", name="transform")(output.hidden)
        x = ACTIVATIONS[c.activation](x)
        logits = dense(c, "bld,dc->blc", (c.width, 1), ("width", "classes"), "head", name="output")(x)
        return logits[:, :, 0].astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class SampledTask(Task):
    """Reads what a generator has written."""

    over: Literal["all", "hidden"] = "all"
    """Which tokens count: all real ones, or those that the generator sampled."""

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """There must be samples."""
        del model, format
        if not any(task.name == "generator" for task in tasks):
            names = ",".join(task.name for task in tasks)
            raise ValueError(
                f"tasks={names}: the task {self.name} judges the samples of a generator and there is none: "
                f"set tasks=generator,{self.name}"
            )

    def counted(self, batch: Batch) -> Float[Array, "B L"]:
        """1 for the tokens that count."""
        if self.over == "all":
            return batch.mask.astype(jnp.float32)
        target = batch.targets["generator"]
        place = jax.vmap(lambda row, where, value: row.at[where].set(value))
        return place(jnp.zeros(batch.mask.shape, jnp.float32), target["positions"], target["weights"])

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of tokens that count."""
        return self.counted(batch).sum()


@dataclasses.dataclass(frozen=True)
class Rtd(SampledTask):
    """Replaced token detection."""

    weight: float = 50.0
    """Share of this task in the loss; the paper has 50 against the generator's 1."""

    name: ClassVar[str] = "rtd"

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """One logit for every token."""
        return {"rtd": DetectionHead(config)}

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Binary cross-entropy and accuracy, the share of samples that are found, and of findings that are samples."""
        logits, replaced = outputs["rtd"], outputs["generator"]["replaced"]
        counts, label, found = self.counted(batch), replaced.astype(jnp.float32), logits > 0
        cost = jax.nn.softplus(logits) - label * logits
        hits = (counts * (found & replaced)).sum()
        return {
            "loss": weighted(cost, counts),
            "accuracy": weighted((found == replaced).astype(jnp.float32), counts),
            "recall": (hits, (counts * replaced).sum()),
            "precision": (hits, (counts * found).sum()),
        }
