"""Scores of rankings: nDCG, reciprocal rank, recall, precision and average precision, all at a cutoff k.

    DCG@k  = Σ_{r≤k} gain_r / log2(r + 1)      nDCG@k = DCG@k / DCG@k of the best possible order
    RR@k   = 1 / rank of the first relevant candidate, 0 if that is beyond k
    AP@k   = Σ_{r≤k, relevant} precision@r / relevant candidates

with candidates relevant where their gain is above 0. A query nothing is relevant to scores 0 in all of
them, as in trec_eval and in scikit-learn's nDCG. The gain is the grade itself (trec_eval, BEIR,
scikit-learn; Järvelin and Kekäläinen, 2002) unless `exponential(gains)`, 2^grade − 1 (Burges et al., 2005),
is handed in.

Ties are ranked against the model: of candidates with equal scores the less relevant comes first. A score
that is the same for all candidates so earns the least, whatever order they came in, where a sort that keeps
the order would reward data that lists the right one first. (scikit-learn averages over the orders,
trec_eval goes by the name of the candidate.)

    ranked = rank(scores, gains)               every candidate of a query was scored
    ranked = gains of a search's first K hits  then `gains` of all relevant candidates go along, for the best order

Each function gives the value of each query; `score` the means.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from bertjax.scores.counts import divide
from bertjax.scores.inputs import check_lengths, check_number
from bertjax.types import Float

__all__ = [
    "average_precision",
    "exponential",
    "ndcg",
    "precision",
    "rank",
    "recall",
    "reciprocal_rank",
    "score",
]

Gains = Float[np.ndarray, "B M"]
Values = Float[np.ndarray, "B"]


def rank(scores: ArrayLike, gains: ArrayLike) -> Gains:
    """The gains [B M] in the order of falling scores; the worst order where scores are equal."""
    keys, found = np.asarray(scores, np.float64), _gains(gains)
    if keys.shape != found.shape:
        raise ValueError(
            f"scores of shape {list(keys.shape)} for gains of {list(found.shape)}: one for each candidate"
        )
    check_lengths(keys, found, what="queries")
    if np.isnan(keys).any():
        raise ValueError(
            f"a score of query {np.isnan(keys).any(1).argmax()} is nan: leave candidates out with -inf"
        )
    order = np.lexsort((found, -keys), axis=-1)
    return np.take_along_axis(found, order, axis=-1)


def exponential(gains: ArrayLike) -> Gains:
    """2^grade − 1, which sets high grades further apart."""
    return np.exp2(_gains(gains)) - 1


def ndcg(ranked: ArrayLike, *, k: int | None = None, gains: ArrayLike | None = None) -> Values:
    """Discounted gains of the ranking, by those of the best possible one."""
    found, wanted = _both(ranked, gains)
    best = -np.sort(-wanted, axis=-1)
    return divide(_discounted(found, k), _discounted(best, k))


def reciprocal_rank(ranked: ArrayLike, *, k: int | None = None) -> Values:
    """1 by the rank of the first relevant candidate."""
    relevant = _gains(ranked)[:, : _cut(k)] > 0
    return np.where(relevant.any(1), 1 / (1 + relevant.argmax(1)), 0.0)


def recall(ranked: ArrayLike, *, k: int | None = None, gains: ArrayLike | None = None) -> Values:
    """Share of the relevant candidates that are among the first k."""
    found, wanted = _both(ranked, gains)
    return divide((found[:, : _cut(k)] > 0).sum(1), (wanted > 0).sum(1))


def precision(ranked: ArrayLike, *, k: int) -> Values:
    """Share of the first k that are relevant; a ranking shorter than k is filled up with irrelevant ones."""
    return (_gains(ranked)[:, : _cut(k)] > 0).sum(1) / k


def average_precision(ranked: ArrayLike, *, k: int | None = None, gains: ArrayLike | None = None) -> Values:
    """Mean of the precisions at the ranks of the relevant candidates."""
    found, wanted = _both(ranked, gains)
    relevant = found[:, : _cut(k)] > 0
    precisions = relevant.cumsum(1) / np.arange(1, relevant.shape[1] + 1)
    return divide((precisions * relevant).sum(1), (wanted > 0).sum(1))


def score(
    ranked: ArrayLike, *, at: Sequence[int] = (1, 5, 10), gains: ArrayLike | None = None
) -> dict[str, float]:
    """The means over queries: ndcg@k, mrr@k and recall@k for every k, and map over the whole ranking."""
    found, wanted = _both(ranked, gains)
    means = {"map": float(average_precision(found, gains=wanted).mean())}
    for k in at:
        means[f"ndcg@{k}"] = float(ndcg(found, k=k, gains=wanted).mean())
        means[f"mrr@{k}"] = float(reciprocal_rank(found, k=k).mean())
        means[f"recall@{k}"] = float(recall(found, k=k, gains=wanted).mean())
    return means


def _gains(gains: ArrayLike) -> Gains:
    found = np.asarray(gains, np.float64)
    if found.ndim != 2 or found.shape[1] == 0:
        raise ValueError(
            f"gains of shape {list(found.shape)}: a row for each query, a column for each candidate"
        )
    if not (found >= 0).all():
        raise ValueError(f"gain {found.min()}: an irrelevant candidate has gain 0, a relevant one more")
    return found


def _both(ranked: ArrayLike, gains: ArrayLike | None) -> tuple[Gains, Gains]:
    found = _gains(ranked)
    wanted = found if gains is None else _gains(gains)
    check_lengths(found, wanted, what="queries")
    return found, wanted


def _cut(k: int | None) -> int | None:
    if k is not None:
        check_number("k", k)
    return k


def _discounted(gains: Gains, k: int | None) -> Values:
    first = gains[:, : _cut(k)]
    return first @ (1 / np.log2(np.arange(2, first.shape[1] + 2)))
