"""The words of the house: the letters of its shapes, its array types, and the records every layer passes on.

Letters, the same in annotations and in einsum strings everywhere:

    B batch   L query length   M key length   D width   H heads   K head size
    F feed-forward   V vocabulary   N layers   C classes   S predictions per sequence

Annotations such as `Float[Array, "B L D"]` come from jaxtyping and are checked at run time by the tests.
jaxtyping is not needed to run: without it an annotation is simply the array type.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

try:
    from jaxtyping import Bool, Float, Int, UInt
except ImportError:  # an accelerator image with only jax, flax, optax and orbax

    class _Unchecked:
        def __getitem__(self, item: Any) -> Any:
            return item[0]

    Bool = Float = Int = UInt = _Unchecked()  # type: ignore[assignment]

__all__ = [
    "Array",
    "Batch",
    "Bool",
    "EncoderOutput",
    "Float",
    "Int",
    "Key",
    "Metrics",
    "Tree",
    "TrainState",
    "UInt",
]

Array = jax.Array | np.ndarray
Key = jax.Array
Tree = Any  # a nested dict of arrays

# name -> (sum, weight). Adding sums and weights is the only way to aggregate: over microbatches, hosts and batches.
Metrics = dict[str, tuple[Any, Any]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """What enters a step. Models read the first five fields only; `mask` is True at real tokens."""

    tokens: Any  # int [B L]
    mask: Any  # bool [B L]
    types: Any  # int [B L], 0 and 1 for the two sentences of a pair
    positions: Any  # int [B L], restarts with each segment
    segments: Any  # int [B L], which packed document a token belongs to
    targets: Mapping[str, Mapping[str, Any]]  # task name -> what its loss needs
    example_id: Any  # int [B], unique in the corpus; with the epoch it keys everything random about a row
    epoch: Any  # int [B]

    def replace(self, **changes: Any) -> "Batch":
        """This batch with some fields changed."""
        return dataclasses.replace(self, **changes)

    def with_targets(self, task: str, **targets: Any) -> "Batch":
        """This batch with the targets of one task added to those it carries."""
        mine = {**self.targets.get(task, {}), **targets}
        return self.replace(targets={**self.targets, task: mine})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class EncoderOutput:
    """What leaves an encoder. `states` and `attention` are filled only when asked for."""

    hidden: Any  # float [B L D]
    pooled: Any  # float [B D]
    states: Any = None  # float [N+1 B L D], the embeddings and the output of every layer
    attention: Any = None  # float [N B H L M]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Everything a run must remember: arrays only, so that a checkpoint is this and nothing else."""

    step: Any  # int []
    params: Tree
    opt_state: Tree
