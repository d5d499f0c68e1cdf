"""BLEU (Papineni et al., 2002) and chrF (Popović, 2015) of whole corpora, computed by sacrebleu (Post, 2018).

A corpus score is no mean over sentences: the n-grams of all sentences are counted together. Each score
comes with sacrebleu's signature (tokenization, case, smoothing, version), which belongs beside the number
in a report. `tokenize` is sacrebleu's: 13a as WMT does, `zh` and `ja-mecab` for languages without spaces,
`char`, `intl`, `none`.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from bertjax.scores.inputs import check_lengths, references_of

__all__ = ["CorpusScore", "bleu", "chrf"]

References = Sequence[str | Sequence[str]]  # one text for every example, or several


class CorpusScore(NamedTuple):
    """A fraction (sacrebleu prints a hundred times that) and how it was computed."""

    score: float
    signature: str


def bleu(
    predictions: Sequence[str], references: References, *, tokenize: str = "13a", lowercase: bool = False
) -> CorpusScore:
    """Geometric mean of the precisions of 1- to 4-grams, times the penalty for brevity."""
    from sacrebleu.metrics.bleu import BLEU

    legal = sorted(BLEU.TOKENIZERS)
    if tokenize not in legal:
        raise ValueError(f"tokenize={tokenize!r}: choose from {', '.join(legal)}")
    return _score(BLEU(tokenize=tokenize, lowercase=lowercase), predictions, references)


def chrf(predictions: Sequence[str], references: References, *, word_order: int = 0) -> CorpusScore:
    """F2 of the 1- to 6-grams of characters, and of words up to word_order: 2 is chrF++."""
    from sacrebleu.metrics.chrf import CHRF

    return _score(CHRF(word_order=word_order), predictions, references)


def _score(metric: Any, predictions: Sequence[str], references: References) -> CorpusScore:
    check_lengths(predictions, references)
    # sacrebleu takes a stream of first references, a stream of second ones, and None where there is none.
    streams = list(itertools.zip_longest(*references_of(references)))
    found = metric.corpus_score(list(predictions), [list(stream) for stream in streams])
    return CorpusScore(found.score / 100, str(metric.get_signature()))
