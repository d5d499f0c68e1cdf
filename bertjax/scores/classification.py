"""Scores of one label out of several: accuracy, precision, recall, F1, Matthews and the confusion matrix.

    Matthews (multi-class, Gorodkin 2004):  (n·c − Σ p_k t_k) / sqrt((n² − Σ p_k²) (n² − Σ t_k²))

with n examples, c right ones, p_k predictions of class k and t_k labels of class k. Equal to
scikit-learn's. It is 0 where only one class is predicted or only one is there, in scikit-learn and here.

Labels may be integers or strings. The classes are those that occur on either side unless `classes` names
them; a class that it leaves out is not scored, as relation extraction leaves out `no_relation`.
"""

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from bertjax.scores.counts import Average, Counts, bincount, check_average
from bertjax.scores.inputs import pair
from bertjax.types import Float, Int

__all__ = ["accuracy", "confusion", "counts", "f1", "hits", "matthews", "precision", "recall"]


def hits(predictions: ArrayLike, labels: ArrayLike) -> Float[np.ndarray, "B"]:
    """1 for every example that is right, 0 for the others."""
    found, wanted = pair(predictions, labels)
    return (found == wanted).astype(np.float64)


def accuracy(predictions: ArrayLike, labels: ArrayLike) -> float:
    """Share of the examples that are right."""
    return float(hits(predictions, labels).mean())


def confusion(
    predictions: ArrayLike, labels: ArrayLike, *, classes: ArrayLike | None = None
) -> Int[np.ndarray, "C C"]:
    """How often the label of the row was predicted as that of the column; a label outside `classes` is an error."""
    found, wanted = pair(predictions, labels)
    names, found_codes, wanted_codes = _coded(found, wanted, classes)
    size = len(names)
    for values, codes in ((found, found_codes), (wanted, wanted_codes)):
        if (codes == size).any():
            raise ValueError(
                f"label {values[codes == size][0]} is not among classes={names.tolist()}: add it"
            )
    return bincount(wanted_codes * size + found_codes, size * size).reshape(size, size)


def counts(predictions: ArrayLike, labels: ArrayLike, *, classes: ArrayLike | None = None) -> Counts:
    """How often each class was predicted, was there, and both."""
    found, wanted = pair(predictions, labels)
    names, found_codes, wanted_codes = _coded(found, wanted, classes)
    size = len(names)
    return Counts(
        names=tuple(str(name) for name in names),
        hits=bincount(wanted_codes[found_codes == wanted_codes], size),
        predicted=bincount(found_codes, size),
        actual=bincount(wanted_codes, size),
    )


def precision(
    predictions: ArrayLike, labels: ArrayLike, *, average: Average | Literal["binary"], positive: object = 1
) -> float:
    """Which share of what was predicted is right; `binary` looks at the class `positive` alone."""
    return _score(predictions, labels, average, positive).precision(_ratio(average))


def recall(
    predictions: ArrayLike, labels: ArrayLike, *, average: Average | Literal["binary"], positive: object = 1
) -> float:
    """Which share of what is there was predicted; `binary` looks at the class `positive` alone."""
    return _score(predictions, labels, average, positive).recall(_ratio(average))


def f1(
    predictions: ArrayLike, labels: ArrayLike, *, average: Average | Literal["binary"], positive: object = 1
) -> float:
    """The harmonic mean of precision and recall; `binary` looks at the class `positive` alone."""
    return _score(predictions, labels, average, positive).f1(_ratio(average))


def matthews(predictions: ArrayLike, labels: ArrayLike) -> float:
    """The correlation of predicted and actual class, -1 to 1."""
    counted = counts(predictions, labels)
    predicted, actual = counted.predicted.astype(np.float64), counted.actual.astype(np.float64)
    total = actual.sum()
    spread = (total**2 - predicted @ predicted) * (total**2 - actual @ actual)
    if spread == 0:
        return 0.0
    return float((total * counted.hits.sum() - predicted @ actual) / np.sqrt(spread))


def _score(predictions: ArrayLike, labels: ArrayLike, average: str, positive: object) -> Counts:
    check_average(average, ("binary", "micro", "macro", "weighted"))
    if average != "binary":
        return counts(predictions, labels)
    if isinstance(positive, str) != (np.asarray(labels).dtype.kind in "US"):
        raise ValueError(
            f"positive={positive!r} is of another type than the labels, such as {np.asarray(labels)[:1]}"
        )
    return counts(predictions, labels, classes=np.asarray([positive]))


def _ratio(average: Average | Literal["binary"]) -> Average:
    return "micro" if average == "binary" else average  # one class alone has one ratio


def _coded(
    found: np.ndarray, wanted: np.ndarray, classes: ArrayLike | None
) -> tuple[np.ndarray, Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
    """The classes, and every prediction and label as its place among them; their number where it has none."""
    both = np.concatenate([found, wanted])
    seen, codes = np.unique(both, return_inverse=True)
    if classes is not None:
        names = np.asarray(classes)
        if names.ndim != 1 or len(np.unique(names)) != len(names):
            raise ValueError(f"classes={names.tolist()}: name every class once")
        place = {name: position for position, name in enumerate(names.tolist())}
        codes = np.array([place.get(name, len(names)) for name in seen.tolist()])[codes]
        seen = names
    return seen, codes[: len(found)], codes[len(found) :]
