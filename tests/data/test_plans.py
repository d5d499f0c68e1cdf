"""A plan that was kept is the plan that would be made, whatever happens to the folder."""

import os
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
from texts import Text, random_text

from bertjax.data import cutting, plans
from bertjax.data.examples import Documents
from bertjax.data.formats import FORMATS
from bertjax.data.pairs import SegmentPair
from bertjax.data.plans import Plan, keep


@pytest.fixture
def corpus(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Text:
    """A corpus with a folder for plans, in which every plan is worth keeping."""
    monkeypatch.setattr(plans, "_WORTHWHILE", 0)
    made = random_text(40, seed=8)
    made.plans = str(tmp_path / "plans")
    return made


@pytest.fixture
def planned(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Gets one entry for every time that the corpus is gone through."""
    times: list[int] = []
    original = cutting.blocks

    def blocks(corpus: Documents, limit: int) -> object:
        times.append(limit)
        return original(corpus, limit)

    monkeypatch.setattr(cutting, "blocks", blocks)
    return times


def folders(corpus: Text) -> list[str]:
    assert corpus.plans is not None
    return os.listdir(corpus.plans)


@pytest.mark.parametrize("name", [name for name in FORMATS if name != "padded"])
def test_a_kept_plan_gives_the_same_rows(name: str, corpus: Text, planned: list[int]) -> None:
    rows = []
    for _ in range(3):
        examples = FORMATS[name].examples(corpus, 31, seed=2)
        rows.append(examples.rows([1] * len(examples), range(len(examples))))
    assert len(planned) == 1 and len(folders(corpus)) == 1
    corpus.plans = None
    examples = FORMATS[name].examples(corpus, 31, seed=2)
    rows.append(examples.rows([1] * len(examples), range(len(examples))))
    assert len(planned) == 2
    for other in rows[1:]:
        assert all(np.array_equal(other[key], rows[0][key]) for key in rows[0])


def test_whatever_changes_a_plan_makes_another(corpus: Text, planned: list[int]) -> None:
    other = random_text(40, seed=9)
    other.plans, other.digest = corpus.plans, "another"
    for text, prototype, length in (
        (corpus, SegmentPair(), 30),
        (corpus, SegmentPair(), 31),
        (corpus, SegmentPair(short_probability=0.2), 30),
        (corpus, FORMATS["sentence_pair"], 30),
        (corpus, FORMATS["doc_sentences"], 30),
        (corpus, FORMATS["full_sentences"], 30),
        (corpus, FORMATS["best_fit"], 30),
        (other, SegmentPair(), 30),
    ):
        before = len(planned)
        prototype.examples(text, length, seed=0)
        assert len(planned) == before + 1
    assert len(folders(corpus)) == len(planned)
    SegmentPair(negatives="none").examples(corpus, 30, seed=1)  # neither of these has a part in it
    assert len(folders(corpus)) == len(planned)


def test_a_version_of_the_planning_is_part_of_it(
    corpus: Text, planned: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    FORMATS["doc_sentences"].examples(corpus, 30, seed=0)
    monkeypatch.setattr(plans, "_VERSION", plans._VERSION + 1)
    FORMATS["doc_sentences"].examples(corpus, 30, seed=0)
    assert len(planned) == 2


def test_small_corpora_are_planned_in_memory(corpus: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plans, "_WORTHWHILE", 10**6)
    FORMATS["doc_sentences"].examples(corpus, 30, seed=0)
    assert corpus.plans is not None and not os.path.exists(corpus.plans)


def make_that(act: Callable[[], None]) -> Callable[[], Plan]:
    def make() -> Plan:
        act()
        return {"starts": np.arange(5)}

    return make


def test_where_nothing_can_be_written_every_process_plans_for_itself(
    corpus: Text, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "plans").write_text("a file where the folder should be")
    times: list[int] = []
    for _ in range(2):
        assert keep(corpus, {}, make_that(lambda: times.append(1)))["starts"].tolist() == [0, 1, 2, 3, 4]
    assert len(times) == 2


def test_a_full_disk_leaves_nothing_behind(corpus: Text, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    assert keep(corpus, {}, make_that(lambda: None))["starts"].tolist() == [0, 1, 2, 3, 4]
    assert folders(corpus) == []


def test_of_two_processes_one_wins_and_nothing_is_left_of_the_other(corpus: Text) -> None:
    # The other process finishes while this one plans.
    def other() -> None:
        keep(corpus, {}, make_that(lambda: None))

    assert keep(corpus, {}, make_that(other))["starts"].tolist() == [0, 1, 2, 3, 4]
    assert len(folders(corpus)) == 1
    assert keep(corpus, {}, make_that(lambda: pytest.fail("it was kept")))["starts"].size == 5


def test_a_damaged_plan_is_named(corpus: Text) -> None:
    keep(corpus, {}, make_that(lambda: None))
    assert corpus.plans is not None
    path = os.path.join(corpus.plans, folders(corpus)[0], "starts.npy")
    os.truncate(path, os.path.getsize(path) - 8)
    with pytest.raises(
        ValueError, match=r"starts.npy is damaged .* remove .*plans/[0-9a-f]+, it is made again"
    ):
        keep(corpus, {}, make_that(lambda: None))
