"""Multiple choice: the rows of a question compete."""

import numpy as np
import pytest
from records import WORDPIECE, log_softmax, loss_of, make_split, outcomes_of, whole_batch

from bertjax.tasks.choose import Choose

RANDOM = np.random.default_rng(0)


CHOICES = make_split(
    text=["ban", "da", "ku"],
    choices=[["go", "gu"], ["fa", "fe", "fi"], ["ka", "ke", "ki"]],
    label=["B", 2, None],
)


def test_choices() -> None:
    task = Choose().resolve(CHOICES)
    examples = task.examples(CHOICES, WORDPIECE, 8)
    batch = whole_batch(task, examples, 8)
    assert task.group == 3 and batch.tokens.shape == (12, 8)
    assert WORDPIECE.tokens(batch.tokens[4][batch.mask[4]]) == ["[CLS]", "da", "[SEP]", "fe", "[SEP]"]
    assert not batch.mask[2].any()
    logits = RANDOM.normal(size=(12, 1)).astype(np.float32)
    logits[2] = 99.0  # of a choice that is not offered
    logs = [log_softmax(logits[0:2, 0])[1], log_softmax(logits[3:6, 0])[2]]
    assert loss_of(task, logits, batch)["loss"] == pytest.approx(-np.mean(logs), rel=1e-5)
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), CHOICES)
    assert [len(prediction["probabilities"]) for prediction in predictions] == [2, 3, 3]
    assert sum(predictions[0]["probabilities"]) == pytest.approx(1.0)
    right = np.zeros((12, 1), np.float32)
    right[[1, 5]] = 9.0
    predictions = task.predictions(examples, outcomes_of(task, right, batch), CHOICES)
    assert task.score(predictions, CHOICES) == {"accuracy": 1.0}


def test_choices_in_columns_behind_a_question() -> None:
    records = make_split(p=["ban"], q=["where is "], a=["go"], b=["gu"], label=[0])
    task = Choose(text="p", question="q", choices=("a", "b")).resolve(records)
    examples = task.examples(records, WORDPIECE, 16)
    row = examples.tokens[examples.offsets[1] : examples.offsets[2]]
    assert WORDPIECE.tokens(row) == ["[CLS]", "ban", "[SEP]", "where", "is", "gu", "[SEP]"]
