"""Encoded records on disk: what comes back is what was made, and nothing stale, torn or half written is ever used."""

import dataclasses
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bertjax.data.labelled import cached, examples, made_up
from bertjax.data.labelled.examples import LabelledExamples
from bertjax.data.labelled.split import Split
from bertjax.tasks import TASKS, LabelledTask
from bertjax.tasks.classify import Classify
from bertjax.tasks.labelled import labelled

TOKENIZER = made_up.tokenizer()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set is large, and is put together in several chunks."""
    monkeypatch.setattr(cached, "LEAST", 1)
    monkeypatch.setattr(examples, "CHUNK", 7)


def assert_same(found: LabelledExamples, wanted: LabelledExamples) -> None:
    for name in ("tokens", "types", "offsets", "lengths", "record"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name), name)
        assert getattr(found, name).dtype == getattr(wanted, name).dtype
    assert found.values.keys() == wanted.values.keys()
    for name, values in wanted.values.items():
        np.testing.assert_array_equal(found.values[name], values, name)
        assert found.values[name].dtype == values.dtype
    assert (found.group, found.records, len(found)) == (wanted.group, wanted.records, len(wanted))
    assert len(found.about) == len(wanted.about)
    for one, other in zip(found.about, wanted.about, strict=True):
        parts = [
            [getattr(about, field.name) for field in dataclasses.fields(about)]
            if dataclasses.is_dataclass(about)
            else [about]
            for about in (one, other)
        ]
        for mine, theirs in zip(*parts, strict=True):
            np.testing.assert_array_equal(mine, theirs)


def count_encodings(monkeypatch: pytest.MonkeyPatch, kind: type[LabelledTask]) -> list[Split]:
    """Which splits are encoded from here on."""
    seen, encode = [], kind.encode

    def counted(self: Any, split: Split, *rest: Any) -> Iterator[Any]:
        seen.append(split)
        yield from encode(self, split, *rest)

    monkeypatch.setattr(kind, "encode", counted)
    return seen


@pytest.mark.parametrize("task", labelled(tuple(TASKS.values())), ids=lambda task: task.name)
def test_a_second_start_does_not_tokenise(
    task: LabelledTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    split = task.on_made_up_records().read("heldout")
    task = task.on_made_up_records().resolve(split)
    fresh = task.examples(split, TOKENIZER, 16)
    seen = count_encodings(monkeypatch, type(task))
    for number in (1, 1):
        assert_same(task.examples(split, TOKENIZER, 16, str(tmp_path)), fresh)
        assert len(seen) == number
    (entry,) = tmp_path.iterdir()
    assert isinstance(task.examples(split, TOKENIZER, 16, str(tmp_path)).tokens, np.memmap)
    rows = [
        some.batch(np.zeros(3), np.array([4, -1, 0]), 16)
        for some in (fresh, task.examples(split, TOKENIZER, 16, str(tmp_path)))
    ]
    for name, values in rows[0].items():
        np.testing.assert_array_equal(rows[1][name], values, name)


SPLIT = made_up.make_up("classify", "heldout")
TASK = Classify().resolve(SPLIT)


def test_whatever_changes_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = count_encodings(monkeypatch, Classify)
    other = SPLIT.select(range(99))
    lower = made_up.tokenizer()
    lower.digest = "another"
    first = TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))
    changed = [
        (TASK, SPLIT, TOKENIZER, 12),
        (TASK, other, TOKENIZER, 16),
        (TASK, SPLIT, lower, 16),
        (dataclasses.replace(TASK, labels=TASK.labels[::-1]), SPLIT, TOKENIZER, 16),
        (dataclasses.replace(TASK, stride=2), SPLIT, TOKENIZER, 16),
    ]
    for number, (task, split, tokenizer, length) in enumerate(changed, 2):
        found = task.examples(split, tokenizer, length, str(tmp_path))
        assert len(seen) == number
        assert_same(found, task.examples(split, tokenizer, length))
        seen.pop()
    monkeypatch.setattr(cached, "code_of", lambda task: "other code")
    TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))
    assert len(seen) == 7 and len(list(tmp_path.iterdir())) == 7
    monkeypatch.undo()
    same = dataclasses.replace(
        TASK, weight=3.0, share=2.0, called="other", metric="f1"
    )  # which change no example
    monkeypatch.setattr(cached, "LEAST", 1)
    assert_same(same.examples(SPLIT, TOKENIZER, 16, str(tmp_path)), first)
    assert len(list(tmp_path.iterdir())) == 7


def flip(entry: Path) -> None:
    path = max(entry.glob("*.bin"), key=lambda file: file.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(entry: Path) -> None:
    path = entry / "0.bin"
    path.write_bytes(path.read_bytes()[:-4])


def forget(entry: Path) -> None:
    (entry / "manifest.json").unlink()


def tear(entry: Path) -> None:
    (entry / "manifest.json").write_text('{"key": ')


def mistake(entry: Path) -> None:
    path = entry / "manifest.json"
    path.write_text(path.read_text().replace('"length": 16', '"length": 17'))


@pytest.mark.parametrize("damage", [flip, cut, forget, tear, mistake], ids=lambda one: one.__name__)
def test_what_is_not_as_it_was_written_is_made_anew(
    damage: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))
    (entry,) = tmp_path.iterdir()
    damage(entry)
    seen = count_encodings(monkeypatch, Classify)
    assert_same(TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path)), TASK.examples(SPLIT, TOKENIZER, 16))
    assert len(seen) == 2
    TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))
    assert len(seen) == 2 and list(tmp_path.iterdir()) == [entry]


def test_several_at_once_leave_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = TASK.examples(SPLIT, TOKENIZER, 16)
    meet, encode = threading.Barrier(3), Classify.encode

    def together(self: Any, split: Split, *rest: Any) -> Iterator[Any]:
        meet.wait(20)  # all have begun before the first ends
        yield from encode(self, split, *rest)

    monkeypatch.setattr(Classify, "encode", together)
    found: list[LabelledExamples] = []
    crew = [
        threading.Thread(target=lambda: found.append(TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))))
        for _ in range(3)
    ]
    for one in crew:
        one.start()
    for one in crew:
        one.join(30)
    assert len(found) == 3 and len(list(tmp_path.iterdir())) == 1
    for one in found:
        assert_same(one, wanted)


def test_what_fails_half_way_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = Classify.encode

    def failing(self: Any, *rest: Any) -> Iterator[Any]:
        for number, one in enumerate(encode(self, *rest)):
            if number == 50:
                raise KeyboardInterrupt
            yield one

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Classify, "encode", failing)
        TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))
    assert not list(tmp_path.iterdir())
    old, young = tmp_path / "a.1.x.partial", tmp_path / "b.1.x.partial"  # of processes that were killed
    old.mkdir()
    young.mkdir()
    os.utime(old, (time.time() - 2 * cached.ABANDONED,) * 2)
    TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path))
    assert not old.exists() and young.exists()


def test_a_folder_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(
        ValueError, match="data.cache=.*/file cannot be used .*make room, name another, or none"
    ):
        TASK.examples(SPLIT, TOKENIZER, 16, str(tmp_path / "file"))


def test_what_examples_keep_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = TASKS["tag"]
    assert isinstance(task, LabelledTask)
    split = task.read("heldout")
    monkeypatch.setattr(type(task), "kept", None)
    with pytest.raises(AssertionError, match="name it in Task.kept"):
        task.resolve(split).examples(split, TOKENIZER, 16, str(tmp_path))
