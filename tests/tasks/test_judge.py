"""Options that are judged one by one: scores by question, against the definitions."""

from typing import Any

import pytest
from records import make_split

from bertjax.scores.superglue import gender_parity
from bertjax.tasks.judge import Judge

OPTIONS = make_split(
    text=["a"] * 5,
    label=[1, 0, 0, 1, None],
    group=["x", "x", "y", "y", "z"],
    option=["ban", "da", "go", "gu", "ka"],
    answers=[["ban"], ["ban"], ["Gu."], ["Gu."], []],
)


def said(*chances: float) -> list[dict[str, Any]]:
    return [{"label": "01"[p > 0.5], "probabilities": {"0": 1 - p, "1": p}} for p in chances]


def test_options_judged_each_for_itself() -> None:
    task = Judge().resolve(OPTIONS)
    assert task.labels == ("0", "1") and task.stands(task.score(said(1, 0, 0, 1, 1), OPTIONS)) == 1.0
    found = task.score(said(0.9, 0.1, 0.6, 0.9, 0.3), OPTIONS)  # a wrong one in the second question
    assert found["exact"] == 0.5 and found["f1a"] == pytest.approx(2 * 2 / (2 * 2 + 1))
    assert found["accuracy"] == 0.75


def test_the_likeliest_option_is_the_answer() -> None:
    task = Judge(option="option").resolve(OPTIONS)
    predictions = said(0.3, 0.2, 0.4, 0.41, 0.9)
    assert task.chosen(predictions, OPTIONS) == {"x": "ban", "y": "gu", "z": "ka"}
    found = task.score(predictions, OPTIONS)
    assert list(found)[:2] == ["f1", "exact"] and found["f1"] == found["exact"] == 1.0
    assert task.score(said(0.3, 0.4, 0.4, 0.41, 0.9), OPTIONS)["exact"] == 0.5


def test_what_is_no_judgement() -> None:
    with pytest.raises(
        ValueError, match="options are right or wrong, and the column 'label' has the classes a, b, c"
    ):
        Judge().resolve(make_split(text=["x"] * 3, label=["a", "b", "c"], group=["q"] * 3))
    with pytest.raises(ValueError, match="tasks.judge.problem=multi"):
        Judge(problem="multi")


def test_gender_parity() -> None:
    assert gender_parity(["a", "a", "a", "b", "b", "b", "b", "a"]) == 0.5
    for wrong in ([], ["a"]):
        with pytest.raises(ValueError, match="are no pairs"):
            gender_parity(wrong)
