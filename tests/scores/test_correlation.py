"""Correlations, equal to scipy's on random and on degenerate inputs."""

import warnings

import numpy as np
import pytest
from scipy import stats

from bertjax.scores import correlation

RANDOM = np.random.default_rng(0)
NOISE = RANDOM.normal(size=(2, 211))
CASES = {
    "noise": (NOISE[0], NOISE[1]),
    "related": (NOISE[0], NOISE[0] + NOISE[1]),
    "ties": (RANDOM.integers(0, 6, 211), RANDOM.integers(0, 4, 211)),
    "curved": (np.arange(7), np.arange(7.0) ** 5),
    "falling": (np.arange(7), -np.arange(7)),
    "two": (np.array([1.0, 2.0]), np.array([5.0, 3.0])),
    "far from zero": (NOISE[0] + 1e7, NOISE[0] + NOISE[1]),
    "huge": (NOISE[0] * 1e200, NOISE[1]),
    "tiny": (NOISE[0] * 1e-200, NOISE[1]),
    "float32": (NOISE[0].astype(np.float32), NOISE[1].astype(np.float32)),
    "constant": (np.full(7, 0.1), NOISE[0, :7]),
    "both constant": (np.full(7, 0.1), np.full(7, 0.3)),
    "nan": (np.append(NOISE[0, :6], np.nan), NOISE[1, :7]),
    "infinite": (np.append(NOISE[0, :6], np.inf), NOISE[1, :7]),
}


@pytest.mark.parametrize("name", CASES)
def test_equal_to_scipy(name: str) -> None:
    first, second = CASES[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scipy warns of constants
        pearson, spearman = stats.pearsonr(first, second)[0], stats.spearmanr(first, second)[0]
    # float32 is computed in float64 here and in float32 there.
    tolerance = 1e-6 if name == "float32" else 1e-9
    np.testing.assert_allclose(correlation.pearson(first, second), pearson, rtol=0, atol=tolerance)
    np.testing.assert_allclose(correlation.spearman(first, second), spearman, rtol=0, atol=1e-12)
    assert np.isnan(correlation.pearson(first, second)) == (
        name in ("constant", "both constant", "nan", "infinite")
    )


def test_ranks_share_ties() -> None:
    values = RANDOM.integers(0, 9, 53)
    np.testing.assert_array_equal(correlation.ranks(values), stats.rankdata(values))
    assert correlation.ranks([3, 1, 3, 2]).tolist() == [3.5, 1, 3.5, 2]


def test_perfect_is_one_and_not_more() -> None:
    values = np.array([0.1, 0.2, 0.30000001])
    assert correlation.pearson(values, values * 3) <= 1.0
    assert correlation.pearson(values, values * 3) == pytest.approx(1.0)


def test_bad_input() -> None:
    for score in (correlation.pearson, correlation.spearman):
        with pytest.raises(ValueError, match="2 predictions for 3 labels"):
            score([1, 2], [1, 2, 3])
        with pytest.raises(ValueError, match="1 prediction has no correlation"):
            score([1], [1])
        with pytest.raises(ValueError, match="no score"):
            score([], [])
