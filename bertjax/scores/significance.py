"""How far a score can be trusted, and whether two systems differ: resampling, for any score, seeded.

`bootstrap` draws as many examples as there are, with replacement, again and again; the middle part of the
scores of these sets is an interval for the score (Efron, 1979; percentile method). It covers the choice of
the examples, not the seed of training: for that, train with several seeds.

`paired_randomisation` asks how often two systems would differ as much as they do if it did not matter which
one gave which prediction: it swaps the predictions of random examples (approximate randomisation: Noreen,
1989; Yeh, 2000).

    p = (1 + trials that differ at least as much) / (1 + trials)

A statistic is a function of one or several arrays (or lists), all with one entry for each example:

    bootstrap(classification.matthews, predictions, labels)
    paired_randomisation(np.mean, first_f1s, second_f1s)
    paired_randomisation(classification.matthews, first_predictions, second_predictions, labels)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from bertjax.scores.inputs import check_lengths, check_number
from bertjax.types import Bool, Int

__all__ = ["Comparison", "Interval", "bootstrap", "paired_randomisation"]

Column = Sequence[Any] | np.ndarray


class Interval(NamedTuple):
    """A score and the limits that hold the given share of its resamples."""

    value: float
    low: float
    high: float


class Comparison(NamedTuple):
    """By how much the first system is better, and how likely chance alone differs as much (two-sided)."""

    difference: float
    p_value: float


def bootstrap(
    statistic: Callable[..., float],
    *columns: Column,
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """The score of the whole set, and its interval; nan where a resample has no score (a constant's correlation)."""
    check_number("resamples", resamples)
    if not 0 < confidence < 1:
        raise ValueError(f"confidence={confidence}: choose a share between 0 and 1, such as 0.95")
    size = _size(columns)
    random = np.random.default_rng(seed)
    values = [statistic(*_taken(columns, random.integers(size, size=size))) for _ in range(resamples)]
    low, high = np.quantile(np.array(values, np.float64), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(*columns)), float(low), float(high))


def paired_randomisation(
    statistic: Callable[..., float],
    first: Column,
    second: Column,
    *shared: Column,
    trials: int = 1000,
    seed: int = 0,
) -> Comparison:
    """statistic(first, *shared) - statistic(second, *shared), and the chance of a difference as large."""
    check_number("trials", trials)
    size = _size((first, second, *shared))
    random = np.random.default_rng(seed)

    def difference(one: Column, other: Column) -> float:
        return float(statistic(one, *shared) - statistic(other, *shared))

    observed = difference(first, second)
    if np.isnan(observed):
        raise ValueError("the statistic is nan for one of the systems: it has no score to compare")
    # Sums in another order differ in their last digits; a swap of equal predictions must count as a tie.
    limit = abs(observed) - 1e-12 * max(1.0, abs(observed))
    extreme = sum(
        abs(difference(*_swapped(first, second, random.random(size) < 0.5))) >= limit for _ in range(trials)
    )
    return Comparison(observed, (1 + extreme) / (1 + trials))


def _size(columns: Sequence[Column]) -> int:
    if not columns:
        raise ValueError("0 columns have no score: give at least one value for each example")
    for column in columns:
        check_lengths(columns[0], column, what="entries of another column")
    return len(columns[0])


def _taken(columns: Sequence[Column], places: Int[np.ndarray, "B"]) -> list[Column]:
    return [
        column[places] if isinstance(column, np.ndarray) else [column[place] for place in places]
        for column in columns
    ]


def _swapped(first: Column, second: Column, swap: Bool[np.ndarray, "B"]) -> tuple[Column, Column]:
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        wide = swap.reshape(-1, *[1] * (first.ndim - 1))
        return np.where(wide, second, first), np.where(wide, first, second)
    pairs = [(b, a) if turn else (a, b) for a, b, turn in zip(first, second, swap, strict=True)]
    return [a for a, _ in pairs], [b for _, b in pairs]
