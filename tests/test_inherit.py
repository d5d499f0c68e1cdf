"""Starting from another run: what is taken over, what is new, and what is refused."""

import dataclasses
import pathlib
import shutil
import types
from typing import Any

import jax
import numpy as np
import pytest
from cases import slow_but
from runs import records, tiny

from bertjax import inherit, train
from bertjax.checkpoint import Checkpoints
from bertjax.data.open import open_vocabulary
from bertjax.inherit import NEW, Source, flat, new_rows, open_source, token_rows
from bertjax.layers.config import Learned
from bertjax.models.stacking import unstack_layers
from bertjax.program import begin, build
from bertjax.sharding import Declared

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of four steps: masked words and next sentences, 53 tokens, unrolled."""
    workdir = tmp_path_factory.mktemp("first")
    assert train.train(tiny("train.steps=4"), str(workdir))
    return workdir


def started(*settings: str) -> tuple[dict[str, np.ndarray], str]:
    """The parameters before the first step of a run, unrolled and by path, and what its banner says."""
    config = tiny(*settings)
    program = build(config, open_vocabulary("synthetic", config.model.vocab))
    with program.active():
        state, said = begin(program)
    assert int(state.step) == 0
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(state.opt_state))
    for leaf, like in zip(jax.tree.leaves(state.params), jax.tree.leaves(program.state.params), strict=True):
        assert leaf.sharding == like.sharding and leaf.dtype == like.dtype
    return flat(unstack_layers(jax.device_get(state.params))), said


def stored(workdir: pathlib.Path) -> dict[str, np.ndarray]:
    """What a run has left."""
    return flat(unstack_layers(jax.device_get(Checkpoints(workdir).load_params(4))))


@pytest.mark.parametrize("scan", slow_but(["true", "false"], ["true"]))
def test_everything_that_both_have_is_taken_over(first: pathlib.Path, scan: str) -> None:
    found, said = started(f"model.init={first}", f"model.scan={scan}")
    wanted = stored(first)
    assert found.keys() == wanted.keys()
    for path, value in wanted.items():
        size = 53 if path in ("encoder/embedder/tokens", "heads_mlm/bias") else None  # the rest are no tokens
        np.testing.assert_array_equal(found[path][:size], value[:size], path)
    assert f"{first} at step 4" in said
    assert "53 of 53 tokens, 0 new ones" in said and "fresh" not in said
    fresh, said = started()
    assert (
        said == "from scratch"
        and (fresh["encoder/embedder/tokens"] != wanted["encoder/embedder/tokens"]).any()
    )


def test_a_larger_vocabulary_starts_near_the_mean(first: pathlib.Path) -> None:
    found, said = started(f"model.init={first}", "model.vocab=75")
    old, new = stored(first)["encoder/embedder/tokens"][:53], found["encoder/embedder/tokens"]
    assert new.shape == (80, 24) and "53 of 53 tokens, 22 new ones" in said
    np.testing.assert_array_equal(new[:53], old)
    away = (new[53:75] - old.mean(0)) / old.std(0)
    assert 0.07 < away.std() < 0.13 and len(np.unique(new[53:75], axis=0)) == 22
    bias = stored(first)["heads_mlm/bias"][:53]
    np.testing.assert_array_equal(found["heads_mlm/bias"][:53], bias)
    np.testing.assert_allclose(found["heads_mlm/bias"][53:75], bias.mean(), rtol=1e-5)


def test_longer_rows_repeat_the_positions(first: pathlib.Path) -> None:
    found, _ = started(f"model.init={first}", "model.max_length=40")
    old, new = stored(first)["encoder/position/embedding"], found["encoder/position/embedding"]
    assert old.shape == (16, 24) and new.shape == (40, 24)
    np.testing.assert_array_equal(new, np.concatenate([old, old, old[:8]]))


def test_positions_that_begin_later_are_not_repeated(first: pathlib.Path) -> None:
    source = open_source(str(first), scan=False)
    assert source.model is not None
    source = dataclasses.replace(
        source, model=dataclasses.replace(source.model, position=Learned(2), max_length=14)
    )

    def positions(*settings: str) -> np.ndarray:
        config = tiny(*settings)
        program = build(config, open_vocabulary("synthetic", config.model.vocab))
        declared = jax.tree.map(lambda x: Declared(x, ("table",) * len(x.shape)), program.state.params)
        vocabulary = program.vocabulary
        return inherit.inherit(source, config, vocabulary, declared, program.state.params)[0][
            "encoder/position/embedding"
        ]

    old = source.parameters["encoder/position/embedding"]
    new = positions("model.position.offset=2", "model.max_length=20")
    np.testing.assert_array_equal(new, np.concatenate([old, old[2:8]]))
    with pytest.raises(ValueError, match="begin at row 2 in .* and at 0 here: set model.position.offset=2"):
        positions()


def test_other_tasks_keep_the_encoder_and_start_their_heads(first: pathlib.Path) -> None:
    found, said = started(f"model.init={first}", "tasks=mlm,sop", "data.format.negatives=swapped")
    assert "fresh heads: sop" in said
    old = stored(first)
    assert "heads_nsp/output/kernel" in old and "heads_nsp/output/kernel" not in found
    for path in found:
        if not path.startswith("heads_sop"):
            size = 53 if len(found[path]) == 56 else None
            np.testing.assert_array_equal(found[path][:size], old[path][:size], path)


def test_a_run_that_learns_nothing_more_is_as_good_as_its_source(
    first: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(first, source)
    config = tiny(f"model.init={source}", "train.steps=1", "optim.learning_rate=0")
    assert train.train(config, str(tmp_path / "second"))
    last = [line for line in records(first) if "heldout_loss" in line][-1]
    now = [line for line in records(tmp_path / "second") if "heldout_loss" in line][-1]
    assert now["heldout_mlm_loss"] == pytest.approx(last["heldout_mlm_loss"], rel=1e-5)
    assert now["heldout_nsp_loss"] == pytest.approx(last["heldout_nsp_loss"], rel=1e-5)
    # Once it has begun, it goes on without its source.
    shutil.rmtree(source)
    assert not train.train(config, str(tmp_path / "second"))


@pytest.mark.parametrize(
    "settings, message",
    [
        (["model.width=48"], "model.width: 24 there, 48 here"),
        (["model.layers=3"], "is missing in"),
        (["model.layers=3", "model.scan=true"], "of that run (model.layers: 2 there, 3 here)"),
        (["model.position=rope"], "model.position"),
    ],
)
def test_another_encoder_is_refused(first: pathlib.Path, settings: list[str], message: str) -> None:
    with pytest.raises(ValueError, match="model.init: encoder/") as error:
        started(f"model.init={first}", *settings)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_folder_without_a_checkpoint_is_refused(first: pathlib.Path, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="holds no run"):
        open_source(str(tmp_path), scan=False)
    shutil.copy(first / "config.json", tmp_path)
    with pytest.raises(ValueError, match="holds no whole checkpoint"):
        open_source(str(tmp_path), scan=False)


class Names:
    """A tokenizer that is but the names of its tokens."""

    def __init__(self, names: str, **roles: int) -> None:
        self.names = names.split()
        self.vocabulary: Any = types.SimpleNamespace(size=len(self.names), **roles)

    def tokens(self, numbers: range) -> list[str]:
        return [self.names[number] for number in numbers]


ROLES = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
SPECIAL = "[PAD] [UNK] [CLS] [SEP] [MASK]"


def test_tokens_are_matched_by_name_and_special_ones_by_role() -> None:
    old = Names(f"{SPECIAL} the cell ##s of", **ROLES)
    new = Names("<s> <pad> </s> <unk> of ##s gene the <mask>", cls=0, pad=1, sep=2, unk=3, mask=8)
    rows = token_rows(Source({}, 9, "there", old), new, new.vocabulary)
    assert rows.tolist() == [2, 0, 3, 1, 8, 7, NEW, 5, 4]
    table = np.arange(9.0)[:, None] * np.ones((1, 2))
    found = new_rows(table, rows, 12, np.random.default_rng(0))
    np.testing.assert_array_equal(found[:9][rows != NEW][:, 0], rows[rows != NEW])
    assert np.abs(found[6] - 4).max() < 1.5 and found.shape == (12, 2)


def test_a_tokenizer_on_one_side_only_is_refused() -> None:
    one = Names(SPECIAL, **ROLES)
    for source, here in ((None, one), (one, None)):
        with pytest.raises(ValueError, match="cannot be matched") as error:
            token_rows(Source({}, 5, "there", source), here, one.vocabulary)
        assert "\n" not in str(error.value)


def test_the_tokenizer_of_the_workdir_is_the_one_that_counts(
    first: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows follow their tokens when another corpus numbers them otherwise."""
    old = Names(" ".join([SPECIAL, *(f"t{i}" for i in range(48))]), **ROLES)
    new = Names(" ".join([SPECIAL, *(f"t{i}" for i in reversed(range(48)))]), **ROLES)
    folders = {str(first): old, "synthetic": new}
    monkeypatch.setattr(inherit, "open_tokenizer", lambda folder: folders[folder])
    found, _ = started(f"model.init={first}")
    wanted = stored(first)["encoder/embedder/tokens"]
    np.testing.assert_array_equal(found["encoder/embedder/tokens"][5:53], wanted[5:53][::-1])
    np.testing.assert_array_equal(found["heads_mlm/bias"][5:53], stored(first)["heads_mlm/bias"][5:53][::-1])
