"""translate and generate: what a run wrote of its held-out records, and texts that go on; all models are random."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.checkpoint import Checkpoints
from bertjax.config import Config, DataConfig, TrainConfig, claim
from bertjax.data.labelled import made_up
from bertjax.finetune import Exam, open_sets
from bertjax.layers.config import EncoderConfig
from bertjax.models.decoder import DecoderOptions
from bertjax.models.decoding import Beam
from bertjax.predict import Generate, RunOptions, Translate, generate, run, translate
from bertjax.program import build
from bertjax.sharding import MeshConfig
from bertjax.tasks.clm import Clm
from bertjax.tasks.translate import Translate as TranslateTask
from bertjax.types import TrainState

pytestmark = pytest.mark.usefixtures("quick_compiles")

MODEL = EncoderConfig(
    layers=2,
    width=24,
    heads=4,
    feedforward=40,
    vocab=made_up.tokenizer().vocabulary.size,
    vocab_multiple=8,
    max_length=40,
    dropout=0.0,
    attention_dropout=0.0,
)
FEW = RunOptions(batch=7, shapes=1, window=3)
TASK = TranslateTask(target_tokens=12, decoder=DecoderOptions(layers=1), search=Beam(beams=2))


def as_left_by_a_run(folder: pathlib.Path, task: Any, model: EncoderConfig) -> Any:
    """A workdir with random parameters, and the program that they are of."""
    config = Config(
        model=model,
        data=DataConfig(length=24, shapes=1, threads=0, ahead=1),
        tasks=(TASK,),
        mesh=MeshConfig(data=1),
        train=TrainConfig(steps=1, batch_size=20, eval_every=None),
    )
    sets = open_sets(config)
    config = dataclasses.replace(sets.config, tasks=(task,) if isinstance(task, Clm) else sets.config.tasks)
    program = build(config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    random = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        return (random.normal(size=leaf.shape) + (path[-1].key == "scale")).astype(np.float32)

    params = jax.tree_util.tree_map_with_path(draw, program.state.params)
    claim(str(folder), config, sets.digest)
    sets.keep_tokenizer(str(folder))
    checkpoints = Checkpoints(folder)
    checkpoints.save(TrainState(step=np.int32(1), params=params, opt_state={}))
    checkpoints.close()
    return program, params, sets


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("writing")
    program, params, sets = as_left_by_a_run(folder, TASK, MODEL)
    with program.active():
        Exam(program, sets).conclude(jax.device_put(params), str(folder))
    return folder


@pytest.fixture(scope="module")
def writer(workdir: pathlib.Path) -> Bundle:
    return bertjax.load(str(workdir), mesh=MeshConfig(data=1))


def test_texts_are_those_of_the_run(workdir: pathlib.Path, writer: Bundle) -> None:
    """By the same search, unless another is asked for."""
    texts = made_up.make_up("translate", "heldout").columns["text"]
    lines = [json.loads(line) for line in (workdir / "predictions.jsonl").read_text().splitlines()]
    found = translate(writer, texts, options=FEW)
    assert [one["text"] for one in found] == [line["text"] for line in lines]
    logs = [np.log(max(one["probability"], 1e-300)) for one in found]
    np.testing.assert_allclose(logs, [line["log_probability"] for line in lines], rtol=1e-3)
    assert len({one["text"] for one in found}) > 10
    greedy = run(Translate(search="greedy"), writer, ({"text": text} for text in texts), FEW)
    assert [one["text"] for one in greedy] != [one["text"] for one in found]


def test_several_texts_of_a_beam(writer: Bundle) -> None:
    (found,) = run(Translate(search="beam", beams=3, top=3, tokens=5), writer, [{"text": "ban da"}], FEW)
    assert len(found["texts"]) == 3 and found["texts"][0]["text"] == found["text"]
    assert len({one["text"] for one in found["texts"]}) == 3
    assert list(Translate().lines(found)) == [one["text"] for one in found["texts"]]
    assert all(len(one["text"].split()) <= 5 for one in found["texts"])


def test_draws_depend_on_line_and_seed(writer: Bundle) -> None:
    records = [{"text": "ban da"}] * 3
    first = [one["text"] for one in run(Generate(tokens=6), writer, records, FEW)]
    assert first == [
        one["text"] for one in run(Generate(tokens=6), writer, records, RunOptions(batch=2, shapes=1))
    ]
    assert len(set(first)) > 1
    assert first != [one["text"] for one in run(Generate(tokens=6, seed=1), writer, records, FEW)]


def test_a_text_goes_on(tmp_path: pathlib.Path) -> None:
    """By an encoder that reads from left to right; nothing of the text that was given is changed."""
    as_left_by_a_run(tmp_path, Clm(), dataclasses.replace(MODEL, direction="left_to_right"))
    model = bertjax.load(str(tmp_path), mesh=MeshConfig(data=1))
    texts = ["ban da", "go", "", "ku la le " * 30]
    found = run(Generate(tokens=4), model, ({"text": text} for text in texts), FEW)
    for text, one in zip(texts[:3], found, strict=False):
        assert one["text"].startswith(text) and one["tokens"] <= 4
    assert "warning" in found[3] and any(one["tokens"] == 4 for one in found)
    greedy = generate(model, texts[:2], search="greedy", tokens=3, options=FEW)
    assert [one["text"] for one in greedy] == [
        one["text"]
        for one in run(Generate(tokens=3, search="greedy"), model, ({"text": t} for t in texts[:2]), FEW)
    ]
    with pytest.raises(ValueError, match="search=beam goes on with no text that is given"):
        run(Generate(search="beam"), model, [{"text": "go"}], FEW)
    with pytest.raises(ValueError, match="translate needs a head for translate and this model has clm"):
        run(Translate(), model, [{"text": "go"}], FEW)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"tokens": 0}, "tokens=0 must be at least 1"),
        ({"top": 5}, "top=5 and search=None with beams=4"),
        ({"search": "greedy", "top": 2}, "only a beam has several texts"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
    ],
)
def test_options_without_sense(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        Translate(**options)
    assert "\n" not in str(error.value)


def test_more_tokens_than_positions(writer: Bundle) -> None:
    with pytest.raises(ValueError, match="tokens=64 is more than the table of positions has: use 40 or less"):
        run(Translate(tokens=64), writer, [{"text": "go"}], FEW)
