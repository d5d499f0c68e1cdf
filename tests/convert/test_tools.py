"""`python -m bertjax import` and `export`: what they write and print; every wrong input is one line, exit code 2."""

import functools
import json
import pathlib
import sys
import types
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import bertjax
from bertjax import tasks
from bertjax.__main__ import main
from bertjax.bundle import assemble
from bertjax.convert import parity
from bertjax.convert.families import FAMILIES
from bertjax.convert.reading import read_model
from bertjax.convert.source import open_source
from bertjax.data.open import open_vocabulary
from bertjax.models.task_heads import Embed
from tests.cases import slow_but
from tests.convert.models import CONFIGS, VOCABULARY, random_model, write_published
from tests.runs import tiny

pytestmark = pytest.mark.usefixtures("quick_compiles", "alone")
Tensors = dict[str, np.ndarray]


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the other framework, whether it is installed or not."""
    monkeypatch.setattr(parity, "installed", lambda: False)


def tool(name: str, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """What a tool prints."""
    assert main([name, *(f"--{key}={value}" for key, value in options.items())]) == 0
    return capsys.readouterr().out


def refused(name: str, capsys: pytest.CaptureFixture[str], **options: Any) -> str:
    """The one line of a tool that was asked for something wrong."""
    assert main([name, *(f"--{key}={value}" for key, value in options.items())]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ") and printed.count("\n") == 1, printed
    out = pathlib.Path(options.get("out", "nowhere"))
    assert not out.exists() and not list(out.parent.glob("*.partial")), "something was left behind"
    return printed


def test_there_and_back(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_published(tmp_path / "theirs", vocabulary=VOCABULARY)
    said = tool("import", capsys, source=source, out=tmp_path / "ours")
    assert "BertForPreTraining: 3 layers of 24, heads mlm, nsp" in said and "checksum" in said
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == [
        "checkpoints",
        "config.json",
        "source.json",
        "tokenizer",
    ]
    again = tool("export", capsys, source=tmp_path / "ours", out=tmp_path / "back")
    assert "every bit the same" in again
    # One machine, one model, one checksum.
    assert said.split("checksum")[1].split("\n")[0] == again.split("checksum")[1].split("\n")[0]
    with open_source(source) as theirs, open_source(str(tmp_path / "back")) as back:
        one, two = read_model(theirs), read_model(back)
        assert one.config == two.config and one.shapes == two.shapes
        for path in one.shapes:
            np.testing.assert_array_equal(one.read(path), two.read(path), path)
    described = json.loads((tmp_path / "back" / "tokenizer_config.json").read_text())
    assert described["model_max_length"] == 18 and described["tokenizer_class"] == "BertTokenizer"
    assert bertjax.load(str(tmp_path / "back")).tokenize(["ab c"]).tokens.tolist() == (
        bertjax.load(source).tokenize(["ab c"]).tokens.tolist()
    )
    card = (tmp_path / "back" / "README.md").read_text()
    for part in (
        "AutoModelForPreTraining",
        "bertjax.load",
        "`model.layers` | `3`",
        "wordpiece, 53 tokens",
        "## Metrics",
    ):
        assert part in card, part
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["architectures"] == ["BertForPreTraining"] and written["pad_token_id"] == 0


def test_parts_of_a_model(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_published(tmp_path / "theirs")
    for heads, name, note in (
        ("mlm", "BertForMaskedLM", "the pooler is left out"),
        ("none", "BertModel", "BertModel"),
        ("nsp", "BertForNextSentencePrediction", "BertFor"),
    ):
        said = tool("export", capsys, source=source, out=tmp_path / heads, heads=heads)
        assert name in said and note in said
        assert json.loads((tmp_path / heads / "config.json").read_text())["architectures"] == [name]
    source = write_published(tmp_path / "answers", end="ForQuestionAnswering")
    said = tool("export", capsys, source=source, out=tmp_path / "encoder", heads="none")
    assert "a pooler of zeros is written" in said
    with open_source(str(tmp_path / "encoder")) as back:
        assert not read_model(back).config.model.pooler


def workdir(path: pathlib.Path, *settings: str) -> str:
    """What a run would leave, but for its journal."""
    model = random_model(tiny(*settings), vocabulary=open_vocabulary("synthetic", 53))
    assemble(model, None, None, None, None, step=0).save(str(path))
    (path / "result.json").write_text(json.dumps({"heldout_mlm_accuracy": 0.25}))
    return str(path)


@pytest.mark.parametrize("embeddings", slow_but(["shared", "own"], ["shared"]))
def test_both_halves_of_electra(
    embeddings: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = workdir(
        tmp_path / "run",
        "tasks=generator,rtd",
        "tasks.generator.size=0.5",
        f"tasks.generator.embeddings={embeddings}",
    )
    whole = refused("export", capsys, source=source, out=tmp_path / "out")
    assert "has generator before its encoder" in whole and "--heads=rtd, generator" in whole
    for heads, name, width in (("rtd", "ElectraForPreTraining", 24), ("generator", "ElectraForMaskedLM", 12)):
        said = tool("export", capsys, source=source, out=tmp_path / heads, heads=heads)
        written = json.loads((tmp_path / heads / "config.json").read_text())
        assert name in said and written["hidden_size"] == width
        assert written["embedding_size"] == (24 if heads == "rtd" or embeddings == "shared" else 12)
    if embeddings == "own":
        return
    # What the generator of the run computes is what the exported one computes.
    run, back = bertjax.load(source), bertjax.load(str(tmp_path / "generator"))
    vocabulary, rows = run.vocabulary, np.random.default_rng(0).integers(5, 53, (2, 14))
    with run.active():
        batch = tasks.corrupt(run.config.tasks, run.batch(rows, None, None)[0], vocabulary, seed=0)
        logits = jax.jit(functools.partial(run.model.apply, train=False))({"params": run.params}, batch)
    found = back.outputs(batch.tokens)["mlm"]
    where = batch.targets["generator"]["positions"]
    wanted = np.take_along_axis(np.asarray(found), np.asarray(where)[:, :, None], axis=1)
    np.testing.assert_allclose(
        np.asarray(logits["generator"]["logits"])[:2, :, :53], wanted[:2, :, :53], rtol=1e-4, atol=1e-4
    )


def test_a_run_becomes_sentence_transformers(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = workdir(tmp_path / "run", "tasks=contrastive", "tasks.contrastive.pool=mean")
    out = tmp_path / "out"
    said = tool("export", capsys, source=source, out=out)
    assert "exporting   BertModel of the family bert" in said
    assert [part["type"].split(".")[-1] for part in json.loads((out / "modules.json").read_text())] == [
        "Transformer",
        "Pooling",
        "Normalize",
    ]
    card = (out / "README.md").read_text()
    for part in (
        "SentenceTransformer(",
        "| heldout_mlm_accuracy | 0.25 |",
        "12 updates of contrastive",
        "step 0",
    ):
        assert part in card, part
    back = bertjax.load(str(out))
    assert back.config.heads == (Embed("mean", normalise=True),)
    rows = np.random.default_rng(0).integers(5, 53, (3, 9))
    found, wanted = back.outputs(rows)["embed"], bertjax.load(source).outputs(rows)["contrastive"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    tool("import", capsys, source=out, out=tmp_path / "again")
    assert bertjax.load(str(tmp_path / "again")).config.heads == back.config.heads


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooling_mode_mean_tokens": False}, "pooling by nothing"),
        ({"pooling_mode_weightedmean_tokens": True}, "pooling_mode_weightedmean_tokens is not supported"),
    ],
)
def test_poolings_that_are_not_known(
    change: dict[str, bool], message: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = workdir(tmp_path / "run", "tasks=contrastive", "tasks.contrastive.pool=mean")
    tool("export", capsys, source=source, out=tmp_path / "theirs")
    path = tmp_path / "theirs" / "1_Pooling" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert message in refused("import", capsys, source=tmp_path / "theirs", out=tmp_path / "ours")
    modules = tmp_path / "theirs" / "modules.json"
    for text, expected in (
        ('[{"type": "models.Dense", "path": "3_Dense"}]', "the module Dense is not supported"),
        ('[{"type": "models.Transformer", "path": "../run"}]', "leads out of its folder"),
        ('[{"type": "models.Transformer", "path": ""}]', "no Transformer with a Pooling"),
        ('{"type": 1}', "lists no modules"),
        ("[", "is not JSON"),
    ):
        modules.write_text(text)
        assert expected in refused("import", capsys, source=tmp_path / "theirs", out=tmp_path / "ours")


def cut(name: str) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, tensors[name][:-1])


def drop(*parts: str) -> Callable[[Tensors], None]:
    def edit(tensors: Tensors) -> None:
        for name in [name for name in tensors if any(part in name for part in parts)]:
            del tensors[name]

    return edit


def put(name: str, make: Callable[[Tensors], np.ndarray]) -> Callable[[Tensors], None]:
    return lambda tensors: tensors.__setitem__(name, make(tensors))


WORDS = "bert.embeddings.word_embeddings.weight"
BROKEN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a tensor is missing": (
        {"edit": drop("layer.2.output.dense.bias")},
        ("1 missing (bert.encoder.layer.2.output.dense.bias)", "lacks parts of layer 2"),
    ),
    "layers are missing": (
        {"num_hidden_layers": 5},
        ("32 missing (bert.encoder.layer.3.", "and 29 more)", "layer 3, 4", "more layers than it has"),
    ),
    "too many layers": ({"num_hidden_layers": 2}, ("16 unexpected", "fewer layers than the file has")),
    "a tensor too many": (
        {"edit": put("bert.adapter.weight", lambda tensors: np.ones(3, np.float32))},
        ("1 unexpected (bert.adapter.weight)", "changed model"),
    ),
    "another width": (
        {"intermediate_size": 48},
        ("9 mis-shaped (bert.encoder.layer.0.intermediate", "is [40, 24] and not [48, 24]", "another size"),
    ),
    "a resized vocabulary": ({"vocab_size": 54}, ("mis-shaped", f"{WORDS} is [53, 24] and not [54, 24]", "resized")),
    "a cut table": ({"edit": cut(WORDS)}, (f"{WORDS} is [52, 24] and not [53, 24]", "resized")),
    "the head is missing": (
        {"end": "ForSequenceClassification", "edit": drop("classifier")},
        ("2 missing (classifier.weight, classifier.bias)", "the head was never saved"),
    ),
    "another family": (
        {"model_type": "distilbert", "architectures": None, "dim": 24},
        ("weights of the family bert, and config.json says distilbert",),
    ),
    "another family under the same prefix": (
        {"name": "xlm-roberta", "end": "ForMaskedLM", "model_type": "mpnet", "architectures": None, "pad_token_id": 1},
        ("weights of the family", "and config.json says mpnet"),
    ),
    "an unknown family": ({"model_type": "berta"}, ("'berta' is not supported", "did you mean 'bert'")),
    "a family that does not fit": (
        {"model_type": "mobilebert"},
        ("mobilebert does not fit this model", "bottlenecks"),
    ),
    "no family": ({"model_type": None}, ("names no model_type", "bert, roberta")),
    "an unknown class": ({"architectures": ["BertForPretraining"]}, ("did you mean 'BertForPreTraining'",)),
    "no class, two fit": (
        {"end": "ForTokenClassification", "architectures": None},
        ("names no architectures", "BertForTokenClassification"),
    ),
    "a decoder": ({"is_decoder": True}, ("is_decoder=True is not supported, only False",)),
    "relative positions": ({"position_embedding_type": "relative_key"}, ("only 'absolute'",)),
    "an unknown activation": ({"hidden_act": "mish"}, ("hidden_act='mish' is not one of gelu",)),
    "a size that is none": ({"hidden_size": "24"}, ("hidden_size='24' should be like 768",)),
    "a size that is no whole one": ({"hidden_size": 24.5}, ("should be a whole number",)),
    "heads that do not divide": ({"num_attention_heads": 5}, ("config.json", "does not divide")),
    "no heads at all": ({"num_attention_heads": 0}, ("config.json",)),
    "labels that do not count": (
        {"end": "ForTokenClassification", "id2label": {"1": "a", "2": "b"}},
        ("id2label does not number the classes from 0",),
    ),
    "tied and different": (
        {"edit": put("cls.predictions.decoder.weight", lambda tensors: tensors[WORDS] + 1)},
        ("stored twice and different", "tie_word_embeddings"),
    ),
    "not a number": (
        {"edit": put(WORDS, lambda tensors: tensors[WORDS] * np.float32("nan"))},
        (WORDS, "holds NaN or infinity"),
    ),
    "quantised": (
        {"edit": put(WORDS, lambda tensors: tensors[WORDS].astype(np.int8))},
        (WORDS, "holds int8, not real numbers"),
    ),
    "too small a vocabulary": ({"vocabulary": VOCABULARY[:40]}, ("40 tokens", "53 rows", "do not belong together")),
    "too large a vocabulary": ({"vocabulary": [*VOCABULARY, "more"]}, ("54 tokens", "53 rows")),
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_wrong_models(case: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    how, messages = BROKEN[case]
    source = write_published(tmp_path / "theirs", **how)
    said = refused("import", capsys, source=source, out=tmp_path / "ours")
    for message in messages:
        assert message in said, said
    assert len(said) < 700, said


def test_wrong_options(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_published(tmp_path / "theirs")
    assert "--source is missing" in refused("import", capsys, out=tmp_path / "out")
    assert "--out is missing" in refused("export", capsys, source=source)
    for name in ("import", "export"):
        (tmp_path / "full").mkdir(exist_ok=True)
        (tmp_path / "full" / "file").touch()
        assert main([name, f"--source={source}", f"--out={tmp_path / 'full'}"]) == 2
        assert "exists: name a folder that does not" in capsys.readouterr().err
    assert "no published model" in refused("import", capsys, source=tmp_path / "full", out=tmp_path / "out")
    missing = refused("import", capsys, source=tmp_path / "nowhere", out=tmp_path / "out")
    assert "does not exist: name a folder" in missing
    assert "holds no run" in refused("export", capsys, source=tmp_path / "full", out=tmp_path / "out")
    unknown = refused("export", capsys, source=source, out=tmp_path / "out", family="brt")
    assert "did you mean 'bert'" in unknown
    assert "no head 'ner'" in refused("export", capsys, source=source, out=tmp_path / "out", heads="ner")
    roberta = refused("export", capsys, source=source, out=tmp_path / "out", family="roberta", heads="mlm")
    assert "the family roberta cannot hold this model: model.head_activation" in roberta


def test_names_on_the_hub(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the cache of this machine, which is all that there is without a network."""
    cache = tmp_path / "cache"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = refused("import", capsys, source="somebody/some-bert", out=tmp_path / "out")
    assert "somebody/some-bert is no folder here and cannot be fetched" in said
    assert "does not exist: name a folder" in refused("import", capsys, source="a/b/c", out=tmp_path / "out")
    model = cache / "models--somebody--some-bert"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    write_published(model / "snapshots" / ("0" * 40), vocabulary=VOCABULARY)
    assert "BertForPreTraining" in tool("import", capsys, source="somebody/some-bert", out=tmp_path / "out")


ODD = (None, -1, 0, 1, 10**9, 10**30, 0.5, float("inf"), "x", "", True, False, [], ["x"], {}, {"0": None})


@pytest.mark.parametrize("name", slow_but(CONFIGS, set(CONFIGS) - {"xlm-roberta", "camembert"}))  # as roberta
def test_any_value_of_a_config_is_read_or_refused_in_one_line(name: str, tmp_path: pathlib.Path) -> None:
    family = FAMILIES[name]
    end = "ForSequenceClassification" if "ForSequenceClassification" in family.architectures else "Model"
    folder = pathlib.Path(write_published(tmp_path / "theirs", name, end))
    theirs = json.loads((folder / "config.json").read_text())
    keys = [
        (key,) for key in (*theirs, "problem_type", "num_labels", "tie_word_embeddings", "classifier_dropout")
    ]
    keys = [(part, key) for part in ("encoder", "decoder") for key in theirs.get(part, ())] or keys
    cases = [(where, value) for where in keys for value in ODD]
    read, random = 0, np.random.default_rng(0)
    for number in random.choice(len(cases), 80, replace=False):
        where, value = cases[number]
        changed = json.loads(json.dumps(theirs))
        inner = functools.reduce(dict.__getitem__, where[:-1], changed)
        inner[where[-1]] = value
        (folder / "config.json").write_text(json.dumps(changed))
        try:
            with open_source(str(folder)) as source:
                read_model(source)
            read += 1
        except ValueError as error:
            assert "\n" not in str(error) and len(str(error)) < 900, str(error)
    assert 0 < read < 40


def test_nothing_is_left_of_what_differs(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A class that computes something else, in place of PyTorch."""
    source = write_published(tmp_path / "theirs")
    ours = parity.our_outputs

    def other(folder: str, family: Any, class_name: str, probe: parity.Probe, config: Any) -> parity.Outputs:
        found = ours(loaded[-1], probe)
        states = [*found.states[:-1], found.states[-1] + shift]
        heads = {"prediction_logits": found.heads["mlm"], "seq_relationship_logits": found.heads["nsp"]}
        return parity.Outputs(states, heads)

    loaded: list[Any] = []
    monkeypatch.setattr(parity, "installed", lambda: True)
    monkeypatch.setitem(sys.modules, "transformers", types.SimpleNamespace(__version__="5"))
    monkeypatch.setattr(
        parity, "our_outputs", lambda bundle, probe: loaded.append(bundle) or ours(bundle, probe)
    )
    monkeypatch.setattr(parity, "their_outputs", other)
    for name in ("import", "export"):
        shift = np.float32(0.01)
        said = refused(name, capsys, source=source, out=tmp_path / name)
        assert "layer 3 differs from BertForPreTraining by" in said and "nothing was written" in said
        shift = np.float32(1e-6)
        assert main([name, f"--source={source}", f"--out={tmp_path / name}"]) == 0
        assert "worst       layer 3" in capsys.readouterr().out
