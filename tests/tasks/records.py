"""Records in memory for the tests of labelled tasks, and oracles: what a model that is always right would give."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bertjax.data.fast_tokenizer import FastTokenizer, Special
from bertjax.data.labelled import made_up
from bertjax.data.labelled.examples import LabelledExamples
from bertjax.data.labelled.split import Split
from bertjax.tasks import LabelledTask
from bertjax.types import Batch

WORDPIECE = made_up.tokenizer()


def byte_level() -> FastTokenizer:
    """Byte-level BPE, whose tokens may begin with a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([" ".join(made_up.WORDS)] * 3, trainer)
    Special().add_to(fast)
    return FastTokenizer({"tokenizer.json": fast.to_str().encode()})


TOKENIZERS = {"wordpiece": WORDPIECE, "byte_level": byte_level()}


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


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))
