"""Precision, recall and F1 from three counts of every class, and the ways to average them over classes.

    precision = hits / predicted      recall = hits / actual      F1 = 2 hits / (predicted + actual)

    micro     the counts of all classes added up, then the ratio
    macro     the mean of the classes' ratios
    weighted  the same, each class weighted by its actual number

Classes, labels of a multi-label task and types of entities differ only in how they are counted. A ratio of
0 by 0 is 0, and so is every average where there is no class at all (seqeval's macro average is nan there).
"""

import dataclasses
from typing import Literal

import numpy as np

from bertjax.settings import suggest
from bertjax.types import Float, Int

__all__ = ["Average", "Counts", "bincount", "check_average", "divide"]

Average = Literal["micro", "macro", "weighted"]
AVERAGES = ("micro", "macro", "weighted")


def check_average(average: str, legal: tuple[str, ...] = AVERAGES) -> None:
    """Refuses a name that is none of the legal averages."""
    if average not in legal:
        raise ValueError(f"average={average!r}: {suggest(average, legal)}")


def divide(above: np.ndarray, below: np.ndarray) -> Float[np.ndarray, "..."]:
    """above / below, and 0 where there is nothing below."""
    shape = np.broadcast_shapes(np.shape(above), np.shape(below))
    return np.divide(above, below, out=np.zeros(shape), where=np.asarray(below) != 0)


@dataclasses.dataclass(frozen=True)
class Counts:
    """How often each class was predicted, was there, and both."""

    names: tuple[str, ...]
    hits: Int[np.ndarray, "C"]
    predicted: Int[np.ndarray, "C"]
    actual: Int[np.ndarray, "C"]

    @property
    def precisions(self) -> Float[np.ndarray, "C"]:
        """Of every class."""
        return divide(self.hits, self.predicted)

    @property
    def recalls(self) -> Float[np.ndarray, "C"]:
        """Of every class."""
        return divide(self.hits, self.actual)

    @property
    def f1s(self) -> Float[np.ndarray, "C"]:
        """Of every class."""
        return divide(2 * self.hits, self.predicted + self.actual)

    def precision(self, average: Average = "micro") -> float:
        """Which share of what was predicted is right."""
        return self._average(self.precisions, self.predicted, average)

    def recall(self, average: Average = "micro") -> float:
        """Which share of what is there was predicted."""
        return self._average(self.recalls, self.actual, average)

    def f1(self, average: Average = "micro") -> float:
        """The harmonic mean of precision and recall: for micro and for every class, not of their averages."""
        return self._average(self.f1s, self.predicted + self.actual, average, numerator=2)

    def table(self) -> dict[str, dict[str, float]]:
        """Name of every class -> precision, recall, f1 and its actual number (support)."""
        columns = (self.precisions, self.recalls, self.f1s, self.actual)
        names = ("precision", "recall", "f1", "support")
        return {
            name: {column: float(value) for column, value in zip(names, row, strict=True)}
            for name, *row in zip(self.names, *columns, strict=True)
        }

    def _average(
        self, values: np.ndarray, below: np.ndarray, average: Average, *, numerator: int = 1
    ) -> float:
        check_average(average)
        if average == "micro":
            return float(divide(numerator * self.hits.sum(), below.sum()))
        weights = self.actual if average == "weighted" else np.ones(len(values))
        return float(divide((values * weights).sum(), weights.sum()))


def bincount(codes: Int[np.ndarray, "B"], size: int) -> Int[np.ndarray, "C"]:
    """How often each of the codes 0 ... size-1 occurs; larger ones are not counted."""
    return np.bincount(codes, minlength=size)[:size]
