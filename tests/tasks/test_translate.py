"""The task translate: rows and losses by hand, refusals, and runs that learn from nothing and from an encoder."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from records import loss_of, make_split, whole_batch

from bertjax import train
from bertjax.config import CHOICES, Config, DataConfig, TrainConfig, adopt, check, to_dict
from bertjax.data.labelled import made_up
from bertjax.data.labelled.records import Records
from bertjax.finetune import make_predict_step, open_sets, predict
from bertjax.inherit import flat
from bertjax.layers.config import EncoderConfig
from bertjax.models.decoder import DecoderOptions
from bertjax.models.decoding import Beam, Marks, Sample
from bertjax.models.heads import NEVER
from bertjax.models.stacking import unstack_layers
from bertjax.optim import OptimConfig
from bertjax.program import begin, build
from bertjax.settings import override
from bertjax.sharding import MeshConfig
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.translate import Translate
from tests.runs import assert_near

pytestmark = pytest.mark.usefixtures("quick_compiles")

TOKENIZER = made_up.tokenizer()
MARKS = Marks.of(TOKENIZER.vocabulary)
PAIRS = make_split(
    text=["ban da", "fa", "", "go ku " * 9],
    target=["da", "fe fi ka ku la le", "ga", ""],
)


# ---------------------------------------------------------------------------------------------- rows and losses


def test_rows_stand_between_marks_and_are_cut_without_an_end() -> None:
    task = Translate(target_tokens=5).resolve(PAIRS)
    examples = task.examples(PAIRS, TOKENIZER, 8)
    batch = whole_batch(task, examples, 8)
    target = batch.targets["translate"]
    assert target["size"].tolist() == [3, 6, 3, 2, 0] and target["weight"].tolist() == [1, 1, 1, 0, 0]
    names = [TOKENIZER.tokens(row[:size]) for row, size in zip(target["row"], target["size"], strict=True)]
    assert names[0] == ["[CLS]", "da", "[SEP]"] and names[1] == ["[CLS]", "fe", "fi", "ka", "ku", "la"]
    assert (target["row"][0, 3:] == MARKS.pad).all()
    assert TOKENIZER.tokens(batch.tokens[0, :4]) == ["[CLS]", "ban", "da", "[SEP]"]
    assert examples.lengths.tolist() == [4, 5, 2, 8]  # the second for its target
    assert float(task.normaliser(batch)) == 2 + 5 + 2


def test_loss_by_hand() -> None:
    task = Translate(target_tokens=5, smoothing=0.2)
    batch = whole_batch(task, task.examples(PAIRS, TOKENIZER, 8), 8)
    size = TOKENIZER.vocabulary.size
    logits = np.random.default_rng(0).normal(size=(5, 5, size + 3)).astype(np.float32)
    logits[:, :, size:] = NEVER
    logs = logits[:, :, :size].astype(np.float64)
    logs = logs - np.log(np.exp(logs).sum(-1, keepdims=True))
    target, each, right = batch.targets["translate"], [], []
    for row in range(3):
        for place in range(int(target["size"][row]) - 1):
            label = target["row"][row, place + 1]
            each.append(-(0.8 * logs[row, place, label] + 0.2 * logs[row, place].mean()))
            right.append(logs[row, place].argmax() == label)
    found = loss_of(task, logits, batch)
    assert found["loss"] == pytest.approx(np.mean(each), rel=1e-5)
    assert found["accuracy"] == pytest.approx(np.mean(right))


def test_scores_of_known_texts() -> None:
    task = Translate()
    right = [{"text": text} for text in PAIRS.columns["target"]]
    assert task.score(right, PAIRS) == pytest.approx(
        {"bleu": 1.0, "chrf": 1.0, "exact": 1.0, "rouge_l": 1.0}, abs=1e-6
    )
    wrong = [{"text": "DA"}, {"text": "fe fi"}, {"text": ""}, {"text": "whatever"}]
    found = task.score(wrong, PAIRS)
    assert found["exact"] == 0 and 0 < found["rouge_l"] < 1 and found["bleu"] < 0.5
    assert dataclasses.replace(task, cased=False).score(wrong, PAIRS)["exact"] == pytest.approx(1 / 3)
    assert next(iter(dataclasses.replace(task, metric="rouge_l").score(right, PAIRS))) == "rouge_l"
    assert dataclasses.replace(task, metric="chrf").stands(found) == found["chrf"]
    chinese = make_split(text=["a"], target=["软件包"])
    assert set(Translate(tokenize="zh").score([{"text": "软 件"}], chinese)) == {"bleu", "chrf", "exact"}


# ---------------------------------------------------------------------------------------------- refusals


def test_records_that_cannot_be_learned_from() -> None:
    with pytest.raises(ValueError, match=r"train.tsv has no column 'target'.*set tasks.translate.target"):
        Translate().resolve(make_split(text=["a"], label=["b"]))
    with pytest.raises(ValueError, match=r"'target' is empty in all 2 records: there is nothing to learn"):
        Translate().resolve(make_split(text=["a", "b"], target=["", None]))
    with pytest.raises(ValueError, match=r"train.tsv line 3: 'target' holds int 7 and not text"):
        Translate().resolve(make_split(text=["a", "b"], target=["x", 7]))
    with pytest.raises(
        ValueError, match=r"tasks.translate.target_tokens=64 is more than a row of data.length=8"
    ):
        Translate().examples(PAIRS, TOKENIZER, 8)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Translate(smoothing=1.0), "tasks.translate.smoothing=1.0 is a share"),
        (lambda: Translate(target_tokens=1), "tasks.translate.target_tokens=1"),
        (
            lambda: check(tiny("model.max_length=7")),
            "target_tokens=8 is more than the table of positions has",
        ),
        (
            lambda: check(tiny("model.attention=disentangled", "model.position=relative")),
            "a decoder does not have",
        ),
    ],
)
def test_settings_without_sense(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------- runs


def tiny(*settings: str, **changes: Any) -> Config:
    """A run over made-up records, on one device."""
    config = Config(
        model=EncoderConfig(
            layers=2,
            width=48,
            heads=4,
            block="pre",
            vocab=TOKENIZER.vocabulary.size,
            vocab_multiple=8,
            max_length=40,
            dropout=0.0,
            attention_dropout=0.0,
            init_scheme="xavier",
        ),
        data=DataConfig(length=24, shapes=1, threads=0, ahead=1),
        tasks=(Translate(target_tokens=8, smoothing=0.0, decoder=DecoderOptions(layers=1)),),
        optim=OptimConfig(learning_rate=3e-3, warmup_steps=40),
        mesh=MeshConfig(data=1),
        train=TrainConfig(epochs=50.0, batch_size=32, log_every=50, eval_every=None, checkpoint_every=1000),
    )
    return override(dataclasses.replace(config, **changes), settings, CHOICES)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    workdir = tmp_path_factory.mktemp("learned")
    assert train.train(tiny(), str(workdir))
    return workdir


def result(workdir: pathlib.Path) -> dict[str, float]:
    metrics: dict[str, float] = json.loads((workdir / "result.json").read_text())["metrics"]
    return metrics


@pytest.mark.slow
def test_a_small_model_learns_to_translate(learned: pathlib.Path) -> None:
    found = result(learned)
    assert found["heldout_score"] == found["heldout_bleu"] > 0.8 and found["heldout_exact"] > 0.6
    lines = [json.loads(line) for line in (learned / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == made_up.SIZES["heldout"] and set(lines[0]) == {"record", "text", "log_probability"}
    wanted = made_up.make_up("translate", "heldout").columns["target"]
    same = np.mean([line["text"] == text for line, text in zip(lines, wanted, strict=True)])
    assert same == pytest.approx(found["heldout_exact"])


def evaluated(workdir: pathlib.Path, *settings: str, search: Any) -> tuple[list[Any], dict[str, float]]:
    """Predictions and scores for the held-out records, on any mesh and by any search."""
    from bertjax.checkpoint import Checkpoints

    config = tiny(*settings)
    (task,) = config.tasks
    assert isinstance(task, Translate)
    sets = open_sets(dataclasses.replace(config, tasks=(dataclasses.replace(task, search=search),)))
    program = build(sets.config, TOKENIZER.vocabulary, lengths=sets.lengths)
    checkpoints = Checkpoints(workdir)
    with program.active():
        params = checkpoints.restore_params(checkpoints.latest(), program.state.params)
        (task,) = sets.tasks
        split = sets.splits["translate"]["heldout"]
        buckets = sets.buckets("translate", "heldout")
        found, _ = predict(program, make_predict_step(program), params, task, buckets, split)
    return found, task.score(found, split)


@pytest.mark.slow
def test_a_beam_on_a_mesh(learned: pathlib.Path) -> None:
    """As on one device; texts are at least as probable as what the greedy search writes, but for a few."""
    greedy = [json.loads(line) for line in (learned / "predictions.jsonl").read_text().splitlines()]
    mesh = ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "mesh.rules=fsdp_tensor")
    many, scores = evaluated(learned, *mesh, search=Beam(beams=3, penalty=0.0))
    one, _ = evaluated(learned, search=Beam(beams=3, penalty=0.0))
    assert [row["text"] for row in many] == [row["text"] for row in one]
    logs = np.array([row["log_probability"] for row in many])
    np.testing.assert_allclose(logs, [row["log_probability"] for row in one], atol=1e-3)
    assert (logs >= np.array([row["log_probability"] for row in greedy]) - 1e-3).mean() > 0.9
    assert scores["exact"] > 0.6


@pytest.mark.slow
def test_a_sample_is_the_same_wherever_it_stands(learned: pathlib.Path) -> None:
    hot = Sample(temperature=1.5)
    first, _ = evaluated(learned, search=hot)
    second, _ = evaluated(learned, "train.batch_size=16", search=hot)
    other, _ = evaluated(learned, search=dataclasses.replace(hot, seed=1))
    assert [row["text"] for row in first] == [row["text"] for row in second]
    assert [row["text"] for row in first] != [row["text"] for row in other]


@pytest.mark.slow
def test_microbatches_and_a_mesh_learn_the_same(tmp_path: pathlib.Path) -> None:
    from bertjax.checkpoint import Checkpoints

    few = ("train.epochs=0.3",)
    train.train(tiny(*few), str(tmp_path / "one"))
    others = ("mesh.data=2", "mesh.sequence=2", "mesh.rules=fsdp_tensor_sequence", "train.microbatches=2")
    train.train(tiny(*few, *others), str(tmp_path / "many"))
    one, many = (jax.device_get(Checkpoints(tmp_path / name).load_params(4)) for name in ("one", "many"))
    assert_near(many, one, 5e-3)


# ---------------------------------------------------------------------------------------------- from an encoder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of two steps over a corpus, with as many tokens as the made-up records have."""
    workdir = tmp_path_factory.mktemp("encoder")
    train_ = TrainConfig(steps=2, batch_size=16, eval_every=None, eval_batches=1)
    data = DataConfig(length=24, threads=0)
    model = dataclasses.replace(tiny().model, layers=3)
    train.train(
        dataclasses.replace(tiny(), tasks=(Mlm(),), train=train_, data=data, model=model), str(workdir)
    )
    return workdir


def started(config: Config) -> tuple[dict[str, np.ndarray], str]:
    from bertjax.data.open import open_vocabulary

    program = build(config, open_vocabulary("synthetic", config.model.vocab))
    with program.active():
        state, said = begin(program)
    return flat(unstack_layers(jax.device_get(state.params))), said


@pytest.mark.parametrize("scan", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_a_decoder_starts_from_the_encoder(encoder: pathlib.Path, scan: str) -> None:
    """The first layer from the first, the last from the last, tables and the last layer too; its new branch afresh."""
    decoder = "tasks.translate.decoder"
    config = adopt(tiny(f"{decoder}.layers=2", f"{decoder}.table=own", f"model.init={encoder}"))
    config = dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, scan=scan == "true"),
        data=dataclasses.replace(config.data, corpus="synthetic"),
    )
    found, said = started(config)
    own = {
        path.removeprefix("heads_translate/"): value
        for path, value in found.items()
        if path.startswith("heads_")
    }
    layers = {0: 0, 1: 2}
    for path, value in own.items():
        if "cross" in path:
            continue
        if path.startswith("head/"):
            continue
        source = f"encoder/{path}"
        for mine, theirs in layers.items():
            source = (
                source.replace(f"layers_{mine}/", f"layers_{theirs}/")
                if f"layers_{mine}/" in path
                else source
            )
        tokens = config.model.vocab if path == "embedder/tokens" else None  # the rest are drawn anew
        np.testing.assert_array_equal(value[:tokens], found[source][:tokens], path)
    assert "embedder/tokens" in own
    assert "decoder translate: " in said and "fresh heads" not in said
    some, all_ = (
        int(word) for word in said.split("decoder translate: ")[1].split(" arrays")[0].split(" of its ")
    )
    assert all_ - some == sum("cross" in path for path in own if scan == "false") or scan == "true"
    fresh, told = started(override(config, ["tasks.translate.decoder.start=random"], CHOICES))
    assert "fresh heads: translate" in told
    kernel = "heads_translate/stack/group_0/layers_0/block_0/attention/query/kernel"
    assert (fresh[kernel] != found[kernel]).any()


@pytest.mark.slow
def test_a_decoder_that_is_there_is_taken_over(learned: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Not the encoder's layers in its place; another search needs no training, and another decoder is refused."""
    config = adopt(tiny("optim.learning_rate=0", f"model.init={learned}", "train.epochs=0.05"))
    train.train(config, str(tmp_path))
    assert result(tmp_path)["heldout_bleu"] == pytest.approx(result(learned)["heldout_bleu"], abs=1e-6)
    for setting in ("table=own", "layers=2"):
        other = adopt(tiny(f"tasks.translate.decoder.{setting}", f"model.init={learned}"))
        with pytest.raises(ValueError, match=r"use the decoder of that run \(tasks.translate.decoder.table"):
            train.train(other, str(tmp_path / setting))


def test_records_of_a_folder(tmp_path: pathlib.Path) -> None:
    """Columns of other names, a target that is missing, a name for the task, and a round trip through JSON."""
    lines = [{"de": "ban da", "en": "da"}, {"de": "fa", "en": None}, {"de": "go ku", "en": "ku ga"}]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines * 4))
    task = Translate(
        called="back",
        records=Records(path=str(tmp_path)),
        text="de",
        target="en",
        target_tokens=8,
        search=Sample(top_k=5),
    )
    config = tiny("train.epochs=1", "train.batch_size=8", tasks=(task,))
    train.train(config, str(tmp_path / "run"))
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 12
    assert to_dict(config)["tasks"][0]["search"]["top_k"] == 5
