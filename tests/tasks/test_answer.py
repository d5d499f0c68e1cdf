"""Answers in contexts: an oracle gives them back, and the best span is that of brute force."""

import itertools
from typing import Any

import numpy as np
import pytest
from records import TOKENIZERS, WORDPIECE, log_softmax, loss_of, make_split, outcomes_of, whole_batch

from bertjax.data.labelled import made_up
from bertjax.data.labelled.split import Split
from bertjax.tasks.answer import Answer

RANDOM = np.random.default_rng(0)


def questions(number: int, most: int) -> Split:
    """Contexts with spaces and words of several pieces; the answer is some of their words, or there is none."""
    draws = np.random.default_rng(number)
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "question", "context", "answers", "starts")}
    for index in range(number):
        words = [
            str(draws.choice([*made_up.WORDS[:9], "korda", "banana", "tasshi"]))
            for _ in range(draws.integers(1, most))
        ]
        gaps = [" " * int(draws.integers(1, 3)) for _ in words]
        context = "".join(gap + word for gap, word in zip(gaps, words, strict=True))
        first = int(draws.integers(0, len(words)))
        last = min(first + int(draws.integers(0, 3)), len(words) - 1)
        start = len("".join(g + w for g, w in zip(gaps[:first], words[:first], strict=True))) + len(
            gaps[first]
        )
        stop = len("".join(g + w for g, w in zip(gaps[: last + 1], words[: last + 1], strict=True)))
        there = index % 4 > 0
        for name, value in {
            "id": f"q{index}",
            "question": "where is ban",
            "context": context,
            "answers": [context[start:stop]] if there else [],
            "starts": [start] if there else [],
        }.items():
            columns[name].append(value)
    return make_split(**columns)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("length, stride", [(128, 8), (24, 8), (24, 10)])
def test_an_oracle_gives_back_the_answers(name: str, length: int, stride: int) -> None:
    records, tokenizer = questions(24, 30), TOKENIZERS[name]
    task = Answer(stride=stride).resolve(records)
    assert task.unanswerable
    examples = task.examples(records, tokenizer, length)
    assert (len(examples) > len(records)) == (length == 24)
    batch = whole_batch(task, examples, length)
    target = batch.targets["answer"]
    logits = 20.0 * np.stack([np.eye(length)[target["first"]], np.eye(length)[target["last"]]], axis=-1)
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), records)
    wanted = [answers[0] if answers else "" for answers in records.columns["answers"]]
    assert [prediction["text"] for prediction in predictions] == wanted
    for prediction, context, answers in zip(
        predictions, records.columns["context"], records.columns["answers"], strict=True
    ):
        assert context[prediction["start"] : prediction["end"]] == prediction["text"]
        assert (prediction["no_answer"] > 0) == (not answers)
        assert 0.9 < prediction["probability"] <= 1 and len(prediction["best"]) <= task.best
    found = task.score(predictions, records)
    assert found["f1"] == found["exact"] == found["best_f1"] == 1.0
    assert loss_of(task, logits, batch)["loss"] < 1e-3


def test_loss_of_answers() -> None:
    records = questions(5, 6)
    task = Answer(stride=4).resolve(records)
    batch = whole_batch(task, task.examples(records, WORDPIECE, 24), 24)
    logits = RANDOM.normal(size=(6, 24, 2)).astype(np.float32)
    target, total = batch.targets["answer"], 0.0
    for row in range(5):
        size = batch.mask[row].sum()
        logs = log_softmax(logits[row, :size].T)
        total -= (logs[0, target["first"][row]] + logs[1, target["last"][row]]) / 2
    assert loss_of(task, logits, batch)["loss"] == pytest.approx(total / 5, rel=1e-5)


def test_the_best_span_by_brute_force() -> None:
    records = questions(6, 30)
    task = Answer(stride=6, best=400, answer_tokens=4, unanswerable=True).resolve(records)
    examples = task.examples(records, WORDPIECE, 20)
    batch = whole_batch(task, examples, 20)
    logits = RANDOM.normal(size=(*batch.tokens.shape, 2)).astype(np.float32)
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), records)
    for record, prediction in enumerate(predictions):
        found: dict[tuple[int, int], tuple[int, float]] = {}
        for number in np.flatnonzero(examples.record == record):
            window = examples.about[number]
            size = len(window.offsets)
            first, last = (logits[number, window.begin :, side].astype(np.float64) for side in (0, 1))
            for start, end in itertools.product(range(size), repeat=2):
                place = (int(window.offsets[start, 0]), int(window.offsets[end, 1]))
                around = min(start, size - 1 - end)
                if start <= end < start + 4 and around > found.get(place, (-1,))[0]:
                    found[place] = around, first[start] + last[end]
        spans = sorted(((score, *place) for place, (_, score) in found.items()), reverse=True)
        assert [(one["start"], one["end"]) for one in prediction["best"]] == [(a, b) for _, a, b in spans][
            :400
        ]
        null = min(logits[n, 0].sum() for n in np.flatnonzero(examples.record == record))
        assert prediction["no_answer"] == pytest.approx(null - spans[0][0], rel=1e-4)


def test_questions_that_all_have_answers() -> None:
    records = make_split(id=["a"], question=["where"], context=["ban da"], answers=[["da"]], starts=[[4]])
    task = Answer(stride=2).resolve(records)
    assert task.unanswerable is False
    examples = task.examples(records, WORDPIECE, 12)
    batch = whole_batch(task, examples, 12, empty=0)
    logits = np.zeros((1, 12, 2), np.float32)
    logits[0, 0] = 50.0  # the score of no answer does not matter
    (prediction,) = task.predictions(examples, outcomes_of(task, logits, batch), records)
    assert prediction["text"] and task.score([prediction], records).keys() == {"f1", "exact"}
