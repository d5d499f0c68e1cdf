"""SQuAD's scores by hand, and against a second, plain implementation on random texts; MultiRC and ReCoRD."""

import random
import re
import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from sklearn import metrics as standard

from bertjax.scores import squad, superglue

PIECES = ["the", "The", "a", "an", "Paris", "paris!", "1,000", "U.S.", "don't", "-", "—", "Ünï", "theatre"]
PIECES += ["\t", "", "x\xa0y"]


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(PIECES, k=draw.randint(0, 4)))


def make_set(
    seed: int, *, size: int = 60, unanswerable: bool = True
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """Predictions, and answers: often none where there may be none."""
    draw = random.Random(seed)
    least = 0 if unanswerable else 1
    answers = {f"q{place}": [sentence(draw) for _ in range(draw.randint(least, 3))] for place in range(size)}
    predictions = {
        name: draw.choice(given) if given and draw.random() < 0.4 else sentence(draw)
        for name, given in answers.items()
    }
    return predictions, answers


# ------------------------------------------------------------------ the same by other means: lists instead of bags


def plain_words(text: str) -> list[str]:
    kept = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return [word for word in re.sub(r"\b(?:an|a|the)\b", " ", kept).split() if word]


def plain_f1(prediction: str, answer: str, version: str) -> float:
    found, wanted = plain_words(prediction), plain_words(answer)
    if version == "2.0" and not (found and wanted):
        return 1.0 if found == wanted else 0.0
    left, common = list(wanted), 0
    for word in found:
        if word in left:
            left.remove(word)
            common += 1
    if common == 0:
        return 0.0
    precision, recall = common / len(found), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def plain_scores(prediction: str, given: Sequence[str], version: str) -> tuple[float, float]:
    if version == "2.0":
        given = [answer for answer in given if plain_words(answer)] or [""]
    exact = any(plain_words(prediction) == plain_words(answer) for answer in given)
    return float(exact), max(plain_f1(prediction, answer, version) for answer in given)


# ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "2.0"])
@pytest.mark.parametrize("seed", range(5))
def test_against_a_plain_implementation(version: Any, seed: int) -> None:
    predictions, answers = make_set(seed, unanswerable=version == "2.0")
    found = squad.grade(predictions, answers, version=version)
    want = np.array([plain_scores(predictions[name], answers[name], version) for name in answers])
    np.testing.assert_allclose(np.stack([found.exact, found.f1], 1), want, atol=1e-12)
    score = squad.score(predictions, answers, version=version)
    assert (score["exact"], score["f1"], score["total"]) == pytest.approx((*want.mean(0), 60))


NORMALISED = {
    "The  Cat!": "cat",
    "a an the": "",
    "An apple a day": "apple day",
    "theatre": "theatre",
    "U.S.": "us",
    "state-of-the-art": "stateoftheart",
    "the-cat": "thecat",
    "“x”": "“x”",  # only ASCII punctuation goes
    "x\xa0y\tz": "x y z",
    "": "",
}


def test_normalisation() -> None:
    assert {text: squad.normalise(text) for text in NORMALISED} == NORMALISED


def test_f1_by_hand() -> None:
    assert squad.f1("the cat sat", "A cat sat down") == pytest.approx(2 * 2 / (2 + 3))
    assert squad.f1("cat cat", "cat") == pytest.approx(
        2 * 1 / 3
    )  # a word counts as often as the rarer side has it
    assert squad.f1("dog", "cat") == 0.0
    assert squad.f1("the", "a") == 1.0 and squad.f1("the", "a", version="1.1") == 0.0
    assert squad.f1("", "cat") == squad.f1("cat", "") == 0.0


def test_questions_without_an_answer() -> None:
    answers = {"yes": ["cat"], "no": [], "article": ["the"]}
    silent = squad.grade(dict.fromkeys(answers, ""), answers)
    assert silent.f1.tolist() == silent.exact.tolist() == [0.0, 1.0, 1.0]
    assert silent.answerable.tolist() == [True, False, True]
    loud = squad.score(dict.fromkeys(answers, "cat"), answers)
    assert (
        loud["answerable/f1"] == 0.5 and loud["unanswerable/f1"] == 0.0 and loud["f1"] == pytest.approx(1 / 3)
    )
    with pytest.raises(ValueError, match=r"question 'no' has no answer, which version 1.1 does not know"):
        squad.score({}, answers, version="1.1")


def test_a_question_without_a_prediction_scores_nothing_and_is_counted() -> None:
    answers = {"a": ["cat"], "b": ["dog"], "c": []}
    found = squad.score({"a": "cat", "zebra": "of another set"}, answers)
    assert found["f1"] == pytest.approx(1 / 3) and found["missing"] == 2 and found["unanswerable/f1"] == 0
    assert "missing" not in squad.score(dict.fromkeys(answers, "x"), answers)


def test_categories() -> None:
    answers = {"a": ["cat"], "b": ["dog"], "c": ["dog"]}
    found = squad.score(
        dict.fromkeys(answers, "dog"),
        answers,
        version="1.1",
        categories={"a": "who", "b": "what", "c": "what"},
    )
    assert found["who/f1"] == 0 and found["what/exact"] == 1 and found["what/total"] == 2
    assert not any(name.startswith("answerable") for name in found)


def test_thresholds() -> None:
    predictions, answers = make_set(7)
    no_answer = dict(zip(answers, np.linspace(0, 1, len(answers)), strict=True))
    for threshold in (0.0, 0.3, 1.0):
        found = squad.score(predictions, answers, no_answer=no_answer, threshold=threshold)
        silenced = {name: "" if no_answer[name] > threshold else text for name, text in predictions.items()}
        want = squad.score(silenced, answers)
        # An answer without words counts as one here: silence is wrong for it, where the empty text would match it.
        odd = sum(
            no_answer[name] > threshold and bool(given) and not any(map(plain_words, given))
            for name, given in answers.items()
        )
        assert found["f1"] == pytest.approx(want["f1"] - odd / len(answers))
        assert found["exact"] == pytest.approx(want["exact"] - odd / len(answers))


@pytest.mark.parametrize("by", ["exact", "f1"])
@pytest.mark.parametrize("kind", ["distinct", "tied", "negative", "constant"])
def test_the_best_threshold_is_the_best_of_all_and_keeps_its_promise(kind: str, by: Any) -> None:
    for seed in range(20):
        predictions, answers = make_set(seed, size=17)
        questions = squad.grade(predictions, answers)
        values = np.random.default_rng(seed).random(17)
        if kind == "tied":
            values = values.round(1)
        elif kind == "negative":
            values -= 5
        elif kind == "constant":
            values[:] = 0.0
        threshold, score = squad.best_threshold(questions, values, by=by)
        tried = [
            getattr(squad.with_threshold(questions, values, cut), by).mean()
            for cut in [-np.inf, *np.unique(values)]
        ]
        assert score == pytest.approx(max(tried))
        assert getattr(squad.with_threshold(questions, values, threshold), by).mean() == pytest.approx(score)


def test_the_best_threshold_by_hand() -> None:
    answers: dict[str, list[str]] = {"right": ["cat"], "trap": [], "half": ["big dog"], "wrong": ["fish"]}
    predictions = {"right": "cat", "trap": "cat", "half": "dog", "wrong": "bird"}
    no_answer = {"right": 0.1, "trap": 0.3, "half": 0.2, "wrong": 0.9}
    found = squad.score(predictions, answers, no_answer=no_answer, threshold=0.2)
    assert found["best_f1"] == pytest.approx((1 + 2 / 3 + 1) / 4) and found["best_f1_threshold"] == 0.2
    assert found["best_exact"] == 0.5 and found["best_exact_threshold"] == 0.1
    assert found["f1"] == found["best_f1"]


def test_where_silence_is_best_the_threshold_silences_all() -> None:
    questions = squad.grade({"a": "x", "b": "y"}, {"a": [], "b": ["z"]})
    assert squad.best_threshold(questions, np.array([0.5, 0.2])) == (0.0, 0.5)
    threshold, score = squad.best_threshold(questions, np.array([0.5, -3.0]))
    assert threshold < -3 and score == 0.5


BAD = {
    "nothing": (lambda: squad.score({}, {}), "0 questions have no score"),
    "other set": (lambda: squad.score({"a": "x"}, {"b": ["x"]}), "none of 1 predictions .* 'a', not 'b'"),
    "one text": (lambda: squad.score({"a": "x"}, {"a": "x"}), "give a list of texts"),
    "version": (lambda: squad.score({"a": "x"}, {"a": ["x"]}, version="2.1"), "version='2.1': did you mean"),  # type: ignore[arg-type]
    "no number": (
        lambda: squad.score({"a": "x"}, {"a": ["x"]}, no_answer={}),
        "no_answer lacks question 'a'",
    ),
    "nan": (lambda: squad.score({"a": "x"}, {"a": ["x"]}, no_answer={"a": np.nan}), "question 'a' is nan"),
    "by": (lambda: squad.best_threshold(squad.grade({}, {"a": ["x"]}), np.zeros(1), by="em"), "by='em'"),  # type: ignore[arg-type]
    "shape": (lambda: squad.best_threshold(squad.grade({}, {"a": ["x"]}), np.zeros(2)), "for 1 questions"),
    "multirc": (lambda: superglue.multirc([0, 1], [0, 1], ["q"]), "2 predictions for 1 questions"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_multirc() -> None:
    # Question one is all right, two has one option wrong; the options of a question need not stand together.
    questions = [(0, 1), (0, 2), (0, 1), (0, 2)]
    assert superglue.multirc([1, 1, 0, 1], [1, 1, 0, 0], questions) == {
        "f1a": pytest.approx(0.8),
        "exact": 0.5,
    }
    draw = np.random.default_rng(0)
    predictions, labels, places = (
        draw.integers(0, 2, 211),
        draw.integers(0, 2, 211),
        draw.integers(0, 53, 211),
    )
    found = superglue.multirc(predictions, labels, places.tolist())
    whole = [(predictions[places == place] == labels[places == place]).all() for place in np.unique(places)]
    assert found["exact"] == pytest.approx(np.mean(whole))
    assert found["f1a"] == pytest.approx(standard.f1_score(labels, predictions))
    assert superglue.multirc([0, 0], [0, 0], [1, 2]) == {"f1a": 0.0, "exact": 1.0}


def test_record() -> None:
    answers = {"a": ["New York", "NYC"], "b": ["Obama"], "c": ["the"]}
    found = superglue.record({"a": "nyc", "b": "Barack Obama", "c": "a"}, answers)
    assert found["exact"] == pytest.approx(2 / 3) and found["f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
