"""Exact match and F1 of extractive question answering, equal to the official scripts of SQuAD 1.1 and 2.0.

A prediction is compared with every given answer and keeps its best. Both are first normalised: lower case,
no ASCII punctuation, no `a`, `an`, `the`, single spaces. F1 is that of the bags of words.

    questions.f1 = max over answers of  2 same / (predicted words + answer's words)

1.1 (Rajpurkar et al., 2016): every question has an answer; two texts without words have F1 0.

2.0 (Rajpurkar et al., 2018): no answers means that the empty prediction is right, and its F1 is 1; answers
without words do not count. With `no_answer`, how sure the model is that there is none, a question above a
threshold is taken as unanswered; `best_threshold` tunes it on the development set.

Deviations, where the scripts leave something open: a question without a prediction scores 0 under both
versions and is counted in `missing` (the 2.0 script stops with a KeyError), one without a question is
ignored; the score that `best_threshold` tells is the one that its threshold gives (the script cuts between equal
values, too, proposes 0 for "answer nothing" even where values are negative, and takes a text without words
for a wrong one there although it grades it as right).
"""

import dataclasses
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np

from bertjax.settings import suggest
from bertjax.types import Bool, Float

__all__ = [
    "Questions",
    "Version",
    "best_threshold",
    "exact",
    "f1",
    "grade",
    "normalise",
    "score",
    "with_threshold",
]

Version = Literal["1.1", "2.0"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclasses.dataclass(frozen=True)
class Questions:
    """What the prediction for every question is worth, in the order of the answers given."""

    ids: tuple[str, ...]
    exact: Float[np.ndarray, "B"]
    f1: Float[np.ndarray, "B"]
    answerable: Bool[np.ndarray, "B"]
    missing: int  # questions that no prediction was given for


@lru_cache(maxsize=1 << 17)
def normalise(text: str) -> str:
    """The text as it is compared."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact(prediction: str, answer: str) -> float:
    """1 where both are the same, normalised, else 0."""
    return float(normalise(prediction) == normalise(answer))


def f1(prediction: str, answer: str, *, version: Version = "2.0") -> float:
    """The harmonic mean of the shares of the prediction's and of the answer's words that both have."""
    found, wanted = normalise(prediction).split(), normalise(answer).split()
    if not found or not wanted:
        return float(version == "2.0" and found == wanted)
    same = (Counter(found) & Counter(wanted)).total()
    return 2 * same / (len(found) + len(wanted))


def grade(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], *, version: Version = "2.0"
) -> Questions:
    """Every question on its own: id -> predicted text, and id -> given answers, none where there is no answer."""
    if version not in ("1.1", "2.0"):
        raise ValueError(f"version={version!r}: {suggest(version, ('1.1', '2.0'))}")
    if not answers:
        raise ValueError("0 questions have no score: was the evaluation set filtered away?")
    if predictions and not any(name in answers for name in predictions):
        raise ValueError(
            f"none of {len(predictions)} predictions is for one of {len(answers)} questions, the first is for "
            f"{next(iter(predictions))!r}, not {next(iter(answers))!r}: are they of another set?"
        )
    exacts, f1s = np.zeros(len(answers)), np.zeros(len(answers))
    for place, (name, given) in enumerate(answers.items()):
        if isinstance(given, str):
            raise ValueError(f"the answers to {name!r} are one text, {given!r}: give a list of texts")
        if version == "2.0":
            given = [answer for answer in given if normalise(answer)] or [""]
        elif not given:
            raise ValueError(
                f"question {name!r} has no answer, which version 1.1 does not know: choose version='2.0'"
            )
        if (prediction := predictions.get(name)) is not None:
            exacts[place] = max(exact(prediction, answer) for answer in given)
            f1s[place] = max(f1(prediction, answer, version=version) for answer in given)
    return Questions(
        ids=tuple(answers),
        exact=exacts,
        f1=f1s,
        answerable=np.array([len(given) > 0 for given in answers.values()]),
        missing=sum(name not in predictions for name in answers),
    )


def with_threshold(questions: Questions, no_answer: Float[np.ndarray, "B"], threshold: float) -> Questions:
    """The same questions, unanswered where no_answer > threshold."""
    _check(questions, no_answer)
    silent = no_answer > threshold
    right = (~questions.answerable).astype(np.float64)
    return dataclasses.replace(
        questions,
        exact=np.where(silent, right, questions.exact),
        f1=np.where(silent, right, questions.f1),
    )


def best_threshold(
    questions: Questions, no_answer: Float[np.ndarray, "B"], *, by: Literal["exact", "f1"] = "f1"
) -> tuple[float, float]:
    """(threshold, score): the lowest of the thresholds that score best on these questions."""
    _check(questions, no_answer)
    if by not in ("exact", "f1"):
        raise ValueError(f"by={by!r}: {suggest(by, ('exact', 'f1'))}")
    values = questions.exact if by == "exact" else questions.f1
    silent = (~questions.answerable).astype(np.float64)
    gains = values - silent  # of answering a question, over what silence is worth
    order = np.argsort(no_answer, kind="stable")
    ordered = no_answer[order]
    totals = np.cumsum(gains[order])
    reachable = np.flatnonzero(np.append(ordered[1:] != ordered[:-1], True))
    best = reachable[np.argmax(totals[reachable])]
    if totals[best] <= 0:  # best to answer nothing
        lowest = float(ordered[0])
        return (0.0 if lowest > 0 else float(np.nextafter(lowest, -np.inf))), float(silent.mean())
    return float(ordered[best]), float(silent.mean() + totals[best] / len(gains))


def score(
    predictions: Mapping[str, str],
    answers: Mapping[str, Sequence[str]],
    *,
    version: Version = "2.0",
    no_answer: Mapping[str, float] | None = None,
    threshold: float = 1.0,
    categories: Mapping[str, str] | None = None,
) -> dict[str, float]:
    """Exact match and F1 of the whole set, of the parts with and without an answer, and of each category.

    With `no_answer`, of every question, the threshold counts, and the best ones are told, too. A category is any
    grouping of the questions: by topic, by interrogative, by length.
    """
    questions = grade(predictions, answers, version=version)
    best: dict[str, float] = {}
    if no_answer is not None:
        absent = next((name for name in answers if name not in no_answer), None)
        if absent is not None:
            raise ValueError(f"no_answer lacks question {absent!r}: give a number for every question")
        values = np.array([no_answer[name] for name in answers], np.float64)
        for by in ("exact", "f1"):
            best[f"best_{by}_threshold"], best[f"best_{by}"] = best_threshold(questions, values, by=by)
        questions = with_threshold(questions, values, threshold)
    found = _means(questions, np.ones(len(questions.ids), bool), "")
    if questions.missing:
        found["missing"] = questions.missing
    if version == "2.0":
        found |= _means(questions, questions.answerable, "answerable/")
        found |= _means(questions, ~questions.answerable, "unanswerable/")
    if categories is not None:
        of = np.array([categories.get(name, "other") for name in questions.ids])
        for category in np.unique(of):
            found |= _means(questions, of == category, f"{category}/")
    return found | best


def _means(questions: Questions, chosen: Bool[np.ndarray, "B"], prefix: str) -> dict[str, float]:
    if not chosen.any():
        return {}
    return {
        f"{prefix}exact": float(questions.exact[chosen].mean()),
        f"{prefix}f1": float(questions.f1[chosen].mean()),
        f"{prefix}total": float(chosen.sum()),
    }


def _check(questions: Questions, no_answer: Float[np.ndarray, "B"]) -> None:
    if no_answer.shape != questions.f1.shape:
        raise ValueError(
            f"no_answer of shape {list(no_answer.shape)} for {len(questions.ids)} questions: give one each"
        )
    if np.isnan(no_answer).any():
        raise ValueError(
            f"no_answer of question {questions.ids[np.isnan(no_answer).argmax()]!r} is nan: no threshold fits"
        )
