"""Exact match and F1 of Chinese extractive question answering (CMRC 2018, Cui et al., 2019), character by
character.

F1 is not that of bags of words, as in SQuAD, but of the longest run of tokens that both texts hold:

    F1 = max over answers of  2 run / (prediction's tokens + answer's tokens)

A Chinese character is a token; what stands between Chinese characters is cut by `tokenize`. Both texts are
lower-cased, and most Chinese and a few ASCII punctuation marks are dropped first (not `…`, `、、`-like pairs
or a full stop: the script's list, which is for F1 and exact match alike). A question without a prediction
scores 0.

The official script cuts the runs of other scripts by NLTK's word tokenizer. `words` here takes numbers with
their points and commas, words and single other marks; the two differ in contractions, quotes and
abbreviations. Hand in `nltk.tokenize.NLTKWordTokenizer().tokenize` to be equal there, too.
"""

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from bertjax.types import Float

__all__ = ["exact", "f1", "grade", "score", "tokens", "words"]

Tokenize = Callable[[str], list[str]]

_DROPPED = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_NO_MARKS = {ord(mark): None for mark in _DROPPED}
_CHINESE = re.compile(r"([\u4e00-\u9fa5])")
_WORD = re.compile(r"\d+(?:[.,]\d+)*(?!\w)|\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """Numbers, words and other marks of a text without Chinese characters."""
    return _WORD.findall(text)


def tokens(text: str, tokenize: Tokenize = words) -> list[str]:
    """What F1 compares: Chinese characters, and the tokens between them."""
    found: list[str] = []
    for piece in _CHINESE.split(_plain(text)):
        found.extend([piece] if _CHINESE.fullmatch(piece) else tokenize(piece))
    return found


def exact(prediction: str, answer: str) -> float:
    """1 where both are the same but for case and the dropped marks, else 0."""
    return float(_plain(prediction) == _plain(answer))


def f1(prediction: str, answer: str, *, tokenize: Tokenize = words) -> float:
    """The harmonic mean of the shares that the longest common run has of both; 0 where there is none."""
    found, wanted = tokens(prediction, tokenize), tokens(answer, tokenize)
    run = _longest_run(found, wanted)
    return 2 * run / (len(found) + len(wanted)) if run else 0.0


def grade(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], *, tokenize: Tokenize = words
) -> Float[np.ndarray, "B 2"]:
    """Exact match and F1 of every question, in the order of the answers."""
    if not answers:
        raise ValueError("0 questions have no score: was the evaluation set filtered away?")
    found = np.zeros((len(answers), 2))
    for place, (name, given) in enumerate(answers.items()):
        if isinstance(given, str) or not given:
            raise ValueError(f"the answers to {name!r} are {given!r}: give a list of one text or more")
        if (prediction := predictions.get(name)) is not None:
            found[place, 0] = max(exact(prediction, answer) for answer in given)
            found[place, 1] = max(f1(prediction, answer, tokenize=tokenize) for answer in given)
    return found


def score(
    predictions: Mapping[str, str], answers: Mapping[str, Sequence[str]], *, tokenize: Tokenize = words
) -> dict[str, float]:
    """The means over all questions, and their average, by which CMRC ranks."""
    exact_match, overlap = grade(predictions, answers, tokenize=tokenize).mean(0)
    missing = sum(name not in predictions for name in answers)
    found = {"exact": float(exact_match), "f1": float(overlap), "average": float(exact_match + overlap) / 2}
    return found | ({"missing": missing} if missing else {})


def _plain(text: str) -> str:
    return text.lower().strip().translate(_NO_MARKS)


def _longest_run(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest run of tokens that both hold: tokens become letters, and `in` searches."""
    letters: dict[str, str] = {}
    one, other = (
        "".join(letters.setdefault(token, chr(len(letters))) for token in side) for side in (first, second)
    )
    best = 0
    for start in range(len(one)):
        while start + best < len(one) and one[start : start + best + 1] in other:
            best += 1
    return best
