"""Intervals that hold the truth as often as they say, and p-values that are those of the exact test."""

import itertools
import time

import numpy as np
import pytest
from scipy import stats

from bertjax.scores import (
    calibration,
    chinese,
    classification,
    correlation,
    entities,
    retrieval,
    squad,
    summary,
)
from bertjax.scores.significance import bootstrap, paired_randomisation


def test_interval_is_scipys() -> None:
    values = np.random.default_rng(0).exponential(size=211)
    found = bootstrap(np.mean, values, resamples=4000)
    want = stats.bootstrap(
        [values], np.mean, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert [found.low, found.high] == pytest.approx([want.low, want.high], abs=0.015)
    narrow = bootstrap(np.mean, values, confidence=0.5)
    assert found.low < narrow.low < narrow.value < narrow.high < found.high


def test_interval_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(1)
    held = 0
    for seed in range(300):
        found = bootstrap(np.mean, random.normal(3.0, 1.0, 53), resamples=200, confidence=0.9, seed=seed)
        held += found.low <= 3.0 <= found.high
    assert 0.82 < held / 300 < 0.96


def test_examples_stay_together() -> None:
    labels = np.random.default_rng(2).integers(0, 2, 97)
    assert bootstrap(classification.accuracy, labels, labels, resamples=20)[:] == (1.0, 1.0, 1.0)
    words = [f"w{label}" for label in labels]  # lists do as well as arrays
    assert bootstrap(classification.accuracy, words, words, resamples=20).low == 1.0
    rows = entities.sentence_counts([["B-X"], ["O"]] * 20, [["B-X"], ["B-X"]] * 20)
    found = bootstrap(entities.micro_f1, rows, resamples=200)
    assert found.value == pytest.approx(2 / 3) and found.low < found.value < found.high


def test_seeds() -> None:
    values = np.random.default_rng(3).normal(size=(2, 53))
    assert bootstrap(np.mean, values[0]) == bootstrap(np.mean, values[0], seed=0)
    assert bootstrap(np.mean, values[0]) != bootstrap(np.mean, values[0], seed=1)
    assert paired_randomisation(np.mean, *values) == paired_randomisation(np.mean, *values, seed=0)
    assert paired_randomisation(np.mean, *values) != paired_randomisation(np.mean, *values, seed=1)


def test_p_value_is_that_of_all_swaps() -> None:
    random = np.random.default_rng(4)
    first, second = random.normal(0.4, 1, 11), random.normal(0, 1, 11)
    differences = first - second
    exact = np.mean(
        [
            abs((differences * signs).mean()) >= abs(differences.mean()) - 1e-12
            for signs in itertools.product([-1, 1], repeat=11)
        ]
    )
    found = paired_randomisation(np.mean, first, second, trials=5000)
    assert found.difference == pytest.approx(differences.mean())
    assert 0.02 < exact < 0.98 and found.p_value == pytest.approx(exact, abs=0.025)


def test_equal_systems_and_far_apart_ones() -> None:
    values = np.random.default_rng(5).normal(size=211)
    assert paired_randomisation(np.mean, values, values, trials=99) == (0.0, 1.0)
    assert paired_randomisation(np.mean, values + 1, values, trials=99) == (pytest.approx(1.0), 0.01)


def test_any_score_and_lists() -> None:
    random = np.random.default_rng(6)
    labels = random.integers(0, 2, 211)
    good = np.where(random.random(211) < 0.9, labels, 1 - labels)
    poor = np.where(random.random(211) < 0.6, labels, 1 - labels)
    found = paired_randomisation(classification.matthews, good, poor, labels, trials=199)
    want = classification.matthews(good, labels) - classification.matthews(poor, labels)
    assert found.difference == pytest.approx(want) and found.p_value == 1 / 200
    assert (
        paired_randomisation(classification.matthews, list(good), list(poor), list(labels), trials=199)
        == found
    )
    wide = np.stack([good, good], 1).astype(float), np.stack([poor, poor], 1).astype(float)
    rows = paired_randomisation(lambda rows: float(rows[:, 0].mean()), *wide, trials=199)
    assert rows == paired_randomisation(np.mean, wide[0][:, 0], wide[1][:, 0], trials=199)


def test_p_value_is_even_where_nothing_differs() -> None:
    random = np.random.default_rng(7)
    values = [
        paired_randomisation(np.mean, *random.normal(size=(2, 31)), trials=99, seed=seed).p_value
        for seed in range(200)
    ]
    assert stats.kstest(values, "uniform").pvalue > 0.01


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="2 predictions for 3 entries of another column"):
        bootstrap(classification.accuracy, [1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="have no score"):
        bootstrap(np.mean, [])
    with pytest.raises(ValueError, match="0 columns"):
        bootstrap(np.mean)
    with pytest.raises(ValueError, match="confidence=95: choose a share between 0 and 1"):
        bootstrap(np.mean, [1.0], confidence=95)
    with pytest.raises(ValueError, match="resamples=0"):
        bootstrap(np.mean, [1.0], resamples=0)
    with pytest.raises(ValueError, match="trials=0"):
        paired_randomisation(np.mean, [1.0], [1.0], trials=0)
    with pytest.raises(ValueError, match="nan for one of the systems"):
        paired_randomisation(correlation.pearson, [1.0, 1.0], [1.0, 2.0], [1.0, 2.0])


def test_large_sets_take_no_time() -> None:
    random = np.random.default_rng(8)
    size = 100_000
    predictions, labels = random.integers(0, 5, (2, size))
    values = random.normal(size=(2, size))
    probabilities = random.dirichlet(np.ones(5), size)
    sentences = [["O", "B-X", "I-X", "O", "B-Y"]] * (size // 5)
    texts = ["the cat sat on the mat and looked at twelve birds"] * 10_000
    questions = {str(place): text for place, text in enumerate(texts)}
    answers = {name: [text] * 3 for name, text in questions.items()}
    timed = {
        "f1": lambda: classification.f1(predictions, labels, average="macro"),
        "matthews": lambda: classification.matthews(predictions, labels),
        "calibration": lambda: calibration.expected_calibration_error(probabilities, labels),
        "spearman": lambda: correlation.spearman(*values),
        "entities": lambda: entities.counts(sentences, sentences),
        "ranking": lambda: retrieval.score(
            retrieval.rank(values.reshape(-1, 100), values.reshape(-1, 100) > 1)
        ),
        "squad": lambda: squad.score(questions, answers),
        "cmrc": lambda: chinese.score(questions, answers),
        "rouge": lambda: summary.score(texts, texts),
    }
    for name, call in timed.items():
        start = time.process_time()
        call()
        # About twenty times what it takes: a loop over examples where an array should be would take longer.
        assert time.process_time() - start < (2.0 if name not in ("squad", "cmrc", "rouge") else 10.0), name
