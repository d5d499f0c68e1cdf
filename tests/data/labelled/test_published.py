"""Published sets that are no plain table: records inside records, marked spans, options, languages, pairs of files."""

import json
from pathlib import Path
from typing import Any

import pytest
from published_sets import race, sts, superglue, swag, write, write_objects, xnli

from bertjax.data.labelled.layouts import read_file
from bertjax.data.labelled.records import Records, read_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published")
    race(path / "RACE")
    swag(path / "swag")
    xnli(path)
    sts(path)
    return superglue(path)


def test_multirc_is_a_record_an_answer(folder: Path) -> None:
    split = read_split(Records(str(folder / "MultiRC"), view="multirc"), "train")
    assert len(split) == 12 * 5 and split.columns["label"][:2] in ([0, 1], [1, 0], [0, 0], [1, 1])
    whole = json.loads((folder / "MultiRC" / "train.jsonl").read_text().splitlines()[1])["passage"]
    question = whole["questions"][1]
    assert split.columns["text"][7] == whole["text"]
    assert split.columns["pair"][7] == f"{question['question']} {question['answers'][0]['text']}"
    assert split.columns["group"][5:10] == ["1:2", "1:2", "1:3", "1:3", "1:3"]
    assert split.columns["idx"][7] == {"paragraph": 1, "question": 3, "answer": 7}
    assert split.where(7).endswith("train.jsonl line 2")
    test = read_split(Records(str(folder / "MultiRC"), test="test"), "test")
    assert test.class_names("label", "x") == [None] * 10


def test_record_is_a_record_an_entity(folder: Path) -> None:
    split = read_split(Records(str(folder / "ReCoRD"), view="record"), "train")
    line = json.loads((folder / "ReCoRD" / "train.jsonl").read_text().splitlines()[0])
    names = split.columns["option"][:3]
    assert len(split) == 12 * 3 and len(set(names)) == 3  # an entity that is there twice is one option
    assert split.columns["label"][:3] == ["true", "false", "false"]
    assert split.columns["pair"][1] == line["qas"][0]["query"].replace("@placeholder", names[1])
    assert "@highlight" not in split.columns["text"][0] and split.columns["group"][:4] == ["100"] * 3 + [
        "101"
    ]
    test = read_split(Records(str(folder / "ReCoRD"), test="test", view="record"), "test")
    assert test.class_names("label", "x") == [None] * 6


def test_spans_are_marked(folder: Path) -> None:
    split = read_split(Records(str(folder / "WiC"), view="wic"), "heldout")
    word, text = split.columns["word"][0], split.columns["text"][0]
    assert (
        f" * {word} * " in text and text.replace("* ", "").replace(" *", "") == split.columns["sentence1"][0]
    )
    assert f"* {word} *" in split.columns["pair"][0]
    split = read_split(Records(str(folder / "WSC"), view="wsc"), "heldout")
    plain = json.loads((folder / "WSC" / "val.jsonl").read_text().splitlines()[0])["text"].split()
    wanted = [plain[0], "*", *plain[1:3], "*", *plain[3:6], "#", plain[6], "#", *plain[7:]]
    assert split.columns["text"][0].split() == wanted
    assert set(split.class_names("label", "x")) == {"true", "false"}


def test_race_is_a_folder_of_articles(folder: Path) -> None:
    split = read_split(Records(str(folder / "RACE")), "train")
    assert len(split) == 24 and set(split.columns) == {
        "example_id",
        "article",
        "question",
        "options",
        "answer",
    }
    assert split.columns["example_id"].count("high1.txt") == 2 and len(split.columns["options"][0]) == 4
    assert len(read_split(Records(str(folder / "RACE")), "heldout")) == 8


def test_swag_has_a_column_without_a_name(folder: Path) -> None:
    split = read_split(Records(str(folder / "swag")), "heldout")
    assert split.columns["index"][:2] == ["0", "1"] and split.columns["ending0"][0].count(",") == 1
    (folder / "twice.csv").write_text(",index,text\n0,1,a\n")
    with pytest.raises(ValueError, match="line 1 has an empty name"):
        read_file(str(folder / "twice.csv"))


def test_xnli_is_of_one_language_with_one_name_for_each_column(folder: Path) -> None:
    files = {"train": "XNLI-MT-1.0/multinli/multinli.train.sw.tsv", "heldout": "XNLI-1.0/xnli.dev.tsv"}
    records = Records(str(folder), subset="sw", view="xnli", **files)
    for which, number in (("train", 48), ("heldout", 9)):
        split = read_split(records, which)
        assert len(split) == number and list(split.columns) == ["premise", "hypothesis", "label"]
        assert set(split.columns["label"]) == {"contradiction", "entailment", "neutral"}
    assert split.where(0).endswith("xnli.dev.tsv line 11")  # behind English
    with pytest.raises(ValueError, match=r"nothing in records.subset=tlh: it has en, sw, zh"):
        read_split(Records(str(folder), subset="tlh", view="xnli", **files), "heldout")


def test_sts_lies_in_two_files_a_part(folder: Path) -> None:
    split = read_split(Records(str(folder / "STS" / "STS12-en-test"), test="test"), "test")
    assert len(split) == 12 and split.columns["score"].count(None) == 2
    (folder / "odd").mkdir()
    write(folder / "odd" / "STS.input.a.txt", ["x\ty"])
    with pytest.raises(ValueError, match="has no similarities: .*STS.gs.a.txt is missing"):
        read_split(Records(str(folder / "odd")), "train")
    write(folder / "odd" / "STS.gs.a.txt", ["1", "2"])
    with pytest.raises(ValueError, match="has 1 lines and .* 2: fetch both again"):
        read_split(Records(str(folder / "odd")), "train")


PASSAGE = {"text": "ban da", "entities": [{"start": 0, "end": 2}]}
BROKEN: list[tuple[dict[str, Any], Any, str]] = [
    (
        {"idx": 0, "passage": {"text": "x", "questions": [{"idx": 0, "answers": []}, {}]}},
        "multirc",
        "train.jsonl line 1: no 'answers': it is not MultiRC's layout",
    ),
    ({"idx": 0, "passage": PASSAGE, "qas": [{"idx": 0}]}, "record", "no 'query': it is not ReCoRD's layout"),
    (
        {"idx": 0, "passage": PASSAGE, "qas": [{"idx": 0, "query": "x"}]},
        "record",
        "line 1: no @placeholder in the query",
    ),
    ({"article": "x", "questions": ["y"], "options": []}, None, "it is not RACE's layout"),
    ({"text": "a b", "target": 5}, None, "it is not WSC's layout"),
    (
        {"text": "a b", "target": {"span1_text": "c", "span1_index": 2, "span2_text": "a", "span2_index": 0}},
        "wsc",
        "line 1: the span 'c' at word 2 is not in a text of 2 words",
    ),
    (
        {"sentence1": "a", "start1": 0, "end1": 9, "sentence2": "a", "start2": 0, "end2": 1},
        "wic",
        "the word from character 0 to 9 is not in a sentence of 1",
    ),
    ({"text": "a"}, "wic", "has no column 'sentence1': .*set records.view=wic for another set, or none"),
]


@pytest.mark.parametrize("one, view, message", BROKEN)
def test_what_is_no_such_set_is_told_in_one_line(
    one: dict[str, Any], view: Any, message: str, tmp_path: Path
) -> None:
    write_objects(tmp_path / "train.jsonl", [one])
    with pytest.raises(ValueError, match=message) as error:
        read_split(Records(str(tmp_path), view=view), "train")
    assert "\n" not in str(error.value)


def test_a_text_and_its_translation_are_not_wsc(tmp_path: Path) -> None:
    pairs = [{"text": "a b", "target": "c"}, {"text": "d", "target": None}]
    write_objects(tmp_path / "train.jsonl", pairs)
    split = read_split(Records(str(tmp_path)), "train")
    assert [split.record(index) for index in range(len(split))] == pairs
