"""Fine-tuning tasks: rows, targets and losses by hand, and predictions that give back what an oracle knows."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SMALL
from records import loss_of, make_split, outcomes_of, whole_batch

from bertjax.data.fast_tokenizer import FastTokenizer
from bertjax.data.labelled import made_up
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.data.subword import Tokenizer
from bertjax.scores.tags import convert
from bertjax.tasks import TASKS, LabelledTask
from bertjax.tasks.answer import Answer
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.embed import Embed
from bertjax.tasks.labelled import labelled
from bertjax.tasks.regress import Regress
from bertjax.tasks.tag import Tag, owners
from bertjax.tasks.translate import Translate

WORDPIECE = made_up.tokenizer()
RANDOM = np.random.default_rng(0)


def byte_level() -> FastTokenizer:
    """Byte-level BPE, whose tokens may begin with a space."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    from bertjax.data.fast_tokenizer import Special

    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    fast = Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=names,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator([" ".join(made_up.WORDS)] * 3, trainer)
    Special().add_to(fast)
    return FastTokenizer({"tokenizer.json": fast.to_str().encode()})


TOKENIZERS = {"wordpiece": WORDPIECE, "byte_level": byte_level()}


def resolved(task: Any, split: Split) -> Any:
    return task.resolve(split)


# ---------------------------------------------------------------------------------------------- classify

TEXTS = ["ban da", "fa fe fi", "go", "", "ku la le"]
SORTED = make_split(text=TEXTS, label=["x", "y", "z", "x", None])


def classified(**options: Any) -> tuple[Classify, Any, np.ndarray]:
    task = Classify(**options).resolve(SORTED)
    batch = whole_batch(task, task.examples(SORTED, WORDPIECE, 8), 8)
    return task, batch, RANDOM.normal(size=(6, 3)).astype(np.float32)


def log_softmax(x: np.ndarray) -> np.ndarray:
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


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


# ---------------------------------------------------------------------------------------------- tag


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


# ---------------------------------------------------------------------------------------------- answer


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


# ---------------------------------------------------------------------------------------------- choose

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


# ---------------------------------------------------------------------------------------------- embed


def vectors(rows: int, width: int = 5) -> np.ndarray:
    x = RANDOM.normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def embedded(records: Split, **options: Any) -> tuple[Embed, Any, Any]:
    task = Embed(**options).resolve(records)
    examples = task.examples(records, WORDPIECE, 8)
    return task, examples, whole_batch(task, examples, 8)


PAIRS = {"text": ["ban", "da", "ku"], "pair": ["go", "gu", "ka"]}


def test_cosines() -> None:
    records = make_split(**PAIRS, label=[5, 2.5, None])
    task, examples, batch = embedded(records)
    x = vectors(8)
    cosines = (x[0::2] * x[1::2]).sum(1)
    wanted = np.mean((cosines[:2] - [1.0, 0.5]) ** 2)
    assert loss_of(task, x, batch)["loss"] == pytest.approx(wanted, rel=1e-5)
    predictions = task.predictions(examples, outcomes_of(task, x, batch), records)
    assert [prediction["similarity"] for prediction in predictions] == pytest.approx(cosines[:3], rel=1e-5)
    assert set(task.score(predictions, records)) == {"spearman", "pearson"}


@pytest.mark.parametrize("negative", [None, "far"])
def test_contrast_with_the_batch(negative: str | None) -> None:
    records = make_split(**PAIRS, far=["la", "le", "li"])
    task, _, batch = embedded(records, objective="contrastive", negative=negative, temperature=0.1)
    group = 2 if negative is None else 3
    x = vectors(4 * group)
    sides = [x[side::group][:3] for side in range(group)]
    logits = np.concatenate([sides[0] @ side.T for side in sides[1:]], axis=1) / 0.1
    wanted = -np.diagonal(log_softmax(logits)).mean()
    found = loss_of(task, x, batch)
    assert found["loss"] == pytest.approx(wanted, rel=1e-4)
    assert found["accuracy"] == np.mean(logits.argmax(1) == np.arange(3))
    assert task.makes_rows


def test_a_pair_that_is_there_twice_is_not_its_own_negative() -> None:
    records = make_split(text=["ban", "da", "ku"], pair=["go", "go", "ka"])
    task, _, batch = embedded(records, objective="contrastive", temperature=0.1)
    x = vectors(8)
    logits = (x[0:6:2] @ x[1:6:2].T) / 0.1
    logits[0, 1] = logits[1, 0] = -np.inf
    assert loss_of(task, x, batch)["loss"] == pytest.approx(
        -np.diagonal(log_softmax(logits)).mean(), rel=1e-4
    )


def test_triplets() -> None:
    records = make_split(**PAIRS, far=["la", "le", "li"])
    task, _, batch = embedded(records, objective="triplet", negative="far", label=None, margin=0.5)
    x = vectors(12)
    near = np.linalg.norm(x[0::3] - x[1::3], axis=1)[:3]
    far = np.linalg.norm(x[0::3] - x[2::3], axis=1)[:3]
    assert loss_of(task, x, batch)["loss"] == pytest.approx(np.maximum(near - far + 0.5, 0).mean(), rel=1e-4)
    assert jnp.isfinite(loss_of(task, np.ones((12, 5), np.float32) / 5**0.5, batch)["loss"])


def test_retrieval() -> None:
    records = make_split(text=["ban", "da", "ku"], pair=["go", "go", "ka"])
    task, examples, batch = embedded(records, objective="contrastive", label=None)
    x = np.zeros((8, 3), np.float32)
    x[[0, 1, 2, 3]] = [1, 0, 0]  # the first two find each other's, which is the same text
    x[4], x[5] = [0, 1, 0], [-0.6, 0.8, 0]
    predictions = task.predictions(examples, outcomes_of(task, x, batch), records)
    found = task.score(predictions, records)
    assert found["mrr@10"] == 1.0 and found["recall@1"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert not any(name.startswith("_") for name in ("similarity",)) and predictions[0]["similarity"] == 1.0


# ---------------------------------------------------------------------------------------------- bad input

ANSWER = {"id": ["a", "b"], "question": ["x", "x"], "context": ["ban da", "go gu"]}
BAD: list[tuple[LabelledTask, Split, str]] = [
    (
        Classify(),
        make_split(text=["a"], kind=["x"]),
        "train.tsv has no column 'label': choose from text, kind",
    ),
    (
        Classify(),
        make_split(text=["a", "b"], label=["x", "x"]),
        "all 2 records have the class 'x': there is nothing to",
    ),
    (Classify(), make_split(text=["a"], label=[None]), "all 1 records are without a class"),
    (
        Classify(labels=("x", "y")),
        make_split(text=["a"], label=["z"]),
        "train.tsv line 2: label 'z' is not a class of",
    ),
    (
        Classify(class_weights=(1.0,)),
        make_split(text=["a", "b"], label=["x", "y"]),
        "1 weights for 2 classes",
    ),
    (Regress(), make_split(text=["a", "b"], label=[1, 1]), "all numbers in 'label' are equal or missing"),
    (Regress(), make_split(text=["a"], label=["high"]), "line 2: 'label' holds str 'high' and not a number"),
    (Tag(), make_split(words=[["a", "b"]], tags=[["O"]]), "line 2: 2 words and 1 tags: give one for each"),
    (
        Tag(),
        make_split(words=["a b"], tags=[["O", "O"]]),
        "line 2: 'words' holds str 'a b' and not a list of texts",
    ),
    (
        Tag(),
        make_split(words=[["a", "b"]], tags=[["NN", "VB"]]),
        "line 2: tag 'NN'.*or set tasks.tag.scheme=none",
    ),
    (Tag(), make_split(words=[["a", "b"]], tags=[["O", "O"]]), "all words have the tag 'O'"),
    (
        Answer(),
        make_split(**ANSWER, answers=[["da"], ["ga"]], starts=[[4], [0]]),
        "line 3: the answer 'ga' is not at character 0 of the context, 'go' is; it is nowhere",
    ),
    (
        Answer(),
        make_split(**ANSWER, answers=[["da"], ["gu"]], starts=[[4], [0]]),
        "the answer 'gu' is not at character 0 of the context, 'go' is; it is at 3",
    ),
    (Answer(), make_split(**ANSWER, answers=[[], []], starts=[[], []]), "no record has an answer"),
    (Answer(), make_split(**ANSWER, answers=[["da"], []], starts=[[], []]), "not a list of 1 places"),
    (
        Answer(unanswerable=False),
        make_split(**ANSWER, answers=[["da"], []], starts=[[4], []]),
        "line 3 has no answer",
    ),
    (Choose(), make_split(text=["a"], choices=[["x"]], label=[0]), "line 2 has 1 choices"),
    (
        Choose(),
        make_split(text=["a"], choices=[["x", "y"]], label=[2]),
        "line 2: label '2' is not a class of",
    ),
    (
        Choose(number=2),
        make_split(text=["a"], choices=[["x", "y", "z"]], label=[0]),
        "set tasks.choose.number=3",
    ),
    (Choose(), make_split(text=["a"], choices=[["x", "y"]], label=[None]), "no record has a label"),
    (
        Embed(),
        make_split(text=["a", "b"], pair=["a", "b"], label=[1, 1]),
        "all labels in 'label' are equal or missing",
    ),
]


@pytest.mark.parametrize("task, split, message", BAD)
def test_records_that_cannot_be_learned_from(task: LabelledTask, split: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        task.resolve(split)
    assert "\n" not in str(error.value)


OPTIONS: list[tuple[type[LabelledTask], dict[str, Any], str]] = [
    (Classify, {"stride": -1}, "tasks.classify.stride=-1"),
    (Classify, {"smoothing": 1.0}, "tasks.classify.smoothing=1.0"),
    (Classify, {"r_drop": 0.0}, "tasks.classify.r_drop=0.0"),
    (Classify, {"problem": "multi", "smoothing": 0.1}, "problem=multi has neither smoothing"),
    (Classify, {"class_weights": (1.0, 0.0)}, "the weight 0.0 must be above 0"),
    (Tag, {"stride": -1}, "tasks.tag.stride=-1"),
    (Answer, {"best": 0}, "tasks.answer.best=0 must be at least 1"),
    (Embed, {"objective": "triplet"}, "set tasks.embed.negative"),
    (Embed, {"temperature": 0.0}, "tasks.embed.temperature=0.0"),
]


@pytest.mark.parametrize("kind, options, message", OPTIONS)
def test_options_that_are_none(kind: type[LabelledTask], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_held_out_records_of_an_unknown_class() -> None:
    task = Classify().resolve(SORTED)
    with pytest.raises(
        ValueError, match=r"dev line 9: label 'neutral' is not a class of tasks.classify.labels"
    ):
        task.examples(Split("dev", {"text": ["a"], "label": ["neutral"]}, lines=[9]), WORDPIECE, 8)
    tag = Tag().resolve(sentences(5, 9))
    with pytest.raises(ValueError, match=r"tags 'B-ORG' is not a class of"):
        tag.examples(make_split(words=[["a"]], tags=[["B-ORG"]]), WORDPIECE, 8)


def test_records_without_labels_can_be_predicted_but_not_scored() -> None:
    for task, columns in (
        (Classify(labels=("x", "y")), {"text": ["a"]}),
        (Regress(), {"text": ["a"]}),
        (Tag(labels=("O", "B-X")), {"words": [["a"]]}),
        (Answer(stride=2), {"question": ["a"], "context": ["ban da"]}),
        (Choose(number=2), {"text": ["a"], "choices": [["x", "y"]]}),
        (Translate(target_tokens=12), {"text": ["ban da"]}),
        (Translate(target_tokens=12), {"text": ["ban da"], "target": [None]}),
    ):
        split = make_split(**columns)
        batch = whole_batch(task, task.examples(split, WORDPIECE, 12), 12)
        assert float(jnp.asarray(batch.targets[task.name]["weight"]).sum()) == 0
        with pytest.raises(ValueError, match="train.tsv has no .*to score predictions with"):
            task.score([{}], split)


def test_misplaced_answers_are_left_out_where_that_is_allowed(tmp_path: Any) -> None:
    import json

    lines = [
        {"id": str(i), "question": "x", "context": "ban da", "answers": ["da"], "starts": [4 if i else 0]}
        for i in range(4)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = Answer(records=Records(path=str(tmp_path), bad_rows=1))
    assert task.read("train").columns["id"] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="line 1: the answer 'da' is not at.*records.bad_rows=1"):
        Answer(records=Records(path=str(tmp_path))).read("train")


# ---------------------------------------------------------------------------------------------- all


@pytest.mark.parametrize("task", labelled(tuple(TASKS.values())), ids=lambda task: task.name)
def test_made_up_records_suit_every_task(task: LabelledTask) -> None:
    task = task.on_made_up_records()
    train = task.read("train")
    task = task.resolve(train)
    for which in ("train", "heldout", "test"):
        split = task.read(which)
        assert len(split) == made_up.SIZES[which]
        examples = task.examples(split, WORDPIECE, 40)
        assert examples.records == len(split) and set(examples.record) == set(range(len(split)))
        assert not (examples.tokens == WORDPIECE.vocabulary.unk).any()
    assert task.read("train").digest == train.digest != task.read("heldout").digest


def test_tasks_of_one_kind_have_names_of_their_own() -> None:
    one = Classify(called="mnli")
    assert one.name == "mnli" and one.kind == "classify" and one.at("text") == "tasks.classify.text"
    assert set(dataclasses.replace(one, labels=("x", "y")).heads(SMALL)) == {"mnli"}
