"""Classification and regression of texts: rows, targets and losses by hand, known predictions scored."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from records import WORDPIECE, log_softmax, loss_of, make_split, outcomes_of, whole_batch

from bertjax.data.labelled import made_up
from bertjax.tasks.classify import Classify
from bertjax.tasks.regress import Regress

RANDOM = np.random.default_rng(0)


TEXTS = ["ban da", "fa fe fi", "go", "", "ku la le"]
SORTED = make_split(text=TEXTS, label=["x", "y", "z", "x", None])


def classified(**options: Any) -> tuple[Classify, Any, np.ndarray]:
    task = Classify(**options).resolve(SORTED)
    batch = whole_batch(task, task.examples(SORTED, WORDPIECE, 8), 8)
    return task, batch, RANDOM.normal(size=(6, 3)).astype(np.float32)


def test_rows_of_one_text() -> None:
    task, batch, _ = classified()
    assert task.labels == ("x", "y", "z")
    assert batch.mask.sum(1).tolist() == [4, 5, 3, 2, 5, 0]
    assert WORDPIECE.tokens(batch.tokens[1, :5]) == ["[CLS]", "fa", "fe", "fi", "[SEP]"]
    assert batch.targets["classify"]["label"][:4].tolist() == [0, 1, 2, 0]
    assert batch.targets["classify"]["weight"].tolist() == [1, 1, 1, 1, 0, 0]


def test_rows_of_two_texts_are_cut_from_the_longer() -> None:
    records = make_split(a=["ban da", "fa fe fi ka"], b=["go gu ga ge", "ku la"], label=["x", "y"])
    task = Classify(text="a", pair="b").resolve(records)
    batch = whole_batch(task, task.examples(records, WORDPIECE, 7), 7)
    rows = [WORDPIECE.tokens(row[mask]) for row, mask in zip(batch.tokens, batch.mask, strict=True)]
    assert rows[0] == ["[CLS]", "ban", "da", "[SEP]", "go", "gu", "[SEP]"]
    assert rows[1] == ["[CLS]", "fa", "fe", "[SEP]", "ku", "la", "[SEP]"]
    assert batch.types[0].tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_loss_of_one_class() -> None:
    task, batch, logits = classified()
    logs = log_softmax(logits)
    wanted = -np.mean([logs[0, 0], logs[1, 1], logs[2, 2], logs[3, 0]])
    found = loss_of(task, logits, batch)
    assert found["loss"] == pytest.approx(wanted, rel=1e-5)
    assert found["accuracy"] == np.mean(logits[:4].argmax(1) == [0, 1, 2, 0])


def test_smoothing_and_class_weights() -> None:
    task, batch, logits = classified(smoothing=0.1, class_weights=(1.0, 2.0, 4.0))
    logs, labels, weights = log_softmax(logits)[:4], [0, 1, 2, 0], np.array([1, 2, 4, 1.0])
    each = -(0.9 * logs[np.arange(4), labels] + 0.1 * logs.mean(1))
    assert loss_of(task, logits, batch)["loss"] == pytest.approx(
        (each * weights).sum() / weights.sum(), rel=1e-5
    )
    assert float(task.normaliser(batch)) == 8.0
    balanced = Classify(balance="inverse").resolve(SORTED)
    assert balanced.class_weights == pytest.approx((4 / 6, 4 / 3, 4 / 3))


def test_r_drop_reads_every_row_twice() -> None:
    task, batch, _ = classified(r_drop=2.0)
    twice = task.corrupt(batch, jax.random.key(0), WORDPIECE.vocabulary, jnp.zeros((), jnp.int32))
    assert twice.tokens.shape == (12, 8) and (twice.tokens[0::2] == twice.tokens[1::2]).all()
    logits = RANDOM.normal(size=(12, 3)).astype(np.float32)
    first, second = log_softmax(logits[0:8:2]), log_softmax(logits[1:8:2])
    each = -(first + second)[np.arange(4), [0, 1, 2, 0]] / 2
    apart = (np.exp(first) * (first - second) + np.exp(second) * (second - first)).sum(1) / 2
    found = loss_of(task, logits, twice)
    assert found["loss"] == pytest.approx((each + 2.0 * apart).mean(), rel=1e-5)
    assert found["divergence"] == pytest.approx(apart.mean(), rel=1e-5)
    same = loss_of(task, np.repeat(logits[0::2], 2, axis=0), twice)
    assert same["divergence"] == pytest.approx(0.0, abs=1e-6)


def test_several_classes() -> None:
    records = make_split(text=TEXTS[:3], label=[["x", "y"], [], ["y"]])
    task = Classify(problem="multi").resolve(records)
    batch = whole_batch(task, task.examples(records, WORDPIECE, 8), 8)
    flags = np.array([[1, 1], [0, 0], [0, 1]])
    np.testing.assert_array_equal(batch.targets["classify"]["label"][:3], flags)
    logits = RANDOM.normal(size=(4, 2)).astype(np.float32)
    chances = 1 / (1 + np.exp(-logits[:3]))
    wanted = -np.where(flags, np.log(chances), np.log(1 - chances)).mean()
    assert loss_of(task, logits, batch)["loss"] == pytest.approx(wanted, rel=1e-5)
    right = 20.0 * np.concatenate([flags, [[0, 0]]]) - 10.0
    examples = task.examples(records, WORDPIECE, 8)
    predictions = task.predictions(examples, outcomes_of(task, right, batch), records)
    assert [prediction["labels"] for prediction in predictions] == [["x", "y"], [], ["y"]]
    assert task.score(predictions, records) == {"f1_micro": 1.0, "f1_macro": 1.0, "exact": 1.0}


def test_scores_of_known_predictions() -> None:
    task, batch, logits = classified()
    examples = task.examples(SORTED, WORDPIECE, 8)
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), SORTED)
    assert len(predictions) == 5
    chances = np.exp(log_softmax(logits))
    for prediction, row in zip(predictions, chances, strict=False):
        assert list(prediction["probabilities"].values()) == pytest.approx(row, rel=1e-5)
        assert prediction["label"] == "xyz"[row.argmax()] and prediction["probability"] == pytest.approx(
            row.max()
        )
    found = task.score(predictions, SORTED)
    assert found["accuracy"] == np.mean(logits[:4].argmax(1) == [0, 1, 2, 0])
    assert task.stands(found) == found["accuracy"]
    assert dataclasses.replace(task, metric="matthews").stands(found) == found["matthews"]
    with pytest.raises(
        ValueError, match="tasks.classify.metric=f2 is no score of this task: choose from accuracy"
    ):
        dataclasses.replace(task, metric="f2").stands(found)


def test_long_texts_in_chunks() -> None:
    words = [made_up.WORDS[i] for i in range(30)]
    records = make_split(text=[" ".join(words), "ban"], label=["x", "y"])
    cut = Classify().resolve(records).examples(records, WORDPIECE, 12)
    assert cut.lengths.tolist() == [12, 3]
    task = Classify(stride=3).resolve(records)
    examples = task.examples(records, WORDPIECE, 12)
    assert examples.record.tolist() == [0, 0, 0, 0, 1]
    seen = [WORDPIECE.tokens(examples.tokens[a:b])[1:-1] for a, b in itertools.pairwise(examples.offsets)]
    assert seen[0] == words[:10] and seen[1] == words[7:17] and seen[3] == words[21:]
    batch = whole_batch(task, examples, 16)
    logits = RANDOM.normal(size=(6, 2)).astype(np.float32)
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), records)
    chances = np.exp(log_softmax(logits))
    assert predictions[0]["probabilities"]["x"] == pytest.approx(chances[:4, 0].mean(), rel=1e-5)
    pair = dataclasses.replace(task, pair="text")
    both = pair.examples(make_split(text=[" ".join(words)], label=["x"]), WORDPIECE, 16)
    assert both.lengths.max() == 16 and len(both) > 1


def test_a_text_of_a_million_characters() -> None:
    records = make_split(text=["ban da " * 150_000, "x" * 1_000_000], label=["x", "y"])
    task = Classify().resolve(records)
    examples = task.examples(records, WORDPIECE, 16)
    assert examples.lengths.tolist() == [16, 3]  # a word of a million letters is unknown


# ---------------------------------------------------------------------------------------------- regress


def test_regression() -> None:
    records = make_split(a=["ban", "da", "ku"], b=["ban", "go", "ka"], label=["5.0", 1, None])
    task = Regress(text="a", pair="b").resolve(records)
    examples = task.examples(records, WORDPIECE, 8)
    batch = whole_batch(task, examples, 8)
    logits = np.array([[4.0], [1.5], [9.0], [7.0]], np.float32)
    assert loss_of(task, logits, batch)["loss"] == pytest.approx((1 + 0.25) / 2)
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), records)
    assert [prediction["value"] for prediction in predictions] == [4.0, 1.5, 9.0]
    found = task.score(predictions, records)
    assert found["pearson"] == pytest.approx(1.0) and found["squared_error"] == pytest.approx(0.625)
