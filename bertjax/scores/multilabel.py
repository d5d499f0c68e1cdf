"""Scores of any number of labels for each example: [B C], true where a label applies. Equal to scikit-learn's.

`samples` is the mean over examples of the F1 of each; an example that has no label and is given none counts
0 there, as in scikit-learn, though its exact match is 1.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bertjax.scores.counts import Average, Counts, check_average, divide
from bertjax.scores.inputs import pair
from bertjax.types import Bool, Float

__all__ = ["counts", "exact_match", "f1", "matches"]


def counts(predictions: ArrayLike, labels: ArrayLike) -> Counts:
    """How often each label was predicted, applied, and both."""
    found, wanted = _flags(predictions, labels)
    return Counts(
        names=tuple(str(label) for label in range(found.shape[1])),
        hits=(found & wanted).sum(0),
        predicted=found.sum(0),
        actual=wanted.sum(0),
    )


def f1(predictions: ArrayLike, labels: ArrayLike, *, average: Average | Literal["samples"]) -> float:
    """The F1 of all labels."""
    check_average(average, ("micro", "macro", "weighted", "samples"))
    if average != "samples":
        return counts(predictions, labels).f1(average)
    found, wanted = _flags(predictions, labels)
    return float(divide(2 * (found & wanted).sum(1), found.sum(1) + wanted.sum(1)).mean())


def matches(predictions: ArrayLike, labels: ArrayLike) -> Float[np.ndarray, "B"]:
    """1 for every example whose labels are all right, 0 for the others."""
    found, wanted = _flags(predictions, labels)
    return (found == wanted).all(1).astype(np.float64)


def exact_match(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Share of the examples whose labels are all right."""
    return float(matches(predictions, labels).mean())


def _flags(
    predictions: ArrayLike, labels: ArrayLike
) -> tuple[Bool[np.ndarray, "B C"], Bool[np.ndarray, "B C"]]:
    found, wanted = pair(predictions, labels, rank=2)
    for name, array in (("predictions", found), ("labels", wanted)):
        if array.dtype != bool and not np.isin(array, (0, 1)).all():
            raise ValueError(
                f"{name} hold other values than 0 and 1: compare the probabilities with 0.5 first"
            )
    return found.astype(bool), wanted.astype(bool)
