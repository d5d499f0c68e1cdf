"""Records in memory for the tests of labelled tasks, and oracles: what a model that is always right would give."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bertjax.data.labelled.examples import LabelledExamples
from bertjax.data.labelled.split import Split
from bertjax.tasks import LabelledTask
from bertjax.types import Batch


def make_split(**columns: Any) -> Split:
    """A split of a file whose first record stands in line 2."""
    return Split("train.tsv", columns, lines=list(range(2, 2 + len(next(iter(columns.values()))))))


def whole_batch(task: LabelledTask, examples: LabelledExamples, length: int, empty: int = 1) -> Batch:
    """All examples as one batch, and some empty ones at its end."""
    indices = np.array([*range(len(examples)), *[-1] * empty])
    rows = examples.batch(np.zeros(len(indices)), indices, length)
    inputs = {name: rows[name] for name in ("tokens", "mask", "types", "positions", "example_id", "epoch")}
    return Batch(
        **inputs, segments=None, targets={task.name: {name: rows[name] for name in examples.targets}}
    )


def loss_of(task: LabelledTask, logits: Any, batch: Batch) -> dict[str, float]:
    """The means of a task's metrics for given outputs of its head, compiled as in a step."""
    found = jax.jit(lambda logits, batch: task.loss({task.name: logits}, batch))(logits, batch)
    return {name: float(total) / float(weight) for name, (total, weight) in found.items()}


def outcomes_of(task: LabelledTask, logits: Any, batch: Batch) -> Mapping[str, list[np.ndarray]]:
    """What the host gets of a batch: a list over its examples."""
    run = jax.jit(lambda logits, batch: task.outcomes({task.name: logits}, batch))
    found = jax.device_get(run(logits, batch))
    real = batch.example_id[:: task.group] >= 0
    return {name: [np.asarray(value) for value in values[real]] for name, values in found.items()}
