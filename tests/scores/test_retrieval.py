"""Scores of rankings: equal to scikit-learn's, to definitions by loops, and worst where scores tie."""

import itertools

import numpy as np
import pytest
from sklearn import metrics as standard

from bertjax.scores import retrieval


def make(seed: int, *, queries: int = 41, candidates: int = 13) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    gains = random.choice([0, 0, 0, 1, 2, 3], (queries, candidates))
    gains[0] = 0  # nothing is relevant
    return random.normal(size=gains.shape), gains


@pytest.mark.parametrize("k", [1, 3, 10, 99, None])
def test_ndcg_is_scikit_learns(k: int | None) -> None:
    scores, gains = make(0)
    found = retrieval.ndcg(retrieval.rank(scores, gains), k=k)
    for place in range(len(gains)):
        want = standard.ndcg_score(gains[place : place + 1], scores[place : place + 1], k=k)
        np.testing.assert_allclose(found[place], want, atol=1e-12)
    assert found[0] == 0
    found = retrieval.ndcg(retrieval.rank(scores, retrieval.exponential(gains)), k=k)
    np.testing.assert_allclose(found.mean(), standard.ndcg_score(2.0**gains - 1, scores, k=k), atol=1e-12)


def test_average_precision_is_scikit_learns() -> None:
    scores, gains = make(1)
    found = retrieval.average_precision(retrieval.rank(scores, gains))
    for place in range(1, len(gains)):
        want = standard.average_precision_score(gains[place] > 0, scores[place])
        np.testing.assert_allclose(found[place], want, atol=1e-12)
    assert found[0] == 0


@pytest.mark.parametrize("k", [1, 4, 99])
def test_other_scores_by_loops(k: int) -> None:
    scores, gains = make(2)
    ranked = retrieval.rank(scores, gains)
    for place in range(len(gains)):
        order = sorted(range(13), key=lambda candidate: -scores[place, candidate])
        relevant = [gains[place, candidate] > 0 for candidate in order]
        assert ranked[place].tolist() == [gains[place, candidate] for candidate in order]
        first = next((1 / rank for rank, hit in enumerate(relevant[:k], 1) if hit), 0.0)
        total = sum(relevant)
        precisions = [sum(relevant[:rank]) / rank for rank in range(1, min(k, 13) + 1) if relevant[rank - 1]]
        assert retrieval.reciprocal_rank(ranked, k=k)[place] == pytest.approx(first)
        assert retrieval.recall(ranked, k=k)[place] == pytest.approx(
            sum(relevant[:k]) / total if total else 0
        )
        assert retrieval.precision(ranked, k=k)[place] == pytest.approx(sum(relevant[:k]) / k)
        want = sum(precisions) / total if total else 0
        assert retrieval.average_precision(ranked, k=k)[place] == pytest.approx(want)


def test_by_hand() -> None:
    ranked = [[0, 2, 1], [1, 0, 0]]
    found = retrieval.score(ranked, at=(1, 2))
    best = 2 + 1 / np.log2(3)
    assert found["ndcg@1"] == pytest.approx((0 + 1) / 2)
    assert found["ndcg@2"] == pytest.approx((2 / np.log2(3) / best + 1) / 2)
    assert found["mrr@1"] == 0.5 and found["mrr@2"] == 0.75
    assert found["recall@1"] == 0.5 and found["recall@2"] == 0.75
    assert found["map"] == pytest.approx(((1 / 2 + 2 / 3) / 2 + 1) / 2)


def test_ties_are_ranked_against_the_model() -> None:
    random = np.random.default_rng(3)
    for _ in range(30):
        scores, gains = random.integers(0, 2, 6).astype(float), random.integers(0, 3, 6)
        orders = [
            order
            for order in itertools.permutations(range(6))
            if all(scores[a] >= scores[b] for a, b in itertools.pairwise(order))
        ]
        for score in (
            retrieval.ndcg,
            retrieval.reciprocal_rank,
            retrieval.recall,
            retrieval.average_precision,
        ):
            possible = [score([gains[list(order)]], k=3)[0] for order in orders]
            found = score(retrieval.rank([scores], [gains]), k=3)[0]
            assert found == pytest.approx(min(possible))


def test_a_constant_score_earns_nothing_from_the_order_of_the_data() -> None:
    gains = np.eye(5)[[0]]
    assert retrieval.reciprocal_rank(retrieval.rank(np.zeros((1, 5)), gains)) == [1 / 5]
    assert retrieval.recall(retrieval.rank(np.zeros((1, 5)), gains), k=4) == [0]


def test_the_first_hits_of_a_search_need_all_relevant_candidates() -> None:
    scores, gains = make(4)
    whole = retrieval.rank(scores, gains)
    for name, value in retrieval.score(whole[:, :5], at=(1, 5), gains=gains).items():
        want = retrieval.score(whole, at=(1, 5))[name]
        assert value == pytest.approx(want) if name != "map" else value < want


def test_candidates_left_out() -> None:
    scores = [[np.inf, -np.inf, 1.0]]
    assert retrieval.rank(scores, [[0, 1, 2]]).tolist() == [[0, 2, 1]]


BAD = {
    "shape": (
        lambda: retrieval.rank(np.zeros((2, 3)), np.zeros((3, 2))),
        r"scores of shape \[2, 3\] for gains",
    ),
    "queries": (
        lambda: retrieval.recall(np.zeros((2, 3)), gains=np.zeros((3, 3))),
        "2 predictions for 3 queries",
    ),
    "nothing": (lambda: retrieval.score(np.zeros((0, 3))), "0 predictions for 0 queries"),
    "no candidates": (lambda: retrieval.score(np.zeros((3, 0))), "a column for each candidate"),
    "nan": (lambda: retrieval.rank([[1.0, np.nan]], [[0, 1]]), "a score of query 0 is nan"),
    "negative": (lambda: retrieval.ndcg([[1, -1]]), "gain -1.0"),
    "k": (lambda: retrieval.ndcg([[1, 0]], k=0), "k=0: choose 1 or more"),
    "one query": (lambda: retrieval.ndcg([1, 0]), r"gains of shape \[2\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
