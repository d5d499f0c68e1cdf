"""translate and generate: what a run wrote of its held-out records, and texts that go on; all models are random."""

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.data.labelled import made_up
from bertjax.models.decoder import DecoderOptions
from bertjax.models.decoding import Beam
from bertjax.predict import Generate, RunOptions, Translate, generate, run, translate
from bertjax.sharding import MeshConfig
from bertjax.tasks.clm import Clm
from bertjax.tasks.translate import Translate as TranslateTask
from tests.finetuning import READER, as_left_by_a_run

pytestmark = pytest.mark.usefixtures("quick_compiles")

FEW = RunOptions(batch=7, shapes=1, window=3)
TASK = TranslateTask(target_tokens=12, decoder=DecoderOptions(layers=1), search=Beam(beams=2))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("writing")
    as_left_by_a_run(folder, (TASK,))
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
    model = dataclasses.replace(READER, direction="left_to_right")
    as_left_by_a_run(tmp_path, (TASK,), model=model, heads=(Clm(),))
    writes = bertjax.load(str(tmp_path), mesh=MeshConfig(data=1))
    texts = ["ban da", "go", "", "ku la le " * 30]
    found = run(Generate(tokens=4), writes, ({"text": text} for text in texts), FEW)
    for text, one in zip(texts[:3], found, strict=False):
        assert one["text"].startswith(text) and one["tokens"] <= 4
    assert "warning" in found[3] and any(one["tokens"] == 4 for one in found)
    greedy = generate(writes, texts[:2], search="greedy", tokens=3, options=FEW)
    assert [one["text"] for one in greedy] == [
        one["text"]
        for one in run(Generate(tokens=3, search="greedy"), writes, ({"text": t} for t in texts[:2]), FEW)
    ]
    with pytest.raises(ValueError, match="search=beam goes on with no text that is given"):
        run(Generate(search="beam"), writes, [{"text": "go"}], FEW)
    with pytest.raises(ValueError, match="translate needs a head for translate and this model has clm"):
        run(Translate(), writes, [{"text": "go"}], FEW)


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
