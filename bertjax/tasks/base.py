"""The protocol of a task: what it does to a batch, which heads it needs, and what its outputs are worth.

    check(model, format)      refuses an encoder, an input format or a companion that the task cannot work with
    corrupt(batch)            inputs and targets, on the device, random by (seed, example id, epoch) alone
    rewriters(config)         models that make the encoder's inputs, which few tasks need
    heads(config)             modules that stand on the encoder
    normaliser(batch)         how many predictions its loss is the mean of, known before the forward pass
    loss(outputs, batch)      Metrics; the entry "loss" is what is trained on

All tasks of a run share one corrupted batch and one pass through the encoder.

The loss of a step is sum over tasks of weight * loss.sum / normaliser(whole batch). Because the normaliser is taken
over the whole batch, the gradients of microbatches simply add up to those of the big batch.
"""

import abc
import dataclasses
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Format
from bertjax.layers.config import EncoderConfig
from bertjax.models import cost
from bertjax.models.network import Network
from bertjax.models.task_heads import HeadOptions
from bertjax.types import Array, Batch, Float, Int, Key, Metrics, UInt


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Base of every task's options; the task is its options and nothing else."""

    weight: float = 1.0
    """Share of this task in the loss."""

    predicts_tokens: ClassVar[bool] = False  # whether a prediction costs a row of logits over the vocabulary
    hides_tokens: ClassVar[bool] = False  # whether it replaces tokens; one task of a run may
    makes_rows: ClassVar[bool] = (
        False  # whether it makes other rows of those of the data; then all of a batch are one
    )

    @property
    @abc.abstractmethod
    def name(self) -> str:
        """Of its metrics and of its targets."""

    def serves(self, batch: Batch) -> bool:
        """Whether it learns from a batch; those of labelled tasks are of one task each."""
        del batch
        return True

    @abc.abstractmethod
    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """The modules this task puts on the encoder, by name."""

    def rewriters(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """The modules that turn the corrupted batch into the one that the encoder reads, by name."""
        del config
        return {}

    def stacks(self, config: EncoderConfig) -> Mapping[str, EncoderConfig]:
        """The heads that are stacks of layers and may start from those of an encoder: the config of each by name."""
        del config
        return {}

    def predicted(self, tasks: Sequence["Task"]) -> float:
        """Share of the tokens for which logits over the vocabulary are computed, beside these tasks."""
        del tasks
        return 0.0

    def extra_flops(self, config: EncoderConfig, *, attended: float) -> float:
        """Operations of a training step per token besides those of the encoder and of the vocabulary logits."""
        del config, attended
        return 0.0

    @abc.abstractmethod
    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of predictions in a corrupted batch."""

    @abc.abstractmethod
    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Sums and weights over a corrupted batch; must contain "loss"."""

    def corrupt(self, batch: Batch, key: Key, vocabulary: Vocabulary, step: Int[Array, ""]) -> Batch:
        """Inputs and targets; the identity for a task that reads the labels of the data.

        Nothing random may depend on the step: it is here for schedules.
        """
        del key, vocabulary, step
        return batch

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence["Task"]) -> None:
        """Raises a ValueError where the task does not go with the encoder, the input format or the other tasks."""
        del model, format, tasks


def check(tasks: Sequence[Task], model: EncoderConfig, format: Format, microbatches: int = 1) -> None:
    """Refuses tasks that cannot be learned together, or from such rows."""
    names = [task.name for task in tasks]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"tasks={','.join(names)} names {name} twice: set its weight instead")
    hiding = [task.name for task in tasks if task.hides_tokens]
    if len(hiding) > 1:
        raise ValueError(
            f"tasks={','.join(names)}: {' and '.join(hiding)} would each hide tokens from the other in one pass; "
            f"keep one of them"
        )
    makers = [task.name for task in tasks if task.makes_rows]
    if makers and microbatches > 1:
        raise ValueError(
            f"the task {makers[0]} compares all rows of a batch and train.microbatches={microbatches} takes it apart: "
            f"set train.microbatches=1"
        )
    for task in tasks:
        task.check(model, format, tasks)


def make_network(tasks: Sequence[Task], config: EncoderConfig, heads: Sequence[HeadOptions] = ()) -> Network:
    """The encoder with everything that the tasks put before it and on it, and with heads that no task learns."""
    return Network(
        config,
        heads={
            **{options.name: options.module(config) for options in heads},
            **{name: head for task in tasks for name, head in task.heads(config).items()},
        },
        rewriters={name: module for task in tasks for name, module in task.rewriters(config).items()},
    )


def corrupt(
    tasks: Sequence[Task], batch: Batch, vocabulary: Vocabulary, seed: int, step: int | Int[Array, ""] = 0
) -> Batch:
    """The batch after every task has had its turn, each with a key of its own; those that make rows come first."""
    for task in sorted(tasks, key=lambda task: not task.makes_rows):
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(task.name.encode()))
        batch = task.corrupt(batch, key, vocabulary, jnp.asarray(step))
    return batch


def row_keys(key: Key, example_id: Int[Array, "B"], epoch: Int[Array, "B"]) -> Array:
    """One key a row: a function of the example and the epoch, not of where in a batch or on which host it stands."""
    return jax.vmap(lambda e, i: jax.random.fold_in(jax.random.fold_in(key, e), i))(epoch, example_id)


def row_draws(
    key: Key, example_id: Int[Array, "B"], epoch: Int[Array, "B"], number: int, length: int
) -> UInt[Array, "B number length"]:
    """Independent random 32-bit numbers for every row, by its own key; one call, since each costs compile time."""
    keys = row_keys(key, example_id, epoch)
    return jax.vmap(lambda k: jax.random.bits(k, (number, length), jnp.uint32))(keys)


def unit(bits: UInt[Array, "*B"]) -> Float[Array, "*B"]:
    """Uniform numbers, 0 <= u < 1, in steps of 2^-24."""
    return (bits >> 8).astype(jnp.float32) * jnp.float32(2.0**-24)


def flops_per_token(
    tasks: Sequence[Task], config: EncoderConfig, *, attended: float, predicted: float | None = None
) -> float:
    """Operations of a training step per token; `predicted` is the share of tokens with logits, if it was counted."""
    if predicted is None:
        predicted = sum(task.predicted(tasks) for task in tasks)
    encoder = cost.flops_per_token(config, attended=attended, predicted=predicted)
    return encoder + sum(task.extra_flops(config, attended=attended) for task in tasks)


def normalisers(tasks: Sequence[Task], batch: Batch) -> dict[str, Array]:
    """The number of predictions of every task, never less than one."""
    return {task.name: jnp.maximum(task.normaliser(batch), 1.0) for task in tasks if task.serves(batch)}


def total_loss(
    tasks: Sequence[Task], outputs: Mapping[str, Any], batch: Batch, counts: Mapping[str, Array]
) -> tuple[jax.Array, Metrics]:
    """The number to differentiate, and every task's metrics under `task_metric`."""
    total = jnp.zeros((), jnp.float32)
    metrics: Metrics = {}
    for task in tasks:
        if not task.serves(batch):
            continue
        own = task.loss(outputs, batch)
        total = total + task.weight * own["loss"][0] / counts[task.name]
        metrics.update({f"{task.name}_{name}": value for name, value in own.items()})
    return total, metrics


def summarise(tasks: Sequence[Task], values: Mapping[str, float]) -> dict[str, float]:
    """Means of all metrics, led by the total loss: the weighted sum of the tasks' losses."""
    losses = [task.weight * values[f"{task.name}_loss"] for task in tasks if f"{task.name}_loss" in values]
    return {"loss": sum(losses), **values}
