"""fill-mask: the same tokens and probabilities as the model's own outputs, whatever batches the engine makes."""

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.predict import RunOptions, fill_mask
from bertjax.sharding import MeshConfig
from tests.convert.models import VOCABULARY, write_published

pytestmark = pytest.mark.usefixtures("quick_compiles")
OPTIONS = RunOptions(batch=3, shapes=2, window=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_published(tmp_path_factory.mktemp("filling") / "model", vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def bundle(folder: str) -> Bundle:
    return bertjax.load(folder, mesh=MeshConfig(data=1))


def expected(bundle: Bundle, tokens: list[str]) -> np.ndarray:
    """The model's distribution at every [MASK] of a row."""
    row = np.array([[VOCABULARY.index(token) for token in tokens]])
    logits = np.asarray(bundle.outputs(row)["mlm"], np.float64)[0, :, : len(VOCABULARY)]
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True))[[i for i, token in enumerate(tokens) if token == "[MASK]"]]


def test_several_gaps(bundle: Bundle) -> None:
    text = "A [MASK] cd  [MASK]e."
    (found,) = fill_mask(bundle, [text], top=3, options=OPTIONS)
    wanted = expected(bundle, ["[CLS]", "a", "[MASK]", "c", "##d", "[MASK]", "e", "[UNK]", "[SEP]"])
    assert [text[gap["start"] : gap["end"]] for gap in found["masks"]] == ["[MASK]", "[MASK]"]
    for gap, spread in zip(found["masks"], wanted, strict=True):
        best = np.argsort(-spread)[:3]
        assert [one["token"] for one in gap["candidates"]] == [VOCABULARY[i] for i in best]
        np.testing.assert_allclose([one["probability"] for one in gap["candidates"]], spread[best], atol=1e-5)
