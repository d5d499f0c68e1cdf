"""Google's BERT, as a folder and as the published zip: the same model as the one of PyTorch, bit by bit."""

import json
import pathlib
import zipfile
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

import bertjax
from bertjax.__main__ import main
from bertjax.convert import google, parity
from tests.convert import tensorflow_writer, torch_writer
from tests.convert.broken import refused
from tests.convert.models import VOCABULARY, write_published
from tests.runs import assert_equal

LAYER = {
    "attention/self/query": "attention.self.query",
    "attention/self/key": "attention.self.key",
    "attention/self/value": "attention.self.value",
    "attention/output/dense": "attention.output.dense",
    "intermediate/dense": "intermediate.dense",
    "output/dense": "output.dense",
}


def variables(tensors: dict[str, np.ndarray], head: str) -> dict[str, np.ndarray]:
    """A checkpoint as the original scripts write it, the state of the optimizer included."""
    found: dict[str, np.ndarray] = {}

    def dense(ours: str, theirs: str) -> None:
        found[f"{ours}/kernel"], found[f"{ours}/bias"] = (
            tensors[f"{theirs}.weight"].T,
            tensors[f"{theirs}.bias"],
        )

    def norm(ours: str, theirs: str) -> None:
        found[f"{ours}/gamma"], found[f"{ours}/beta"] = tensors[f"{theirs}.weight"], tensors[f"{theirs}.bias"]

    for kind in ("word", "position", "token_type"):
        found[f"bert/embeddings/{kind}_embeddings"] = tensors[f"bert.embeddings.{kind}_embeddings.weight"]
    norm("bert/embeddings/LayerNorm", "bert.embeddings.LayerNorm")
    for i in range(3):
        for ours, theirs in LAYER.items():
            dense(f"bert/encoder/layer_{i}/{ours}", f"bert.encoder.layer.{i}.{theirs}")
        for part in ("attention/output", "output"):
            name = f"bert.encoder.layer.{i}.{part.replace('/', '.')}.LayerNorm"
            norm(f"bert/encoder/layer_{i}/{part}/LayerNorm", name)
    if "bert.pooler.dense.weight" in tensors:
        dense("bert/pooler/dense", "bert.pooler.dense")
    if head == "pretraining":
        dense("cls/predictions/transform/dense", "cls.predictions.transform.dense")
        norm("cls/predictions/transform/LayerNorm", "cls.predictions.transform.LayerNorm")
        found["cls/predictions/output_bias"] = tensors["cls.predictions.bias"]
        for ours, theirs in (("weights", "weight"), ("bias", "bias")):
            found[f"cls/seq_relationship/output_{ours}"] = tensors[f"cls.seq_relationship.{theirs}"]
    elif head == "classifier":
        found["output_weights"], found["output_bias"] = (
            tensors["classifier.weight"],
            tensors["classifier.bias"],
        )
    elif head == "squad":
        found["cls/squad/output_weights"] = tensors["qa_outputs.weight"]
        found["cls/squad/output_bias"] = tensors["qa_outputs.bias"]
    state = {f"{name}/adam_{moment}": np.ones_like(x) for name, x in found.items() for moment in "mv"}
    return {**found, **state, "global_step": np.int64(7)}


def write_google(folder: pathlib.Path, published: str, head: str = "pretraining") -> str:
    theirs = json.loads((pathlib.Path(published) / "config.json").read_text())
    plain = {"model_type", "architectures", "pad_token_id", "layer_norm_eps", "id2label", "label2id"}
    folder.mkdir()
    config = {key: value for key, value in theirs.items() if key not in plain}
    (folder / "bert_config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    tensors = load_file(pathlib.Path(published) / "model.safetensors")
    tensorflow_writer.write(folder / "bert_model.ckpt", variables(tensors, head))
    return str(folder)


def parameters(bundle: Any) -> Any:
    model = bundle.opened()
    return {path: model.read(path) for path in model.shapes}


@pytest.mark.parametrize(
    ("head", "end"),
    [
        ("pretraining", "ForPreTraining"),
        ("classifier", "ForSequenceClassification"),
        ("squad", "ForQuestionAnswering"),
        ("none", "Model"),
    ],
)
def test_folder_and_zip(head: str, end: str, tmp_path: pathlib.Path) -> None:
    published = write_published(tmp_path / "theirs", end=end, layer_norm_eps=1e-12)
    if head == "none":  # the encoder alone has no prefix there
        published = write_published(tmp_path / "again", end="ForNextSentencePrediction", layer_norm_eps=1e-12)
    folder = write_google(tmp_path / "google", published, head)
    with zipfile.ZipFile(tmp_path / "bert.zip", "w") as archive:
        for file in pathlib.Path(folder).iterdir():
            archive.write(file, f"uncased_L-3_H-24_A-3/{file.name}")
    wanted = bertjax.load(published)
    for path in (folder, str(tmp_path / "bert.zip")):
        found = bertjax.load(path)
        assert found.tokenizer.vocabulary.size == 53
        assert found.config.model == wanted.config.model
        if head == "none":
            assert set(found.model.heads) == set() and set(wanted.model.heads) == {"nsp"}
        else:
            assert set(found.model.heads) == set(wanted.model.heads)
        theirs = parameters(wanted)
        assert_equal(parameters(found), {path: theirs[path] for path in parameters(found)})
    if head == "classifier":
        assert found.config.heads[0].classes == 3


def test_names_of_an_optimizer_are_no_weights() -> None:
    for name in (
        "global_step",
        "bert/pooler/dense/kernel/adam_m",
        "bert/pooler/dense/kernel/adam_v",
        "cls/predictions/output_bias/AdamWeightDecayOptimizer_1",
        "beta1_power",
    ):
        assert google.tensor_name(name) is None
    assert google.tensor_name("bert/encoder/layer_11/output/dense/kernel") == (
        "bert.encoder.layer.11.output.dense.weight",
        True,
    )


def test_import_of_a_zip(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parity, "installed", lambda: False)
    folder = write_google(tmp_path / "google", write_published(tmp_path / "theirs"))
    with zipfile.ZipFile(tmp_path / "bert.zip", "w") as archive:
        for file in pathlib.Path(folder).iterdir():
            archive.write(file, file.name)
    assert main(["import", f"--source={tmp_path / 'bert.zip'}", f"--out={tmp_path / 'ours'}"]) == 0
    assert "BertForPreTraining" in capsys.readouterr().out
    assert bertjax.load(str(tmp_path / "ours")).about["files"] == "tensorflow"
    with zipfile.ZipFile(tmp_path / "bert.zip", "a") as archive:
        archive.writestr("../climbs.txt", "out")
    assert main(["import", f"--source={tmp_path / 'bert.zip'}", f"--out={tmp_path / 'more'}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "climbs.txt" in said and not (tmp_path / "more").exists()


def test_pytorch_files(tmp_path: pathlib.Path) -> None:
    """pytorch_model.bin in place of safetensors, and one that wants to run something."""
    published = write_published(tmp_path / "theirs")
    wanted, file = parameters(bertjax.load(published)), tmp_path / "theirs" / "model.safetensors"
    tensors = load_file(file)
    file.unlink()
    with refused("holds no weights"):
        bertjax.load(published)
    torch_writer.write(tmp_path / "theirs" / "pytorch_model.bin", tensors, stream=False)
    assert_equal(parameters(bertjax.load(published)), wanted)
    wicked = torch_writer.call("os.system", "touch wicked")
    torch_writer.write_zip(tmp_path / "theirs" / "pytorch_model.bin", wicked, {})
    with refused("pytorch_model.bin", "system"):
        bertjax.load(published)
