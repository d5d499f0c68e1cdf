"""Scores of labels, equal to scikit-learn's on random and on degenerate inputs."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from sklearn import metrics as standard

from bertjax.scores import calibration, classification, multilabel

AVERAGES = ("micro", "macro", "weighted")
CASES = {
    "random": lambda random: (random.integers(0, 5, 211), random.integers(0, 5, 211)),
    "two classes": lambda random: (random.integers(0, 2, 211), random.integers(0, 2, 211)),
    "a class never predicted": lambda random: (random.integers(0, 2, 53), random.integers(0, 3, 53)),
    "a class never there": lambda random: (random.integers(0, 3, 53), random.integers(0, 2, 53)),
    "only the negative class": lambda random: (np.zeros(7, int), np.zeros(7, int)),
    "only the positive class": lambda random: (np.ones(7, int), np.ones(7, int)),
    "one class predicted": lambda random: (np.ones(53, int), random.integers(0, 2, 53)),
    "all wrong": lambda random: (np.zeros(7, int), np.ones(7, int)),
    "one example": lambda random: (np.array([2]), np.array([2])),
    "booleans": lambda random: (random.random(53) < 0.5, random.random(53) < 0.5),
    "words": lambda random: (random.choice(["no", "yes", "maybe"], 53), random.choice(["no", "yes"], 53)),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """scikit-learn warns about the ratios of 0 by 0 that these tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[np.ndarray, np.ndarray]:
    return CASES[request.param](np.random.default_rng(0))


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_averages(case: tuple[np.ndarray, np.ndarray], name: str, average: str) -> None:
    predictions, labels = case
    want = getattr(standard, f"{name}_score")(labels, predictions, average=average, zero_division=0)
    assert getattr(classification, name)(predictions, labels, average=average) == pytest.approx(
        want, abs=1e-12
    )


def test_other_scores(case: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = case
    assert classification.accuracy(predictions, labels) == pytest.approx(
        standard.accuracy_score(labels, predictions)
    )
    want = standard.matthews_corrcoef(labels, predictions)
    assert classification.matthews(predictions, labels) == pytest.approx(want, abs=1e-12)
    found = classification.confusion(predictions, labels)
    np.testing.assert_array_equal(found, standard.confusion_matrix(labels, predictions))


def test_table_of_classes(case: tuple[np.ndarray, np.ndarray]) -> None:
    predictions, labels = case
    columns = standard.precision_recall_fscore_support(labels, predictions, zero_division=0)
    table = classification.counts(predictions, labels).table()
    assert list(table) == [str(name) for name in np.unique(np.concatenate([predictions, labels]))]
    for row, *want in zip(table.values(), *columns, strict=True):
        assert list(row.values()) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("positive", [0, 1])
@pytest.mark.parametrize("name", ["precision", "recall", "f1"])
def test_binary(name: str, positive: int) -> None:
    random = np.random.default_rng(1)
    for predictions, labels in [
        (random.integers(0, 2, 53), random.integers(0, 2, 53)),
        (np.zeros(5, int), np.zeros(5, int)),
        (np.ones(5, int), np.zeros(5, int)),
    ]:
        want = getattr(standard, f"{name}_score")(labels, predictions, pos_label=positive, zero_division=0)
        found = getattr(classification, name)(predictions, labels, average="binary", positive=positive)
        assert found == pytest.approx(want, abs=1e-12)


def test_positive_may_be_a_word_and_has_to_be_of_the_labels_type() -> None:
    predictions, labels = ["yes", "no", "yes"], ["yes", "yes", "no"]
    assert classification.f1(predictions, labels, average="binary", positive="yes") == 0.5
    with pytest.raises(ValueError, match="positive=1 is of another type"):
        classification.f1(predictions, labels, average="binary")


def test_classes_left_out_are_not_scored() -> None:
    random = np.random.default_rng(2)
    predictions, labels = random.integers(0, 4, 97), random.integers(0, 4, 97)
    found = classification.counts(predictions, labels, classes=[3, 1])
    for average in AVERAGES:
        want = standard.f1_score(labels, predictions, labels=[3, 1], average=average)
        assert found.f1(average) == pytest.approx(want)  # type: ignore[arg-type]
    assert found.names == ("3", "1")
    unseen = classification.counts(predictions, labels, classes=range(6))
    want = standard.f1_score(labels, predictions, labels=range(6), average="macro", zero_division=0)
    assert unseen.f1("macro") == pytest.approx(want)


def test_confusion_of_named_classes() -> None:
    found = classification.confusion([0, 0, 2], [0, 2, 2], classes=[2, 1, 0])
    assert found.tolist() == [[1, 0, 1], [0, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match=r"label 2 is not among classes=\[0, 1\]"):
        classification.confusion([0, 0, 2], [0, 2, 2], classes=[0, 1])
    with pytest.raises(ValueError, match="name every class once"):
        classification.confusion([0], [0], classes=[0, 0])


def test_matthews_of_a_large_set_does_not_overflow() -> None:
    random = np.random.default_rng(3)
    predictions, labels = random.integers(0, 2, 200_000), random.integers(0, 2, 200_000)
    want = standard.matthews_corrcoef(labels, predictions)
    assert classification.matthews(predictions, labels) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("average", ["micro", "macro", "weighted", "samples"])
@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
def test_multilabel(average: str, rate: float) -> None:
    random = np.random.default_rng(4)
    predictions, labels = random.random((53, 7)) < rate, random.random((53, 7)) < 0.3
    want = standard.f1_score(labels, predictions, average=average, zero_division=0)
    assert multilabel.f1(predictions, labels, average=average) == pytest.approx(want, abs=1e-12)  # type: ignore[arg-type]
    predictions[:11] = labels[:11]
    want = standard.accuracy_score(labels, predictions)
    assert multilabel.exact_match(predictions.astype(int), labels.astype(int)) == pytest.approx(want)


def test_no_label_at_all() -> None:
    nothing = np.zeros((3, 5), bool)
    assert multilabel.exact_match(nothing, nothing) == 1.0
    for average in ("micro", "macro", "weighted", "samples"):
        want = standard.f1_score(nothing, nothing, average=average, zero_division=0)
        assert multilabel.f1(nothing, nothing, average=average) == want == 0.0  # type: ignore[arg-type]


def test_calibration_error_by_hand() -> None:
    # Bins of a half: (0, .5] holds one right of two at .5 and .45; (.5, 1] holds one right of two at .9 and .7.
    probabilities = [[0.5, 0.3, 0.2], [0.45, 0.35, 0.2], [0.05, 0.9, 0.05], [0.1, 0.2, 0.7]]
    found = calibration.reliability(probabilities, [0, 2, 1, 0], bins=2)
    np.testing.assert_allclose(found.share, [0.5, 0.5])
    np.testing.assert_allclose(found.confidence, [0.475, 0.8])
    np.testing.assert_allclose(found.accuracy, [0.5, 0.5])
    error = calibration.expected_calibration_error(probabilities, [0, 2, 1, 0], bins=2)
    assert error == pytest.approx(0.5 * 0.025 + 0.5 * 0.3)


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_error_bin_by_bin(bins: int) -> None:
    random = np.random.default_rng(5)
    probabilities, labels = random.dirichlet(np.ones(5), 499), random.integers(0, 5, 499)
    probabilities[:20] = np.eye(5)[random.integers(0, 5, 20)]  # certain ones belong to the last bin
    want = 0.0
    for place in range(bins):
        top = probabilities.max(1)
        inside = (top > place / bins) & (top <= (place + 1) / bins)
        if inside.any():
            right = (probabilities.argmax(1) == labels)[inside].mean()
            want += inside.mean() * abs(right - top[inside].mean())
    found = calibration.expected_calibration_error(probabilities, labels, bins=bins)
    assert found == pytest.approx(want, abs=1e-12)


def test_calibration_of_certain_predictions() -> None:
    certain = np.eye(3)[[0, 1, 2, 0]]
    assert calibration.expected_calibration_error(certain, [0, 1, 2, 0]) == 0.0
    assert calibration.expected_calibration_error(certain, [1, 2, 0, 1]) == 1.0


BAD = {
    "lengths": (lambda: classification.accuracy([0, 1], [0]), "2 predictions for 1 labels"),
    "nothing": (lambda: classification.accuracy([], []), "0 predictions for 0 labels have no score"),
    "logits": (lambda: classification.accuracy([[0.1, 0.9]], [1]), r"shape \[1, 2\]: .* argmax"),
    "average": (lambda: classification.f1([0], [0], average="makro"), "did you mean 'macro'"),  # type: ignore[arg-type]
    "width": (
        lambda: multilabel.exact_match(np.zeros((2, 3)), np.zeros((2, 4))),
        r"\[2, 3\] for labels of \[2, 4\]",
    ),
    "probabilities": (lambda: multilabel.exact_match([[0.3]], [[1]]), "compare the probabilities with 0.5"),
    "rank": (lambda: multilabel.exact_match([0], [1]), r"takes \[B C\]"),
    "no softmax": (lambda: calibration.expected_calibration_error([[3.0, -2.0]], [0]), "row 0 is .* softmax"),
    "no bins": (
        lambda: calibration.expected_calibration_error([[1.0]], [0], bins=0),
        "bins=0: choose 1 or more",
    ),
    "no labels": (lambda: calibration.expected_calibration_error([[1.0]], []), "1 predictions for 0 labels"),
    "a column": (lambda: calibration.expected_calibration_error([1.0], [0]), r"\[B C\] and \[B\]"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
