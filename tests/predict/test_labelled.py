"""Pipelines of labelled tasks: what they say of a run's held-out records is what the run itself wrote down.

One untrained model has the heads of five tasks. Its parameters are random, so that its predictions are as different as
those of a trained one, and every place in a text occurs.
"""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.data.labelled import made_up
from bertjax.predict import (
    Classify,
    FindAnswer,
    Rerank,
    RunOptions,
    Similar,
    Tag,
    answer,
    classify,
    embed,
    rerank,
    run,
    similar,
    tag,
)
from bertjax.sharding import MeshConfig
from bertjax.tasks import TASKS, LabelledTask
from tests.convert.broken import refused
from tests.finetuning import as_left_by_a_run

pytestmark = pytest.mark.usefixtures("quick_compiles")

KINDS = ("classify", "regress", "tag", "answer", "embed")
FEW = RunOptions(batch=7, shapes=2, window=3)
TEXT = "  Kórda pó-lan,\tmirshi 東京 tas🏳️‍🌈 vinpo\u0301  bel"


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder, chosen = tmp_path_factory.mktemp("labelled"), []
    for name in KINDS:
        task = TASKS[name]
        assert isinstance(task, LabelledTask)
        chosen.append(task.on_made_up_records())
    settings = ("tasks.tag.stride=2", "tasks.classify.pooling=mean")
    as_left_by_a_run(folder, tuple(chosen), *settings, spread=0.4, norms=2.0)
    return folder


@pytest.fixture(scope="module")
def bundle(workdir: pathlib.Path) -> Bundle:
    return bertjax.load(str(workdir), mesh=MeshConfig(data=1))


def written(workdir: pathlib.Path, task: str) -> list[dict[str, Any]]:
    lines = (workdir / f"predictions_{task}.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "record"} for line in lines]


def records(kind: str) -> list[dict[str, Any]]:
    split = made_up.make_up(kind, "heldout")
    return [split.record(index) for index in range(len(split))]


def assert_same(found: Any, wanted: Any) -> None:
    """Equal, numbers within what other shapes of batches do to those of a model."""
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            assert_same(found[name], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_same(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, rel=1e-4, abs=1e-4)
    else:
        assert found == wanted


def test_classes_are_those_of_the_evaluation(bundle: Bundle, workdir: pathlib.Path) -> None:
    wanted = written(workdir, "classify")
    found = run(Classify(), bundle, records("classify"), FEW)
    assert_same(found, wanted)
    assert len({one["label"] for one in wanted}) > 1
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1)
    (few,) = run(Classify(top=2), bundle, records("classify")[:1], FEW)
    assert_same(list(few["probabilities"].values()), sorted(found[0]["probabilities"].values())[:-3:-1])
    assert few["label"] == found[0]["label"] == next(iter(few["probabilities"]))


def test_numbers_are_those_of_the_evaluation(bundle: Bundle, workdir: pathlib.Path) -> None:
    wanted, given = written(workdir, "regress"), records("regress")
    assert_same(run(Classify(head="regress"), bundle, given, FEW), wanted)
    found = run(Similar(head="regress"), bundle, given, FEW)
    assert_same([one["similarity"] for one in found], [one["value"] for one in wanted])
    query = given[0]["text"]
    ranked = run(
        Rerank(head="regress"), bundle, [{"query": query, "candidates": [r["pair"] for r in given[:5]]}]
    )
    values = run(Similar(head="regress"), bundle, [{"text": query, "pair": r["pair"]} for r in given[:5]])
    order = sorted(range(5), key=lambda number: -values[number]["similarity"])
    assert [one["candidate"] for one in ranked[0]["ranking"]] == order
    assert [one["text"] for one in ranked[0]["ranking"]] == [given[number]["pair"] for number in order]


def test_tags_are_those_of_the_evaluation(bundle: Bundle, workdir: pathlib.Path) -> None:
    found, given = run(Tag(), bundle, records("tag"), FEW), records("tag")
    assert_same([{n: one[n] for n in ("tags", "probabilities")} for one in found], written(workdir, "tag"))
    texts = run(Tag(), bundle, [{"text": " ".join(one["words"])} for one in given], FEW)
    assert_same([one["entities"] for one in texts], [one["entities"] for one in found])
    assert set(texts[0]) == {"entities"} and sum(len(one["entities"]) for one in texts) > 50


def test_answers_are_those_of_the_evaluation(bundle: Bundle, workdir: pathlib.Path) -> None:
    wanted = written(workdir, "answer")
    found = run(FindAnswer(top=20), bundle, records("answer"), FEW)
    names = ("text", "start", "end", "probability", "no_answer", "best")
    assert_same([{n: one[n] for n in names} for one in found], [{n: one[n] for n in names} for one in wanted])
    for one in found:
        spans = [span["probability"] for span in one["best"]]
        assert sum(spans) + one["no_answer_probability"] == pytest.approx(1)
        assert spans == sorted(spans, reverse=True)
        silent = one["no_answer"] > 0
        assert (one["text"] == "") == silent
        assert one["probability"] == pytest.approx(one["no_answer_probability"] if silent else spans[0])
    assert 0 < sum(one["text"] == "" for one in found) < len(found)
    always = run(FindAnswer(no_answer=False), bundle, records("answer"), FEW)
    assert all(one["text"] and len(one["best"]) <= 3 and "no_answer" not in one for one in always)


def test_similarities_are_those_of_the_evaluation(bundle: Bundle, workdir: pathlib.Path) -> None:
    given = records("embed")
    pairs = [(one["text"], one["pair"]) for one in given]
    found = similar(bundle, pairs, options=FEW)
    assert_same(found, [one["similarity"] for one in written(workdir, "embed")])
    vectors = [embed(bundle, [pair[side] for pair in pairs], options=FEW) for side in range(2)]
    assert vectors[0].shape == (100, 24) and vectors[0].dtype == np.float32
    np.testing.assert_allclose((vectors[0] * vectors[1]).sum(1), found, atol=1e-5)
    ranking = rerank(bundle, pairs[0][0], [pair[1] for pair in pairs], top=7)
    order = np.argsort(-(vectors[1] @ vectors[0][0]), kind="stable")[:7]
    assert [one["candidate"] for one in ranking] == order.tolist() and len(ranking) == 7


def test_poolings(bundle: Bundle) -> None:
    """All of them against the encoder's own states; lengths are kept where that is asked for."""
    rows = bundle.tokenize(["ba be bi", "do"])
    output = bundle.encode(*rows)
    hidden = [np.asarray(output.hidden)[i][rows.mask[i]] for i in range(2)]
    wanted = {
        "mean": [x.mean(0) for x in hidden],
        "max": [x.max(0) for x in hidden],
        "first": [x[0] for x in hidden],
        "pooled": list(np.asarray(output.pooled)),
    }
    for pooling, vectors in wanted.items():
        found = embed(bundle, ["ba be bi", "do"], pooling=pooling, normalise=False)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, vectors, atol=1e-5, err_msg=pooling)
    assert embed(bundle, []).shape == (0, 24)


def test_places_in_a_text(bundle: Bundle) -> None:
    """Accents that are written apart, ideographs, emoji of several characters, spaces before the first word."""
    texts = [TEXT, TEXT.strip(), f"{TEXT} {TEXT} {TEXT}", "", "   "]
    found = tag(bundle, texts)
    for text, one in zip(texts, found, strict=True):
        for entity in one["entities"]:
            assert entity["text"] == text[entity["start"] : entity["end"]] == entity["text"].strip() != ""
            assert 0 < entity["probability"] <= 1
    assert len(found[0]["entities"]) > 1 and found[3]["entities"] == found[4]["entities"] == []
    first = [
        {**entity, "start": entity["start"] - 2, "end": entity["end"] - 2} for entity in found[0]["entities"]
    ]
    assert_same(found[1]["entities"], first)
    for context, one in zip(
        texts, answer(bundle, [("where is", text) for text in texts], top=20), strict=True
    ):
        for span in one["best"]:
            assert span["text"] == context[span["start"] : span["end"]] == span["text"].strip() != ""
        assert bool(one["best"]) == bool(context.strip())


def test_long_texts(bundle: Bundle) -> None:
    """What is not read is told; with a stride all of it is read."""
    text = "ba be bi " * 30
    (cut,) = classify(bundle, [text])
    assert cut["warning"] == "the text has 90 tokens and only the first 22 were read"
    assert_same({**cut, "warning": ""}, {**classify(bundle, ["ba be bi " * 7 + "ba"])[0], "warning": ""})
    (whole,) = run(Classify(stride=4), bundle, [{"text": text}], FEW)
    assert "warning" not in whole and whole["probabilities"] != cut["probabilities"]
    (millions,) = run(Classify(characters=9), bundle, [{"text": "ba " * 1_000_000}], FEW)
    assert millions["warning"] == "text has 3,000,000 characters and only the first 9 were read"
    assert_same(millions["probabilities"], classify(bundle, ["ba ba ba"])[0]["probabilities"])


def test_a_mesh_gives_the_same(bundle: Bundle, workdir: pathlib.Path) -> None:
    mesh = MeshConfig(data=2, fsdp=2, tensor=2, rules="fsdp_tensor")
    other = bertjax.load(str(workdir), mesh=mesh)
    assert other.replicas == 4
    given = records("tag")[:30]
    options = RunOptions(batch=2, shapes=1, window=3)
    assert_same(run(Tag(), other, given, options), run(Tag(), bundle, given, FEW))


REFUSED: list[tuple[Any, dict[str, Any], str]] = [
    (Classify(), {"text": "ba", "pair": "be"}, "record 1: this model was trained on single texts"),
    (Classify(head="regress"), {"text": "ba"}, "record 1: this model was trained on pairs"),
    (Classify(), {"texts": "ba"}, "record 1: the record has no 'text': it has texts"),
    (Classify(), {"text": 3}, "record 1: 'text' holds int 3 and not text"),
    (Classify(), {"text": "\ud83d"}, "record 1: 'text' holds half of a character"),
    (
        Tag(),
        {"text": "ba", "words": ["ba"]},
        "record 1: a record has either a 'text' or 'words', and this one has both",
    ),
    (Tag(), {"words": "ba"}, "record 1: 'words' holds str 'ba' and not a list of texts"),
    (Classify(head="tag"), {"text": "ba"}, "head='tag' is none for classify: choose from classify, regress"),
    (
        Similar(head="classify"),
        {"text": "a", "pair": "b"},
        "similar needs a model of pairs and 'classify' was",
    ),
]


@pytest.mark.parametrize("pipeline, record, message", REFUSED)
def test_records_that_cannot_be_used(
    bundle: Bundle, pipeline: Any, record: dict[str, Any], message: str
) -> None:
    with refused(message):
        run(pipeline, bundle, [record], FEW)
