"""ROUGE-1, -2, ... -9, -L and -Lsum of summaries (Lin, 2004), equal to rouge-score without its stemmer.

    rouge-N     words in a row that both have, each as often as the rarer side has it
    rouge-L     the longest common subsequence of words of the whole texts
    rouge-Lsum  the union of the subsequences of each reference line with every predicted line

    precision = common / predicted     recall = common / reference     F1 = their harmonic mean

Of several references the one with the highest F1 counts, for each kind on its own. The score of a set is
the mean of its F1. A text without words scores 0.

Words are runs of a-z and 0-9 of the lower-cased text, so that other scripts have none: hand in another
`tokenize`, such as `list` for Chinese, or one that stems (rouge-score's `use_stemmer` is Porter's stemmer
on words of four letters or more).
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from bertjax.scores.inputs import check_lengths, references_of
from bertjax.settings import suggest
from bertjax.types import Float

__all__ = ["KINDS", "grade", "score", "words"]

KINDS = (*(f"rouge{length}" for length in range(1, 10)), "rougeL", "rougeLsum")

Tokenize = Callable[[str], list[str]]

_WORD = re.compile(r"[a-z0-9]+")


def words(text: str) -> list[str]:
    """Runs of a-z and 0-9, lower-cased."""
    return _WORD.findall(text.lower())


def score(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    tokenize: Tokenize = words,
) -> dict[str, float]:
    """The mean F1 of each kind."""
    found = grade(predictions, references, kinds=kinds, tokenize=tokenize)
    return {kind: float(values[:, 2].mean()) for kind, values in found.items()}


def grade(
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    *,
    kinds: Sequence[str] = ("rouge1", "rouge2", "rougeL"),
    tokenize: Tokenize = words,
) -> dict[str, Float[np.ndarray, "B 3"]]:
    """Precision, recall and F1 of every example, for each kind."""
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"kind {kind!r} of ROUGE: {suggest(kind, KINDS)}")
    check_lengths(predictions, references)
    found = {kind: np.zeros((len(predictions), 3)) for kind in kinds}
    flat = any(kind != "rougeLsum" for kind in kinds)
    any_word = False
    for place, (prediction, texts) in enumerate(zip(predictions, references_of(references), strict=True)):
        predicted_lines = _lines(prediction, tokenize) if "rougeLsum" in found else []
        predicted = tokenize(prediction) if flat else []
        for text in texts:
            wanted_lines = _lines(text, tokenize) if "rougeLsum" in found else []
            wanted = tokenize(text) if flat else []
            any_word = any_word or bool(wanted) or any(wanted_lines)
            for kind, values in found.items():
                if kind == "rougeLsum":
                    row = _ratios(*_common_of_lines(predicted_lines, wanted_lines))
                elif kind == "rougeL":
                    row = _ratios(_rows(wanted, predicted)[-1].bit_count(), len(predicted), len(wanted))
                else:
                    row = _ratios(*_common_ngrams(predicted, wanted, int(kind[5:])))
                if row[2] > values[place, 2]:
                    values[place] = row
    if not any_word:
        raise ValueError(
            f"no reference holds a word, the first is {references[0]!r}: hand in another tokenize, such as list"
        )
    return found


def _ratios(common: int, predicted: int, wanted: int) -> tuple[float, float, float]:
    if not common:
        return 0.0, 0.0, 0.0
    return common / predicted, common / wanted, 2 * common / (predicted + wanted)


def _common_ngrams(predicted: Sequence[str], wanted: Sequence[str], length: int) -> tuple[int, int, int]:
    """How many n-grams are common, predicted and wanted."""
    first, second = (
        Counter(zip(*(side[start:] for start in range(length)), strict=False)) for side in (predicted, wanted)
    )
    return (first & second).total(), first.total(), second.total()


def _rows(wanted: Sequence[str], predicted: Sequence[str]) -> list[int]:
    """The rows of the table of longest common subsequences, each as the bits where it grows.

    Bit i of row j is set where the subsequence of predicted[:j] and wanted[:i+1] is longer by one than that with
    wanted[:i], so that its length is a number of bits. A row follows from the one before in five operations on
    whole integers (Hyyrö, 2004), which makes a table of n by m cost n steps instead of n·m.
    """
    where: dict[str, int] = {}
    for place, word in enumerate(wanted):
        where[word] = where.get(word, 0) | 1 << place
    everything = (1 << len(wanted)) - 1
    row, rows = everything, [0]
    for word in predicted:
        hit = row & where.get(word, 0)
        row = ((row + hit) | (row - hit)) & everything
        rows.append(everything & ~row)
    return rows


def _common_places(wanted: Sequence[str], predicted: Sequence[str]) -> set[int]:
    """Places in `wanted` of one longest common subsequence: read from the end, and the prediction gives way only where
    that keeps strictly more, which is the choice that rouge-score's union depends on.
    """
    rows = _rows(wanted, predicted)

    def length(i: int, j: int) -> int:
        return (rows[j] & ((1 << i) - 1)).bit_count()

    i, j, places = len(wanted), len(predicted), set()
    while i and j:
        if wanted[i - 1] == predicted[j - 1]:
            i, j = i - 1, j - 1
            places.add(i)
        elif length(i, j - 1) > length(i - 1, j):
            j -= 1
        else:
            i -= 1
    return places


def _common_of_lines(predicted: list[list[str]], wanted: list[list[str]]) -> tuple[int, int, int]:
    """How many words are common, predicted and wanted; no word counts more often than either side has it."""
    left = Counter(word for line in predicted for word in line)
    left &= Counter(word for line in wanted for word in line)
    common = 0
    for line in wanted:
        for place in set().union(*(_common_places(line, other) for other in predicted)):
            if left[line[place]] > 0:
                left[line[place]] -= 1
                common += 1
    return common, sum(map(len, predicted)), sum(map(len, wanted))


def _lines(text: str, tokenize: Tokenize) -> list[list[str]]:
    return [tokenize(line) for line in text.split("\n") if line]
