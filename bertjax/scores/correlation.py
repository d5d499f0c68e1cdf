"""Correlation of predicted and given values, as STS-B reports it: Pearson's, and Spearman's with ties.

    Pearson   Σ (x−x̄)(y−ȳ) / sqrt(Σ (x−x̄)² Σ (y−ȳ)²)
    Spearman  Pearson of the ranks; equal values share the mean of their ranks

Equal to scipy's. Where one side is constant, or holds a nan, the correlation is nan; for fewer than two
pairs it is an error.
"""

import numpy as np
from numpy.typing import ArrayLike

from bertjax.scores.inputs import pair
from bertjax.types import Float

__all__ = ["pearson", "ranks", "spearman"]


def pearson(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Linear correlation, -1 to 1."""
    return _pearson(*_values(predictions, labels))


def spearman(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Correlation of the ranks, -1 to 1."""
    first, second = _values(predictions, labels)
    if np.isnan(first).any() or np.isnan(second).any():
        return float("nan")  # a nan has no rank
    return _pearson(ranks(first), ranks(second))


def ranks(values: ArrayLike) -> Float[np.ndarray, "B"]:
    """1 for the smallest value, B for the largest; equal ones share the mean of their ranks."""
    _, place, number = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    last = np.cumsum(number)
    return (last - (number - 1) / 2)[place]


def _pearson(first: np.ndarray, second: np.ndarray) -> float:
    if (first == first[0]).all() or (second == second[0]).all():
        return float(
            "nan"
        )  # asked here, because rounding leaves a constant with a tiny spread about its mean
    with np.errstate(invalid="ignore"):  # an infinite value makes the correlation nan
        first, second = first - first.mean(), second - second.mean()
        # Scaled, so that no square overflows or vanishes.
        first, second = first / np.abs(first).max(), second / np.abs(second).max()
        found = (first @ second) / np.sqrt(first @ first) / np.sqrt(second @ second)
    return float(np.clip(found, -1.0, 1.0))


def _values(predictions: ArrayLike, labels: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    first, second = pair(predictions, labels)
    if len(first) < 2:
        raise ValueError("1 prediction has no correlation: give 2 or more")
    return first.astype(np.float64), second.astype(np.float64)
