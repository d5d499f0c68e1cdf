"""Where a split is found, and what a column may hold."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data.labelled.records import Records, find_split, read_split
from bertjax.data.labelled.split import Split


@pytest.mark.parametrize(
    "files, split, wanted",
    [
        (["train.tsv", "dev.tsv", "test.tsv"], "validation", ["dev.tsv"]),
        (["train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"], "dev_matched", ["dev_matched.tsv"]),
        (["train-v1.1.json", "dev-v1.1.json"], "train", ["train-v1.1.json"]),
        (["eng.train", "eng.testa", "eng.testb"], "validation", ["eng.testa"]),
        (["eng.train", "eng.testa", "eng.testb"], "test", ["eng.testb"]),
        (["train.jsonl", "val.jsonl", "README.md"], "validation", ["val.jsonl"]),
        (["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"], "train", None),
    ],
)
def test_a_split_is_found_by_its_name(
    files: list[str], split: str, wanted: list[str] | None, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("x")
    assert find_split(str(tmp_path), split) == [str(tmp_path / file) for file in wanted or files]


def test_several_files_for_a_split_are_refused(tmp_path: Path) -> None:
    for name in ("dev-a.tsv", "dev-b.tsv"):
        (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match="several files for the split 'dev'"):
        find_split(str(tmp_path), "dev")
    with pytest.raises(ValueError, match="no split 'train', it has dev-a.tsv, dev-b.tsv"):
        find_split(str(tmp_path), "train")


def folder(path: Path, rows: int = 50) -> Path:
    text = "".join(f"text {i}\t{i % 3}\n" for i in range(rows))
    (path / "train.tsv").write_text(f"text\tlabel\n{text}")
    return path


def test_a_share_is_held_out(tmp_path: Path) -> None:
    records = Records(path=str(folder(tmp_path)), share=0.2)
    train, heldout = (read_split(records, which) for which in ("train", "heldout"))
    assert len(heldout) == 10 and len(train) == 40
    assert sorted([*train.columns["text"], *heldout.columns["text"]]) == sorted(
        f"text {i}" for i in range(50)
    )
    assert heldout.columns["text"] != [f"text {i}" for i in range(10)]
    again = read_split(records, "heldout")
    assert again.columns == heldout.columns and again.digest == heldout.digest != train.digest
    one = Records(path=str(tmp_path / "train.tsv"), share=0.2)
    assert read_split(one, "train").columns == train.columns
    number = int(heldout.columns["text"][3].split()[1])
    assert heldout.where(3).endswith(f"line {number + 2}")


def test_a_limit_takes_records_from_everywhere(tmp_path: Path) -> None:
    split = read_split(Records(path=str(folder(tmp_path)), limit=20), "train")
    numbers = [int(text.split()[1]) for text in split.columns["text"]]
    assert len(set(numbers)) == 20 and numbers == sorted(numbers) and max(numbers) > 30


def test_a_saved_data_set_is_read(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["no", "yes"])}
    )
    data = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [1, 0]}, features=features)
    datasets.DatasetDict({"train": data, "validation": data}).save_to_disk(str(tmp_path / "set"))
    split = read_split(Records(path=str(tmp_path / "set")), "heldout")
    assert split.class_names("label", "x") == ["yes", "no"]
    with pytest.raises(ValueError, match="has no split 'dev2': it has train, validation"):
        read_split(Records(path=str(tmp_path / "set"), heldout="dev2"), "heldout")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"path": "/no/such/folder"}, "does not exist"),
        ({"heldout": "dev2"}, "no split 'dev2'"),
        ({"share": 1.0}, "records.share=1.0"),
        ({"limit": 0}, "records.limit=0"),
        ({"bad_rows": -1}, "records.bad_rows=-1"),
    ],
)
def test_records_that_are_none_are_refused(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message) as error:
        read_split(Records(**{"path": str(folder(tmp_path)), **change}), "heldout")
    assert "\n" not in str(error.value)


def test_an_empty_split_is_refused(tmp_path: Path) -> None:
    (tmp_path / "train.tsv").write_text("text\tlabel\n")
    with pytest.raises(ValueError, match="has no records for train"):
        read_split(Records(path=str(tmp_path)), "train")


def split(**columns: Any) -> Split:
    return Split("dev.tsv", columns, lines=list(range(2, 2 + len(next(iter(columns.values()))))))


WRONG: list[tuple[str, Split, str]] = [
    (
        "texts",
        split(a=["x", 7]),
        "dev.tsv line 3: 'a' holds int 7 and not text: mend it, or set tasks.t.x to",
    ),
    ("texts", split(a=["x", None]), "'a' holds NoneType None and not text"),
    ("texts", split(b=["x"]), "dev.tsv has no column 'a': choose from b; set tasks.t.x"),
    ("texts", split(aa=["x"]), "did you mean 'aa'"),
    ("numbers", split(a=["1.5", "much"]), "line 3: 'a' holds str 'much' and not a number"),
    ("numbers", split(a=[True]), "not a number"),
    ("numbers", split(a=["inf"]), "not a finite number"),
    ("lists", split(a=[["x"], "x y"]), "line 3: 'a' holds str 'x y' and not a list of texts"),
    ("class_names", split(a=["x", 1.5]), "line 3: 'a' holds float 1.5 and not the name or number of a class"),
    ("several", split(a=[3]), "not a list of classes"),
]


@pytest.mark.parametrize("method, records, message", WRONG)
def test_a_column_of_another_type_is_told(method: str, records: Split, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        getattr(records, method)("a", "tasks.t.x")
    assert "\n" not in str(error.value)


def test_classes_in_all_forms() -> None:
    named = Split("hub", {"a": [0, 1, -1, np.int64(1)]}, classes={"a": ["no", "yes"]})
    assert named.class_names("a", "s") == ["no", "yes", None, "yes"]
    assert named.known_classes("a", {"yes"}) == ("no", "yes")
    with pytest.raises(ValueError, match="'a' is 5 and there are 2 classes"):
        Split("hub", {"a": [5]}, classes={"a": ["no", "yes"]}).class_names("a", "s")
    assert split(a=[True, False, None, "", " x ", 3]).class_names("a", "s") == [
        "true",
        "false",
        None,
        None,
        "x",
        "3",
    ]
    assert split(a=[1]).known_classes("a", {"10", "9", "1"}) == ("1", "9", "10")
    assert split(a=[1]).known_classes("a", {"b", "a10", "a9"}) == ("a10", "a9", "b")
    assert split(a=["x, y", "", ["z"], None]).several("a", "s") == [["x", "y"], [], ["z"], None]
    numbers = split(a=["x", None]).class_numbers(["x", None], ("w", "x"), "a", "s")
    assert numbers.tolist() == [1, -1]
    with pytest.raises(
        ValueError, match="dev.tsv line 2: a 'neutrl' is not a class of s: did you mean 'neutral'"
    ):
        split(a=["neutrl"]).class_numbers(["neutrl"], ("entailment", "neutral"), "a", "s")


def test_numbers_may_be_missing() -> None:
    values = split(a=["1.5", 2, None, ""]).numbers("a", "s")
    np.testing.assert_array_equal(values, [1.5, 2, np.nan, np.nan])
    assert np.isnan(split(b=[1]).numbers("a", "s")).all()


def test_the_digest_sees_every_value() -> None:
    first = split(a=["x", "y"], b=[1, 2])
    assert first.digest == split(a=["x", "y"], b=[1, 2]).digest
    assert (
        len({first.digest, split(a=["x", "z"], b=[1, 2]).digest, split(a=["x", "y"], c=[1, 2]).digest}) == 3
    )
