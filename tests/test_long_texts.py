"""Long documents: chunks find what stands behind the end of a row, and their predictions are pooled."""

import dataclasses
import pathlib
import random
from typing import Any

import numpy as np
import pytest
from test_finetune import tiny

from bertjax import train
from bertjax.checkpoint import Checkpoints
from bertjax.config import read_workdir
from bertjax.data.labelled import made_up
from bertjax.data.labelled.buckets import Buckets
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.finetune import make_predict_step, predict
from bertjax.program import build
from bertjax.tasks.classify import Classify
from bertjax.tasks.texts import pooled

pytestmark = pytest.mark.usefixtures("quick_compiles")

TOKENIZER = made_up.tokenizer()


def buried(which: str, least: int, most: int) -> Split:
    """Texts behind and before so many words that say nothing."""
    split, draws = made_up.make_up("classify", which), random.Random(which)
    texts = []
    for text in split.columns["text"]:
        before, after = (
            [draws.choice(("where", "is", "near")) for _ in range(draws.randint(least, most))] for _ in "ab"
        )
        texts.append(" ".join([*before, text, *after]))
    return Split(which, {"text": texts, "label": split.columns["label"]})


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A model of texts that fit into a row."""
    folder = tmp_path_factory.mktemp("long")
    for which, file in (("train", "train.tsv"), ("heldout", "dev.tsv")):
        split = buried(which, 0, 11)
        rows = zip(split.columns["text"], split.columns["label"], strict=True)
        (folder / file).write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    task = Classify(records=Records(path=str(folder)), pooling="max")
    config = dataclasses.replace(tiny("data.shapes=1", epochs=6, eval_every=None), tasks=(task,))
    train.train(config, str(folder / "run"))
    return folder / "run"


def accuracy(workdir: pathlib.Path, split: Split, **changes: Any) -> float:
    """Of the model, with other settings of the task."""
    config = read_workdir(str(workdir))[0]
    task = dataclasses.replace(config.tasks[0], **changes)
    assert isinstance(task, Classify)
    lengths = {"classify": (40,)}
    program = build(dataclasses.replace(config, tasks=(task,)), TOKENIZER.vocabulary, lengths=lengths)
    buckets = Buckets(task.examples(split, TOKENIZER, 40), 16, (40,), shuffle=False)
    with program.active():
        params = Checkpoints(workdir).restore_params(config.train.steps, program.state.params)
        found, _ = predict(program, make_predict_step(program), params, task, buckets, split)
    for prediction in found:
        assert sum(prediction["probabilities"].values()) == pytest.approx(1.0)
    return task.score(found, split)["accuracy"]


def spread(share: float) -> Split:
    """Long texts in which a little more than chance is of their topic, from the first word to the last."""
    draws, size = random.Random(0), len(made_up.WORDS) // made_up.TOPICS
    columns: dict[str, list[Any]] = {"text": [], "label": []}
    for number in range(100):
        topic = number % made_up.TOPICS
        pools = made_up.WORDS[topic * size : (topic + 1) * size], made_up.WORDS
        columns["text"].append(" ".join(draws.choice(pools[draws.random() > share]) for _ in range(150)))
        columns["label"].append(f"topic{topic}")
    return Split("spread", columns)


@pytest.mark.slow
def test_chunks_find_what_a_cut_text_has_lost(workdir: pathlib.Path) -> None:
    short, long = buried("heldout", 0, 11), buried("heldout", 45, 60)
    fits, cut = accuracy(workdir, short), accuracy(workdir, long)
    most = accuracy(workdir, long, stride=16, chunks="max")
    assert fits > 0.8 and cut < 0.4 and most > 0.6, (fits, cut, most)  # a quarter by chance
    assert accuracy(workdir, short, stride=16, chunks="max") == fits, "one chunk is the text"
    # Where all parts of a text say the same, the mean of all of them is better than the first.
    cut, mean = accuracy(workdir, spread(0.2)), accuracy(workdir, spread(0.2), stride=0)
    assert cut > 0.4 and mean > cut + 0.05, (cut, mean)


def test_pooling_by_hand() -> None:
    records = Split("train", {"text": ["ban " * 30, "da"], "label": ["x", "y"]})
    task = Classify(stride=3).resolve(records)
    examples = task.examples(records, TOKENIZER, 12)
    assert examples.record.tolist() == [0, 0, 0, 0, 1]
    values = np.array([[0.1, 0.9], [0.7, 0.3], [0.2, 0.8], [0.6, 0.4], [0.5, 0.5]])
    np.testing.assert_allclose(pooled(examples, list(values), "mean"), [[0.4, 0.6], [0.5, 0.5]])
    np.testing.assert_allclose(pooled(examples, list(values), "max"), [[0.7, 0.9], [0.5, 0.5]])
