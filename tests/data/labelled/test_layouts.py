"""Published layouts, each read into the same columns; a file that is not what it says ends with one line."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertjax.data.labelled.layouts import read_file

SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Norway",
            "paragraphs": [
                {
                    "context": "Oslo lies by the sea.",
                    "qas": [
                        {"id": "a", "question": "What?", "answers": [{"text": "Oslo", "answer_start": 0}]},
                        {"id": "b", "question": "Who?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def write(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_tsv_has_no_quotes(tmp_path: Path) -> None:
    """GLUE's QQP and MNLI: a lone quote, doubled quotes, and separators of Unicode are text."""
    rows = ['say "what', '"a ""b"" c"', "one\u2028line", "last"]
    text = "sentence\tlabel\r\n" + "".join(f"{row}\t{i}\r\n" for i, row in enumerate(rows))
    split = read_file(write(tmp_path, "train.tsv", text))
    assert split.columns == {"sentence": rows, "label": ["0", "1", "2", "3"]}
    assert split.where(2).endswith("train.tsv line 4")


def test_a_table_without_names(tmp_path: Path) -> None:
    """CoLA: the training file has no names, the one to predict has."""
    columns = ("source", "label", "mark", "sentence")
    train = read_file(
        write(tmp_path, "train.tsv", "gj04\t1\t\tIt is.\ngj04\t0\t*\tIs it it.\n"), columns=columns
    )
    assert train.columns["sentence"] == ["It is.", "Is it it."] and train.columns["label"] == ["1", "0"]
    assert train.where(0).endswith("line 1")
    test = read_file(write(tmp_path, "test.tsv", "index\tsentence\n0\tThey are.\n"), columns=columns)
    assert test.columns == {"index": ["0"], "sentence": ["They are."]}
    named = read_file(write(tmp_path, "dev.tsv", "\t".join(columns) + "\na\t1\t\tx\n"), columns=columns)
    assert named.columns["sentence"] == ["x"]


def test_csv(tmp_path: Path) -> None:
    content = '﻿text,label\n"a, b",x\n"two\nlines ""quoted""",y\n'
    split = read_file(write(tmp_path, "train.csv", content))
    assert split.columns == {"text": ["a, b", 'two\nlines "quoted"'], "label": ["x", "y"]}
    assert [split.where(i).split()[-1] for i in range(2)] == ["2", "3"]


@pytest.mark.parametrize(
    "name, content",
    [
        ("train.jsonl", '{"text": "a", "label": true}\n\n{"text": "b", "label": false}\n'),
        ("train.json", '[{"text": "a", "label": true}, {"text": "b", "label": false}]'),
        ("lines.json", '{"text": "a", "label": true}\n{"text": "b", "label": false}\n'),
        ("columns.json", '{"text": ["a", "b"], "label": [true, false]}'),
        (
            "data.json",
            '{"version": 1, "data": [{"text": "a", "label": true}, {"text": "b", "label": false}]}',
        ),
    ],
)
def test_json(name: str, content: str, tmp_path: Path) -> None:
    assert read_file(write(tmp_path, name, content)).columns == {"text": ["a", "b"], "label": [True, False]}


def test_squad(tmp_path: Path) -> None:
    split = read_file(write(tmp_path, "dev-v2.0.json", json.dumps(SQUAD)))
    assert split.record(0) == {
        "id": "a",
        "title": "Norway",
        "context": "Oslo lies by the sea.",
        "question": "What?",
        "answers": ["Oslo"],
        "starts": [0],
    }
    assert split.record(1)["answers"] == [] and split.where(1).endswith("question b")


@pytest.mark.parametrize("suffix", [".parquet", ".arrow"])
def test_squad_of_the_hub(suffix: str, tmp_path: Path) -> None:
    answers = [{"text": ["Oslo"], "answer_start": [0]}, {"text": [], "answer_start": []}]
    table = pa.table({"context": ["Oslo.", "Oslo."], "answers": answers})
    path = tmp_path / f"train{suffix}"
    if suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    columns = read_file(str(path)).columns
    assert columns == {"context": ["Oslo.", "Oslo."], "answers": [["Oslo"], []], "starts": [[0], []]}


def test_names_of_classes_come_with_the_file(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    data.to_parquet(str(tmp_path / "train.parquet"))
    split = read_file(str(tmp_path / "train.parquet"))
    assert split.class_names("label", "label") == ["yes", "no"]


def test_conll(tmp_path: Path) -> None:
    text = "-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n\n\nPeter NNP I-NP I-PER\n"
    split = read_file(write(tmp_path, "eng.train", text))
    assert split.columns["words"] == [["EU", "rejects"], ["Peter"]]
    assert split.columns["tags"] == [["I-ORG", "O"], ["I-PER"]]
    assert [split.where(i).split()[-1] for i in range(2)] == ["3", "7"]
    named = read_file(write(tmp_path, "train.txt", text), columns=("words", "pos", "chunk", "tags"))
    assert named.columns["pos"] == [["NNP", "VBZ"], ["NNP"]]


BAD: list[tuple[str, str | bytes, str]] = [
    ("a.tsv", "text\tlabel\nx\t1\ny\n", r"a.tsv line 3 has 1 fields and the table 2 columns"),
    ("a.tsv", "", r"a.tsv is empty"),
    ("a.tsv", "text\ttext\nx\ty\n", r"line 1 has 'text' twice"),
    ("a.tsv", b"text\tlabel\n\xff\t1\n", r"a.tsv line 2: not UTF-8 \(byte 0xff\)"),
    ("a.csv", 'text,label\n"x"y,1\n', r"a.csv line 2: "),
    ("a.jsonl", '{"text": "a"}\n{"text": \n', r"a.jsonl line 2: broken JSON"),
    ("a.jsonl", "[1]\n", r"a.jsonl line 1: list instead of an object"),
    ("a.json", '{"text": [1], "label": []}', r"columns of unequal length"),
    ("a.json", "[1, 2]", r"neither SQuAD's layout"),
    ("a.json", '{"data": [{"paragraphs": [{"qas": [{"question": "x"}]}]}]}', r"question 1: no 'id'"),
    ("a.conll", "EU O\nrejects VBZ O\n", r"a.conll line 2 has 3 columns and those before it 2"),
    ("a.conll", "EU\n", r"a.conll line 1 has 1 columns and a word and its tag are two"),
    ("a.conll", "\n\n", r"a.conll is empty"),
    ("a.parquet", "PAR1 no", r"a.parquet cannot be read"),
    ("a.xlsx", "", r"\.xlsx is no known layout"),
]


@pytest.mark.parametrize("name, content, message", BAD)
def test_what_is_wrong_is_told_in_one_line(name: str, content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_file(write(tmp_path, name, content))
    assert "\n" not in str(error.value)


def test_bad_lines_are_left_out_where_that_is_allowed(tmp_path: Path) -> None:
    path = write(tmp_path, "a.tsv", "text\tlabel\nx\t1\ny\nz\t0\nv\tw\tu\n")
    split = read_file(path, bad_rows=2)
    assert split.columns["text"] == ["x", "z"] and split.where(1).endswith("line 4")
    with pytest.raises(ValueError, match="2 such lines, records.bad_rows=1"):
        read_file(path, bad_rows=1)
