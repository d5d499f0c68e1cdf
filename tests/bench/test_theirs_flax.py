"""Beside the Flax models of transformers: the same work, in an environment that has them, and a refusal elsewhere."""

import dataclasses
import importlib.metadata
import importlib.util
import json
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.__main__ import main
from bertjax.bench import goals, race
from bertjax.bench.ours import Ours
from bertjax.bench.race import check_peers
from bertjax.bench.row import Row
from bertjax.bench.theirs_flax import TheirsFlax, decayed, named_as_in_pytorch
from bertjax.data.workers import available_cores
from tests.helpers import small

FLAX = Row("train", small(max_length=24), peers=("transformers-flax",))
SIZES = ("layers=1", "width=24", "heads=3", "vocab=53", "max_length=24")
SHAPE = ("--batch=4", "--length=16", "--rounds=2", "--seconds=0.001")


def has_flax_models() -> bool:
    try:
        return importlib.metadata.version("transformers") < "5"
    except importlib.metadata.PackageNotFoundError:
        return False


def tree() -> dict[str, object]:
    dense = {"kernel": jnp.arange(6.0).reshape(2, 3), "bias": jnp.ones(3)}
    norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    words = {"embedding": jnp.ones((5, 2))}
    return {
        "bert": {"words": words, "layer": {"0": {"dense": dense}}},
        "cls": {"norm": norm, "bias": jnp.ones(5)},
    }


def test_gradients_are_named_and_laid_out_as_in_pytorch() -> None:
    found = named_as_in_pytorch(tree())
    assert {name: array.shape for name, array in found.items()} == {
        "bert.words.weight": (5, 2),
        "bert.layer.0.dense.weight": (3, 2),
        "bert.layer.0.dense.bias": (3,),
        "cls.norm.weight": (2,),
        "cls.norm.bias": (2,),
        "cls.bias": (5,),
    }
    np.testing.assert_array_equal(found["bert.layer.0.dense.weight"], [[0, 3], [1, 4], [2, 5]])
    assert all(array.flags["C_CONTIGUOUS"] for array in found.values())  # as the file has to hold them


def test_kernels_and_embeddings_decay_and_nothing_else() -> None:
    assert decayed(tree()) == {
        "bert": {"words": {"embedding": True}, "layer": {"0": {"dense": {"kernel": True, "bias": False}}}},
        "cls": {"norm": {"scale": False, "bias": False}, "bias": False},
    }


@pytest.mark.parametrize(
    ("version", "absent", "message"),
    [
        ("5.23.0", "", "transformers 5.23.0 has no Flax models: pip install 'transformers<5' into"),
        ("4.57.6", "torch", "PyTorch, which computes the reference, is not installed: pip install 'transf"),
        ("5.0", "torch", "no Flax models and PyTorch, which computes the reference, is not installed: pip"),
        ("", "transformers", "transformers is not installed: pip install 'transformers<5' into an"),
        ("4.57.6", "", None),
    ],
)
def test_an_environment_without_flax_models_is_refused_in_one_line(
    version: str, absent: str, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = object()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == absent else there)
    check_peers([dataclasses.replace(FLAX, peers=("without-dropout",))])
    if message is None:
        return check_peers([FLAX])
    with pytest.raises(ValueError) as caught:
        check_peers([FLAX])
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_only_the_row_that_needs_them_is_refused(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: dict[str, list[Row]] = {}
    monkeypatch.setattr(goals, "measure_rows", lambda rows, *, name, **_: measured.update({name: rows}))
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "5.23.0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert main(["bench", "goals", "--suite=cpu"]) == 0
    assert list(measured) == ["goals-cpu"] and len(measured["goals-cpu"]) == len(goals.SUITES["cpu"])
    beside = ["--only=mini", "--peer=transformers-flax"]
    for arguments in (["--suite=cpu-flax"], ["--suite=cpu", *beside]):
        assert main(["bench", "goals", *arguments]) == 2
        error = capsys.readouterr().err
        assert "transformers 5.23.0 has no Flax models" in error and len(error.splitlines()) == 1
    monkeypatch.setattr(race, "check_flax_peer", lambda: None)
    assert main(["bench", "goals", "--suite=cpu-flax"]) == 0 and main(["bench", "goals", *beside]) == 0
    (row,) = measured["goals-cpu-flax"]
    assert (row.model.layers, row.model.dtype, row.goal) == (12, "float32", 1.4)
    assert [row.peers for row in measured["goals-cpu"]] == [("transformers-flax",)]


def test_threads_are_those_of_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(race, "check_flax_peer", lambda: None)
    with pytest.raises(ValueError, match="threads=3 cannot be given to transformers-flax"):
        check_peers([FLAX, dataclasses.replace(FLAX, threads=3)])


def needs_flax_models(test: Callable[..., None]) -> Callable[..., None]:
    reason = "transformers has Flax models only before version 5"
    return pytest.mark.parity(pytest.mark.skipif(not has_flax_models(), reason=reason)(test))


@needs_flax_models
@pytest.mark.parametrize(
    ("job", "rows", "dtype", "peers"),
    [
        ("train", "real", "float32", "transformers-flax"),
        ("train", "natural", "float32", "transformers,transformers-flax"),
        ("infer", "natural", "float32", "transformers-flax"),
        ("infer", "real", "bfloat16", "transformers-flax"),
    ],
)
def test_beside_flax_both_compute_the_same(
    job: str, rows: str, dtype: str, peers: str, tmp_path: pathlib.Path
) -> None:
    model = [f"--model.{size}" for size in (*SIZES, f"dtype={dtype}")]
    options = [f"--rows={rows}", f"--peer={peers}", f"--out={tmp_path}"]
    assert main(["bench", job, *model, *SHAPE, *options]) == 0
    (found,) = json.loads((tmp_path / f"{job}.json").read_text())["rows"]
    assert found["void"] is None and [*found["peers"]] == peers.split(",")
    theirs = found["peers"]["transformers-flax"]
    least, most = (0, 1e-4) if dtype == "float32" else (1e-4, 3e-2)
    assert all(least < max(side["errors"].values()) < most for side in (found["ours"], theirs))
    assert found["ratios"]["transformers-flax"]["median"] > 0 and theirs["facts"]["transformers"] < "5"
    assert theirs["memory"] > 2**20 and len(theirs["matmul"]["rounds"]) == 2


@needs_flax_models
@pytest.mark.filterwarnings("ignore")  # old versions of a foreign library warn of what becomes of them
def test_its_step_drops_and_takes_its_state_over(tmp_path: pathlib.Path) -> None:
    row = dataclasses.replace(FLAX, model=small(max_length=24, dropout=0.1), batch=4, length=16)
    Ours(row, str(tmp_path))(("write",))
    promotion = jax.config.jax_numpy_rank_promotion
    try:
        theirs = TheirsFlax(row, str(tmp_path), "transformers-flax", "cpu", available_cores())
        params = theirs.model.params
        keys = (None, None, jax.random.PRNGKey(1), jax.random.PRNGKey(2))
        losses = [float(theirs.loss(params, theirs.batch, theirs.labels, key)) for key in keys]
        assert losses[0] == losses[1] and len(set(losses)) == 3, losses
        before = jax.tree.map(np.array, params)
        run = theirs.make_step()
        once, _ = run()
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(params)), "memory was not taken over"
        moved = jax.tree.map(lambda x, y: bool((x != y).any()), before, jax.device_get(once.params))
        assert moved["bert"]["embeddings"]["word_embeddings"]["embedding"] and int(once.step) == 1
        again, _ = run()
        assert int(again.step) == 2
    finally:
        jax.config.update("jax_numpy_rank_promotion", promotion)
