"""Bad input to fine-tuning: what is refused, each in one line that says where, and what is allowed and means what."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from helpers import SMALL
from records import WORDPIECE, make_split

from bertjax.config import Config, DataConfig, TrainConfig, claim
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.finetune import Sets, open_sets, predict_records
from bertjax.sharding import MeshConfig
from bertjax.tasks import LabelledTask
from bertjax.tasks.answer import Answer
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.embed import Embed
from bertjax.tasks.regress import Regress
from bertjax.tasks.tag import Tag

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


def test_held_out_records_of_an_unknown_class() -> None:
    task = Classify().resolve(make_split(text=["a", "b"], label=["x", "y"]))
    with pytest.raises(
        ValueError, match=r"dev line 9: label 'neutral' is not a class of tasks.classify.labels"
    ):
        task.examples(Split("dev", {"text": ["a"], "label": ["neutral"]}, lines=[9]), WORDPIECE, 8)
    tag = Tag().resolve(make_split(words=[["a", "b"]], tags=[["O", "B-PER"]]))
    with pytest.raises(ValueError, match=r"tags 'B-ORG' is not a class of"):
        tag.examples(make_split(words=[["a"]], tags=[["B-ORG"]]), WORDPIECE, 8)


def test_misplaced_answers_are_left_out_where_that_is_allowed(tmp_path: Any) -> None:
    lines = [
        {"id": str(i), "question": "x", "context": "ban da", "answers": ["da"], "starts": [4 if i else 0]}
        for i in range(4)
    ]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, lines)))
    task = Answer(records=Records(path=str(tmp_path), bad_rows=1))
    assert task.read("train").columns["id"] == ["1", "2", "3"]
    with pytest.raises(ValueError, match="line 1: the answer 'da' is not at.*records.bad_rows=1"):
        Answer(records=Records(path=str(tmp_path))).read("train")


# ---------------------------------------------------------------------------------------------- files

TWO = "text\tlabel\nban\tx\nda\ty\n"


def squad(*answers: dict[str, Any]) -> str:
    """A file of questions about one context in SQuAD's layout."""
    paragraphs = [
        {
            "context": "ban da go",
            "qas": [{"id": "a", "question": "where", "answers": [one]} for one in answers],
        }
    ]
    return json.dumps({"data": [{"title": "t", "paragraphs": paragraphs}]})


def opened(folder: Path, files: dict[str, str | bytes], task: LabelledTask, **records: Any) -> Sets:
    """The records, examples and classes of a run over these files."""
    for name, content in files.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    task = dataclasses.replace(task, records=Records(str(folder), **records))
    config = Config(
        model=dataclasses.replace(SMALL, vocab=256, max_length=64),
        data=DataConfig(length=24),
        tasks=(task,),
        mesh=MeshConfig(data=1),
        train=TrainConfig(epochs=1, batch_size=8),
    )
    return open_sets(config)


REFUSED: dict[str, tuple[dict[str, str | bytes], LabelledTask, str]] = {
    "unknown label to evaluate on": (
        {"train.tsv": TWO, "dev.tsv": "text\tlabel\nban\tz\n"},
        Classify(),
        "dev.tsv line 2: label 'z' is not a class of tasks.classify.labels: choose from x, y",
    ),
    "unknown label in the records to test": (
        {"train.tsv": TWO, "dev.tsv": TWO, "test.tsv": "text\tlabel\nban\tz\n"},
        Classify(records=Records(test="test")),
        "test.tsv line 2: label 'z' is not a class of",
    ),
    "label that was not given": (
        {"train.tsv": TWO, "dev.tsv": TWO},
        Classify(labels=("x", "z")),
        "train.tsv line 3: label 'y' is not a class of tasks.classify.labels",
    ),
    "one class": (
        {"train.tsv": "text\tlabel\nban\tx\nda\tx\n", "dev.tsv": TWO},
        Classify(),
        "all 2 records have the",
    ),
    "labels of white space": (
        {"train.tsv": "text\tlabel\nban\t \nda\t  \n", "dev.tsv": TWO},
        Classify(),
        "all 2 records are without a class",
    ),
    "missing column": (
        {"train.tsv": "texts\tlabel\nban\tx\nda\ty\n", "dev.tsv": TWO},
        Classify(),
        "train.tsv has no column 'text': did you mean 'texts'.*set tasks.classify.text",
    ),
    "column missing to evaluate on": (
        {"train.tsv": TWO, "dev.tsv": "text\tkind\nban\tx\n"},
        Classify(),
        "dev.tsv has no labels that classify could be judged by, its columns are text, kind",
    ),
    "number for a text": (
        {"train.jsonl": '{"text": 7, "label": "x"}\n{"text": "da", "label": "y"}\n', "dev.tsv": TWO},
        Classify(),
        "train.jsonl line 1: 'text' holds int 7 and not text: mend it, or set tasks.classify.text",
    ),
    "list for a class": (
        {"train.jsonl": '{"text": "ban", "label": ["x"]}\n', "dev.tsv": TWO},
        Classify(),
        "line 1: 'label' holds list .* and not the name or number of a class",
    ),
    "answer that is not in the context": (
        {"train.json": squad({"text": "ku", "answer_start": 4})},
        Answer(stride=2),
        "question a: the answer 'ku' is not at character 4 of the context, 'da' is; it is nowhere: mend it",
    ),
    "answer that is somewhere else": (
        {"train.json": squad({"text": "da", "answer_start": 0})},
        Answer(stride=2),
        "it is at 4: mend it, or allow for it with records.bad_rows=1",
    ),
    "no number to learn": (
        {"train.tsv": "text\tlabel\nban\tnan\nda\t1\n"},
        Regress(),
        "train.tsv line 2: 'label' holds str 'nan' and not a finite number",
    ),
    "infinite number to learn": (
        {"train.jsonl": '{"text": "ban", "label": -Infinity}\n{"text": "da", "label": 1}\n'},
        Regress(),
        "train.jsonl line 1: 'label' holds float -inf and not a finite number",
    ),
    "ragged line of words": (
        {"train.conll": "ban O\nda NN O\n"},
        Tag(),
        "train.conll line 2 has 3 columns and those before it 2: mend it",
    ),
    "words without a tag": (
        {"train.conll": "ban\nda\n"},
        Tag(),
        "line 1 has 1 columns and a word and its tag are two",
    ),
    "empty table": ({"train.tsv": "", "dev.tsv": TWO}, Classify(), "train.tsv is empty"),
    "empty file of objects": ({"train.jsonl": "", "dev.tsv": TWO}, Classify(), "has no records for train"),
    "empty JSON": ({"train.json": "", "dev.tsv": TWO}, Classify(), "train.json line 1: broken JSON"),
    "a head of a table alone": (
        {"train.tsv": "text\tlabel\n", "dev.tsv": TWO},
        Classify(),
        "has no records for train",
    ),
    "nothing to evaluate on": (
        {"train.tsv": TWO, "dev.tsv": "text\tlabel\n"},
        Classify(),
        "has no records for heldout",
    ),
    "another encoding": (
        {"train.tsv": "text\tlabel\nban\tx\n\xe9\ty\n".encode("latin-1"), "dev.tsv": TWO},
        Classify(),
        "train.tsv line 3: not UTF-8 .byte 0xe9.: convert the file",
    ),
    "torn line of a table": (
        {"train.tsv": TWO + "go\n", "dev.tsv": TWO},
        Classify(),
        "train.tsv line 4 has 1 fields and the table 2 columns",
    ),
    "choice that is not offered": (
        {"train.jsonl": '{"text": "ban", "choices": ["da", "go"], "label": "C"}\n'},
        Choose(),
        "train.jsonl line 1: label 'C' is not a class of tasks.choose.label: choose from 0, 1",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_bad_files_are_told_in_one_line(what: str, tmp_path: Path) -> None:
    files, task, message = REFUSED[what]
    if not any(name.startswith("dev") for name in files):  # it is the records to learn from that are bad
        files = {**files, **{name.replace("train", "dev"): content for name, content in files.items()}}
    with pytest.raises(ValueError, match=message) as error:
        opened(tmp_path, files, task, test=task.records.test)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- documented behaviour


def test_an_empty_text_is_a_row_of_special_tokens(tmp_path: Path) -> None:
    sets = opened(tmp_path, {"train.tsv": TWO + "\tx\n", "dev.tsv": TWO}, Classify())
    examples = sets.examples["classify"]["train"]
    assert examples.lengths.tolist() == [3, 3, 2]


def test_of_a_million_characters_what_fits_is_read(tmp_path: Path) -> None:
    long = "ban " * 250_000
    sets = opened(tmp_path, {"train.tsv": f"{TWO}{long}\tx\n", "dev.tsv": TWO}, Classify())
    assert sets.examples["classify"]["train"].lengths.tolist() == [3, 3, 24]


def test_marks_of_order_and_ends_of_lines_do_not_matter(tmp_path: Path) -> None:
    plain = opened(tmp_path, {"train.tsv": TWO, "dev.tsv": TWO}, Classify()).splits["classify"]["train"]
    (tmp_path / "other").mkdir()
    other = b"\xef\xbb\xbf" + TWO.replace("\n", "\r\n").encode()
    found = opened(tmp_path / "other", {"train.tsv": other, "dev.tsv": other}, Classify())
    assert found.splits["classify"]["train"].columns == plain.columns
    files = {"train.conll": b"\xef\xbb\xbfban B-X\r\nda O\r\n\r\n", "valid.conll": "ban O\nda B-X\n"}
    (tmp_path / "words").mkdir()
    words = opened(tmp_path / "words", dict(files), Tag())
    assert words.splits["tag"]["train"].columns["tags"] == [["B-X", "O"]]


def test_quotes_are_characters_of_a_table_with_tabs(tmp_path: Path) -> None:
    quoted = 'text\tlabel\n"ban\tx\nda" ""go""\ty\n'
    split = opened(tmp_path, {"train.tsv": quoted, "dev.tsv": TWO}, Classify()).splits["classify"]["train"]
    assert split.columns["text"] == ['"ban', 'da" ""go""']


def test_a_label_of_white_space_is_none(tmp_path: Path) -> None:
    sets = opened(tmp_path, {"train.tsv": TWO + "go\t \n", "dev.tsv": TWO}, Classify())
    assert sets.examples["classify"]["train"].values["weight"].tolist() == [1, 1, 0]
    (task,) = sets.tasks
    assert getattr(task, "labels", ()) == ("x", "y")


def test_questions_with_one_name_are_all_scored(tmp_path: Path) -> None:
    good = squad({"text": "da", "answer_start": 4}, {"text": "go", "answer_start": 7})
    sets = opened(tmp_path, {"train.json": good, "dev.json": good}, Answer(stride=2, question_tokens=4))
    split, (task,) = sets.splits["answer"]["heldout"], sets.tasks
    assert split.columns["id"] == ["a", "a"]
    predictions = [{"text": text, "no_answer": -1.0, "best": []} for text in ("da", "ku")]
    assert task.score(predictions, split) == {"f1": 0.5, "exact": 0.5}


def test_a_run_without_a_task_for_records_predicts_none(tmp_path: Path) -> None:
    claim(str(tmp_path), Config(), "corpus")
    with pytest.raises(ValueError, match="has learned mlm, nsp and nothing from labelled records") as error:
        predict_records(str(tmp_path), {"more": Records()})
    assert "\n" not in str(error.value)
    both = (dataclasses.replace(Classify(), called=name) for name in ("one", "two"))
    (tmp_path / "both").mkdir()
    claim(str(tmp_path / "both"), Config(tasks=tuple(both)), "corpus")
    with pytest.raises(ValueError, match="has no task 'tow': did you mean 'two'"):
        predict_records(str(tmp_path / "both"), {"more": Records()}, task="tow")
    with pytest.raises(ValueError, match="has several tasks: choose from one, two"):
        predict_records(str(tmp_path / "both"), {"more": Records()})
