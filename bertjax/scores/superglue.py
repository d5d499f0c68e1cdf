"""The scores of SuperGLUE (Wang et al., 2019) that are no plain classification: MultiRC's, ReCoRD's, gender parity.

MultiRC asks of every answer option whether it is right. F1a is the F1 of "right" over the options of all
questions; exact match is the share of the questions whose options are all judged correctly.

ReCoRD fills a placeholder with an entity; its script is that of SQuAD 1.1 with all mentions of the right
entity as answers.

Winogender (AX-g) has sentences in pairs, one behind the other, that differ in the gender of a pronoun alone; parity is
the share of the pairs that are judged alike.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike

from bertjax.scores import classification, squad
from bertjax.scores.inputs import check_lengths, pair

__all__ = ["gender_parity", "multirc", "record"]


def multirc(predictions: ArrayLike, labels: ArrayLike, questions: Sequence[object]) -> dict[str, float]:
    """F1a and exact match, from 0 or 1 of every option and the question (with its passage) that it belongs to."""
    found, wanted = pair(predictions, labels)
    check_lengths(found, questions, what="questions")
    place: dict[object, int] = {}
    codes = np.array([place.setdefault(question, len(place)) for question in questions])
    wrong = np.bincount(codes, found != wanted, minlength=len(place))
    return {
        "f1a": classification.f1(found, wanted, average="binary"),
        "exact": float((wrong == 0).mean()),
    }


def record(predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Exact match and F1 of the entities filled in."""
    return squad.score(predictions, answers, version="1.1")


def gender_parity(predictions: ArrayLike) -> float:
    """The share of pairs, one record behind the other, of which both are judged alike."""
    found = np.asarray(predictions)
    if found.ndim != 1 or not len(found) or len(found) % 2:
        raise ValueError(f"{len(found)} predictions are no pairs: Winogender has two for each sentence")
    return float((found[0::2] == found[1::2]).mean())
