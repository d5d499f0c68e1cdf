"""Tags of words: an oracle gives back what the data says, whatever tokenizer, window and scheme."""

from typing import Any

import numpy as np
import pytest
from records import TOKENIZERS, WORDPIECE, log_softmax, loss_of, make_split, outcomes_of, whole_batch

from bertjax.data.labelled import made_up
from bertjax.data.labelled.split import Split
from bertjax.data.subword import Tokenizer
from bertjax.scores.tags import convert
from bertjax.tasks.tag import Tag, owners

RANDOM = np.random.default_rng(0)


def sentences(number: int, most: int) -> Split:
    """Words of one piece and of several, entities of every length, some of which touch."""
    draws = np.random.default_rng(number)
    words, tags = [], []
    for _ in range(number):
        size = int(draws.integers(1, most + 1))
        words.append(
            [str(draws.choice([*made_up.WORDS[:9], "korda", "banana", "zuzu.x", "é"])) for _ in range(size)]
        )
        marks: list[str] = []
        while len(marks) < size:
            kind = draws.choice(["O", "PER", "LOC"])
            run = int(draws.integers(1, 4))
            marks += ["O"] if kind == "O" else [f"B-{kind}", *[f"I-{kind}"] * (run - 1)]
        tags.append(marks[:size])
    return make_split(words=words, tags=tags)


@pytest.mark.parametrize("name", TOKENIZERS)
def test_words_and_sub_words(name: str) -> None:
    """Against the tokens of every word on its own."""
    tokenizer: Tokenizer = TOKENIZERS[name]
    for words in sentences(30, 12).columns["words"]:
        ((tokens, offsets),) = tokenizer.encode_with_offsets([" ".join(words)])
        owner = owners(words, offsets)
        alone = tokenizer.encode_batch(words)
        np.testing.assert_array_equal(np.concatenate(alone), tokens)
        assert owner.tolist() == [word for word, pieces in enumerate(alone) for _ in pieces]


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("length, stride", [(64, 2), (14, 2), (14, 0)])
@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES"])
def test_an_oracle_gives_back_the_tags(name: str, length: int, stride: int, scheme: Any) -> None:
    records, tokenizer = sentences(40, 20), TOKENIZERS[name]
    task = Tag(scheme=scheme, stride=stride).resolve(records)
    examples = task.examples(records, tokenizer, length)
    assert (len(examples) > len(records)) == (length == 14)
    batch = whole_batch(task, examples, length)
    logits = 20.0 * np.eye(len(task.labels))[batch.targets["tag"]["label"]]
    predictions = task.predictions(examples, outcomes_of(task, logits, batch), records)
    wanted = [convert(tags, scheme) for tags in records.columns["tags"]]
    assert [prediction["tags"] for prediction in predictions] == wanted
    assert min(p for prediction in predictions for p in prediction["probabilities"]) > 0.99
    assert task.score(predictions, records) == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "accuracy": 1.0}
    assert loss_of(task, logits, batch)["loss"] < 1e-3
    leads = sum(len(words) for words in records.columns["words"])
    weight = batch.targets["tag"]["weight"].sum()
    assert weight == leads if length == 64 else weight >= leads


def test_the_window_with_more_context_decides() -> None:
    words = [f"{word}" for word in made_up.WORDS[:14]]
    records = make_split(words=[words], tags=[["O", "B-X"] * 7])
    task = Tag(stride=4).resolve(records)
    examples = task.examples(records, WORDPIECE, 10)  # eight words a window: 0-8, 4-12, 8-14
    assert [leads[:, 0].tolist() for leads in examples.about] == [
        list(range(8)),
        list(range(4, 12)),
        list(range(8, 14)),
    ]
    batch = whole_batch(task, examples, 16, empty=0)
    logits = np.zeros((3, 16, len(task.labels)), np.float32)
    for window in range(3):
        logits[window, :, window] = 9.0  # the first says O, the second B-X, the third I-X
    (prediction,) = task.predictions(examples, outcomes_of(task, logits, batch), records)
    assert prediction["tags"] == ["O"] * 6 + ["B-X"] * 4 + ["I-X"] * 4


def test_loss_of_tags_is_over_first_pieces_or_all() -> None:
    records = make_split(words=[["korda", "ban"]], tags=[["B-X", "O"]])
    logits = RANDOM.normal(size=(2, 8, 3)).astype(np.float32)
    logs = log_softmax(logits)[0]
    for pieces, chosen in (("first", [(1, 1), (3, 0)]), ("all", [(1, 1), (2, 1), (3, 0)])):
        task = Tag(pieces=pieces).resolve(records)  # type: ignore[arg-type]
        assert task.labels == ("O", "B-X", "I-X")
        batch = whole_batch(task, task.examples(records, WORDPIECE, 8), 8)
        wanted = -np.mean([logs[place, label] for place, label in chosen])
        assert loss_of(task, logits, batch)["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_word_without_tokens_is_outside() -> None:
    records = make_split(words=[["ban", "\u200b", "da"]], tags=[["B-X", "O", "B-X"]])
    task = Tag().resolve(records)
    examples = task.examples(records, WORDPIECE, 8)
    batch = whole_batch(task, examples, 8, empty=0)
    logits = 9.0 * np.eye(3)[np.ones((1, 8), int)]
    (prediction,) = task.predictions(examples, outcomes_of(task, logits, batch), records)
    assert prediction["tags"] == ["B-X", "O", "B-X"]


def test_tags_as_they_are() -> None:
    records = make_split(words=[["ban", "da"]], tags=[["NN", "VB"]])
    task = Tag(scheme="none").resolve(records)
    assert task.labels == ("NN", "VB")
    assert task.score([{"tags": ["NN", "NN"]}], records) == {"accuracy": 0.5}
