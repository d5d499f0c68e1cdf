"""A run on several corpora: shares as asked for, tokens counted, held-out text of all of them."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest
from runs import assert_equal, final_state, records, tiny

from bertjax import train
from bertjax.config import open_rows
from bertjax.data.loader import Loader
from bertjax.data.mixture import Mixture
from bertjax.data.open import corpus_names, open_documents

pytestmark = pytest.mark.usefixtures("quick_compiles")

THREE = ("data.corpus=synthetic,synthetic:1, synthetic:2", "data.threads=0", "data.ahead=1")


def test_names_are_split_but_not_inside_a_folder(tmp_path: pathlib.Path) -> None:
    assert corpus_names("a, b/c ,d,") == ["a", "b/c", "d"]
    (tmp_path / "x,y").mkdir()
    assert corpus_names(str(tmp_path / "x,y")) == [str(tmp_path / "x,y")]


def test_made_up_corpora_differ_and_so_do_their_splits() -> None:
    tokens = [
        open_documents(name, split, 53).read(0, 50).tolist()
        for name in ("synthetic", "synthetic:1", "synthetic:2")
        for split in ("train", "heldout")
    ]
    assert len({tuple(some) for some in tokens}) == 6
    assert (
        open_documents("synthetic:0", "train", 53).digest == open_documents("synthetic", "train", 53).digest
    )


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (("data.weights=6,3,1",), (0.6, 0.3, 0.1)),
        (("data.weights=16,4,1", "data.temperature=2"), (4 / 7, 2 / 7, 1 / 7)),
        ((), None),
    ],
)
def test_shares_are_those_of_the_settings(
    settings: tuple[str, ...], wanted: tuple[float, ...] | None
) -> None:
    mixed = open_rows(tiny(*THREE, *settings), "train")
    assert isinstance(mixed, Mixture)
    sizes = np.array([source.tokens for source in mixed.sources])
    np.testing.assert_allclose(list(mixed.shares.values()), sizes / sizes.sum() if wanted is None else wanted)


def test_heldout_rows_come_from_all_sources_at_once() -> None:
    mixed = open_rows(tiny(*THREE), "heldout")
    assert isinstance(mixed, Mixture)
    loader = Loader(mixed, 64, seed=0, shuffle=False)
    ids = np.concatenate([loader.rows(step, 0, 64)["example_id"] for step in range(loader.steps)])
    assert sorted(ids[ids >= 0]) == list(range(len(mixed)))
    first = np.bincount(np.searchsorted(mixed.bounds, ids[:128], side="right") - 1, minlength=3)
    shares = np.diff(mixed.bounds) / len(mixed)
    np.testing.assert_allclose(first / 128, shares, atol=0.12)


def test_tokens_seen_are_reported_by_source(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In two phases; what is reported is the number of rows that were used times the mean of their source."""
    settings = (*THREE, "data.weights=6,3,1", "train.steps=8", "train.phases=4:10:8", "train.eval_every=2")
    config, used = tiny(*settings), np.zeros((2, 3))
    place = Loader.place

    def placed(self: Loader, index: int, *where: Any) -> Any:
        batch = place(self, index, *where)
        if self.shuffle:
            assert isinstance(self.examples, Mixture)
            which = np.searchsorted(self.examples.bounds, np.asarray(batch.example_id), side="right") - 1
            used[int(self.examples.length == 14)] += np.bincount(which, minlength=3)
        return batch

    monkeypatch.setattr(Loader, "place", placed)
    assert train.train(config, str(tmp_path))
    assert used.sum(1).tolist() == [4 * 8, 4 * 16]
    means = np.array(
        [
            [
                source.tokens / len(source)
                for source in open_rows(tiny(*THREE, f"data.length={length}"), "train").sources
            ]  # type: ignore[attr-defined]
            for length in (10, 14)
        ]
    )
    wanted = (used * means).sum(0)
    names = [f"tokens_seen/synthetic{name}" for name in ("", ":1", ":2")]
    result = json.loads((tmp_path / "result.json").read_text())["metrics"]
    np.testing.assert_allclose([result[name] for name in names], wanted, rtol=1e-6)
    lines = [line for line in records(tmp_path) if names[0] in line]
    assert [line["step"] for line in lines] == [2, 4, 6, 8]
    np.testing.assert_allclose([lines[1][name] for name in names], used[0] * means[0], rtol=1e-6)
    assert "mixture     synthetic " in capsys.readouterr().err
    # The folders' names and places are not what a run is.
    again = tmp_path / "again"
    monkeypatch.setattr(Loader, "place", place)
    train.train(tiny(*settings, "data.corpus=synthetic:0,synthetic:1,synthetic:2"), str(again))
    assert_equal(final_state(again, *settings), final_state(tmp_path, *settings))
    assert not train.train(config, str(again))
