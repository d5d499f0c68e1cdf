"""Rows of the made-up corpus as batches on the host, for the tests of tasks."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from flax.core import meta

from bertjax import tasks
from bertjax.data.examples import Format
from bertjax.data.pairs import SegmentPair
from bertjax.data.synthetic import SyntheticCorpus
from bertjax.models.network import Network
from bertjax.tasks import Task
from bertjax.types import Batch

VOCAB = 261
CORPUS = SyntheticCorpus(1000, VOCAB, seed=7)
VOCABULARY = CORPUS.vocabulary  # tokens whose number is 3 modulo 4 continue a word
PAIRS = SegmentPair(negatives="none")


def make_rows(
    count: int, *, format: Format = PAIRS, length: int = 128, epoch: int = 0, first: int = 0
) -> Batch:
    """Consecutive rows of an epoch."""
    examples = format.examples(CORPUS, length, seed=0)
    numbers = np.arange(first, first + count)
    rows = examples.rows(np.full(count, epoch), numbers % len(examples))
    targets = {"pair": {"label": rows["pair_label"]}} if "pair_label" in rows else {}
    inputs = {name: rows[name] for name in ("tokens", "mask", "types", "positions", "segments")}
    # Rows may come round again: an id of their own keeps what is drawn for them independent.
    return Batch(**inputs, targets=targets, example_id=numbers.astype(np.int32), epoch=rows["epoch"])


@functools.cache
def _corrupt(chosen: tuple[Task, ...]) -> Any:
    return jax.jit(lambda batch, step: tasks.corrupt(chosen, batch, VOCABULARY, 0, step))


def corrupt(chosen: Task | Sequence[Task], batch: Batch, *, step: int = 0) -> Batch:
    """The corrupted batch, fetched from the device."""
    chosen = (chosen,) if isinstance(chosen, Task) else tuple(chosen)
    return jax.device_get(_corrupt(chosen)(batch, step))


def chosen_positions(batch: Batch, task: str = "mlm") -> np.ndarray:
    """True where a token is to be predicted, [B L]."""
    target = batch.targets[task]
    result = np.zeros(batch.tokens.shape, bool)
    np.put_along_axis(result, target["positions"], target["weights"] > 0, axis=1)
    return result


def real_text(batch: Batch) -> np.ndarray:
    """True at real tokens that are not special, [B L], of a batch that is not corrupted."""
    return batch.mask & ~VOCABULARY.special[batch.tokens]


def runs(marks: np.ndarray) -> list[tuple[int, int, int]]:
    """(row, start, stop) of every maximal run of True."""
    edges = np.diff(np.pad(marks, ((0, 0), (1, 1))).astype(int), axis=1)
    row, start = np.nonzero(edges == 1)
    _, stop = np.nonzero(edges == -1)
    return list(zip(row.tolist(), start.tolist(), stop.tolist(), strict=True))


def random_parameters(network: Network, batch: Batch, seed: int = 0, scale: float = 0.2) -> Any:
    """Random values for every parameter, biases and scales too; nothing is compiled for them."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), batch)
    return jax.tree.map(
        lambda leaf: (scale * random.normal(size=leaf.shape)).astype(np.float32), meta.unbox(shapes)
    )


def forward(network: Network, params: Any, batch: Batch) -> Any:
    """The outputs of a network, compiled and fetched."""
    return jax.device_get(jax.jit(functools.partial(network.apply, train=False))(params, batch))
