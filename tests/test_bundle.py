"""What `bertjax.load` makes of a folder: the same model on another mesh, in another dtype, at another depth."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import bertjax
from bertjax import evaluate, inherit
from bertjax.bundle import Bundle, assemble, at_depth
from bertjax.data.files import new_folder
from bertjax.data.open import open_vocabulary
from bertjax.models.stacking import unstack_layers
from bertjax.predict import fill_mask
from bertjax.sharding import MeshConfig
from bertjax.train import train
from tests.convert.broken import refused
from tests.convert.models import VOCABULARY, random_model, write_published
from tests.runs import assert_equal, tiny

pytestmark = pytest.mark.usefixtures("quick_compiles")
TEXTS = ["a b cd", ("ef g", "h")]


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_published(tmp_path_factory.mktemp("bundle") / "theirs", vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def whole(published: str) -> Bundle:
    return bertjax.load(published)


@pytest.fixture(scope="module")
def rows(whole: Bundle) -> Any:
    return whole.tokenize(TEXTS)


def test_texts_become_rows(whole: Bundle) -> None:
    found = whole.tokenize(TEXTS)
    name = whole.tokenizer.tokens
    assert name(found.tokens[0]) == ["[CLS]", "a", "b", "c", "##d", "[SEP]", "[PAD]", "[PAD]"]
    assert name(found.tokens[1]) == ["[CLS]", "e", "##f", "g", "[SEP]", "h", "[SEP]", "[PAD]"]
    assert found.mask.sum(1).tolist() == [6, 7] and found.types[1].tolist() == [0, 0, 0, 0, 0, 1, 1, 0]
    assert whole.tokenize(["a " * 99]).tokens.shape == (1, 18), "no longer than the model reads"
    assert whole.tokenize(["a " * 99], length=5).tokens.shape == (1, 5)


def test_encode(whole: Bundle, rows: Any) -> None:
    output = whole.encode(*rows)
    assert output.hidden.shape == (2, 8, 24) and output.pooled.shape == (2, 24)
    # Without a mask the padding is found; without types all are of the first kind.
    plain = whole.encode(rows.tokens[:1])
    np.testing.assert_allclose(plain.hidden[0, :6], output.hidden[0, :6], rtol=1e-5, atol=1e-5)
    other = whole.encode(rows.tokens, rows.mask)
    assert np.abs(np.asarray(other.hidden - output.hidden)[1, :7]).max() > 0.01
    heads = whole.outputs(*rows, states=True)
    assert heads["mlm"].shape == (2, 8, 128) and heads["nsp"].shape == (2, 2)
    np.testing.assert_allclose(heads["encoder"].states[-1], output.hidden, rtol=1e-5, atol=1e-5)
    assert heads["encoder"].states.shape == (4, 2, 8, 24)


def test_rows_that_cannot_be_read(whole: Bundle, rows: Any) -> None:
    with refused("token 53 is not in the vocabulary of 53"):
        whole.encode(np.full((1, 4), 53))
    with refused("token -1"):
        whole.encode(np.full((1, 4), -1))
    with refused("not rows of one length"):
        whole.encode(rows.tokens[0])
    with refused("mask of shape [1, 8]"):
        whole.encode(rows.tokens, rows.mask[:1])
    with refused("types up to 3 and the model tells 3 apart"):
        whole.encode(rows.tokens, rows.mask, rows.types + 2)
    with refused("a list of texts"):
        whole.tokenize("a b")
    with refused("longer than the table"):
        whole.encode(np.zeros((1, 19), int))


def test_saved_and_loaded(whole: Bundle, rows: Any, tmp_path: pathlib.Path) -> None:
    """The same parameters, and a folder that model.init, evaluate and predict take for a run."""
    path = str(tmp_path / "ours")
    whole.save(path)
    back = bertjax.load(path)
    assert_equal(jax.device_get(back.params), jax.device_get(whole.params))
    assert back.config == whole.config and back.step == 0 and dict(back.about) == dict(whole.about)
    assert back.tokenizer.digest == whole.tokenizer.digest
    with refused("exists: name a folder that does not"):
        whole.save(path)
    taken = inherit.open_source(path, scan=False)
    assert taken.tokens == 53 and "at step 0" in taken.about
    np.testing.assert_array_equal(
        taken.parameters["encoder/embedder/tokens"], back.params["encoder"]["embedder"]["tokens"]
    )
    values = evaluate.run(
        path, MeshConfig(), ["train.eval_batches=1", "train.batch_size=16", "data.corpus=synthetic"]
    )
    assert values["mlm_loss"] > 1.0
    (answer,) = fill_mask(back, ["a [MASK] b"])
    assert len(answer["masks"]) == 1 and len(answer["masks"][0]["candidates"]) == 5
    with pytest.raises(ValueError, match="holds another run"):
        train(tiny(), path)


@pytest.mark.parametrize(
    "mesh",
    [
        MeshConfig(data=2),
        MeshConfig(data=2, fsdp=4, rules="fsdp"),
        MeshConfig(fsdp=2, tensor=1, rules="fsdp_tensor"),
    ],
)
def test_another_mesh(published: str, whole: Bundle, rows: Any, mesh: MeshConfig) -> None:
    found = bertjax.load(published, mesh=mesh)
    up = found.params["encoder"]["stack"]["group_0"]["layers_0"]["block_0"]["mlp"]["up"]["kernel"]
    assert up.sharding.shard_shape(up.shape) == (24 // mesh.fsdp, 40)
    assert_equal(jax.device_get(found.params), jax.device_get(whole.params))
    hidden = found.encode(*rows).hidden
    assert hidden.shape == (2, 8, 24)
    np.testing.assert_allclose(hidden, whole.encode(*rows).hidden, rtol=1e-4, atol=1e-4)


def test_another_dtype(published: str, whole: Bundle, rows: Any) -> None:
    found = bertjax.load(published, dtype="bfloat16")
    assert_equal(jax.device_get(found.params), jax.device_get(whole.params))
    hidden, wanted = found.encode(*rows).hidden, np.asarray(whole.encode(*rows).hidden)
    assert hidden.dtype == "bfloat16"
    near = np.abs(np.asarray(hidden, np.float32) - wanted)[rows.mask]
    assert 1e-4 < near.mean() < 0.1


def test_the_first_layers(published: str, whole: Bundle, rows: Any) -> None:
    found = bertjax.load(published, layers=2)
    assert found.config.model.layers == 2
    states = whole.outputs(*rows, states=True)["encoder"].states
    np.testing.assert_allclose(found.encode(*rows).hidden, states[2], rtol=1e-5, atol=1e-5)


def test_layers_again_and_again(published: str, whole: Bundle) -> None:
    found = bertjax.load(published, layers=7)
    stacks = [
        unstack_layers(jax.device_get(one.params))["encoder"]["stack"]["group_0"] for one in (found, whole)
    ]
    assert len(stacks[0]) == 7
    for index in range(7):
        assert_equal(stacks[0][f"layers_{index}"], stacks[1][f"layers_{index % 3}"])
    assert_equal(found.params["encoder"]["embedder"], whole.params["encoder"]["embedder"])


def test_a_stack_that_cannot_be_repeated() -> None:
    """A first layer without a norm of its own stands once."""
    model = random_model(tiny("model.block=pre", "model.first_norm=false"))
    with refused("layers=4 cannot be made of 2", "attention_norm"):
        at_depth(model, 4)
    assert at_depth(model, 1).config.model.layers == 1


def test_a_run_scanned_and_not(tmp_path: pathlib.Path) -> None:
    """A workdir of stacked layers, with a task that makes the inputs of another."""
    vocabulary = open_vocabulary("synthetic", 53)
    model = random_model(tiny("model.scan=true", "tasks=generator,rtd"), vocabulary=vocabulary)
    first = assemble(model, None, None, None, None, step=0)
    first.save(str(tmp_path / "run"))
    found = bertjax.load(str(tmp_path / "run"))
    assert_equal(jax.device_get(found.params), jax.device_get(first.params))
    assert set(found.params["encoder"]["stack"]["group_0"]) == {"layers"}
    opened = found.opened()
    assert opened.shapes == model.shapes
    for path in model.shapes:
        np.testing.assert_array_equal(opened.read(path), model.read(path), path)
    with refused("this model has no tokenizer"):
        found.tokenize(["a"])


def test_heads_that_are_told_what_was_hidden(tmp_path: pathlib.Path) -> None:
    vocabulary = open_vocabulary("synthetic", 53)
    model = random_model(tiny("tasks=mlm,sbo,contrastive"), vocabulary=vocabulary)
    found = assemble(model, None, None, None, None, step=0).outputs(np.ones((3, 7), int))
    assert set(found) == {"encoder", "mlm", "contrastive"} and found["contrastive"].shape == (3, 24)


def test_nothing_is_left_of_a_folder_that_fails(tmp_path: pathlib.Path) -> None:
    with pytest.raises(RuntimeError), new_folder(str(tmp_path / "out")) as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with refused("out cannot be written"), new_folder(str(tmp_path / "out")):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
