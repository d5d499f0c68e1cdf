"""What every score asks of its two sides: as many of one as of the other, and at least one."""

from collections.abc import Sequence, Sized

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["check_lengths", "check_number", "pair", "references_of"]


def check_lengths(predictions: Sized, references: Sized, *, what: str = "references") -> None:
    """Refuses two sides of different lengths, and empty ones."""
    if len(predictions) != len(references):
        raise ValueError(
            f"{len(predictions)} predictions for {len(references)} {what}: give one for each, in the same order"
        )
    if not len(predictions):
        raise ValueError(f"0 predictions for 0 {what} have no score: was the evaluation set filtered away?")


def check_number(name: str, value: int) -> None:
    """Refuses a count below 1."""
    if value < 1:
        raise ValueError(f"{name}={value}: choose 1 or more")


def pair(predictions: ArrayLike, labels: ArrayLike, *, rank: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Both sides as arrays of one shape, [B] or, with rank=2, [B C]."""
    first, second = np.asarray(predictions), np.asarray(labels)
    for name, array in (("predictions", first), ("labels", second)):
        if array.ndim != rank:
            wanted, hint = (
                ("[B]", "take the argmax of logits first") if rank == 1 else ("[B C]", "one row each")
            )
            raise ValueError(f"{name} of shape {list(array.shape)}: a score takes {wanted}; {hint}")
    check_lengths(first, second, what="labels")
    if first.shape != second.shape:
        raise ValueError(
            f"predictions of shape {list(first.shape)} for labels of {list(second.shape)}: make them equal"
        )
    return first, second


def references_of(references: Sequence[str | Sequence[str]]) -> list[list[str]]:
    """One or several reference texts of every example, always as a list."""
    found = [[entry] if isinstance(entry, str) else list(entry) for entry in references]
    for position, entry in enumerate(found):
        if not entry:
            raise ValueError(
                f"example {position} has 0 references: give a text, or a list of one text or more"
            )
    return found
