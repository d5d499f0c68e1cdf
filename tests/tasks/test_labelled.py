"""What is common to tasks over labelled records: refused options, names, made-up records, records without labels."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from helpers import SMALL
from records import WORDPIECE, make_split, whole_batch

from bertjax.data.labelled import made_up
from bertjax.tasks import TASKS, LabelledTask
from bertjax.tasks.answer import Answer
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.embed import Embed
from bertjax.tasks.labelled import labelled
from bertjax.tasks.regress import Regress
from bertjax.tasks.tag import Tag
from bertjax.tasks.translate import Translate

RANDOM = np.random.default_rng(0)


OPTIONS: list[tuple[type[LabelledTask], dict[str, Any], str]] = [
    (Classify, {"stride": -1}, "tasks.classify.stride=-1"),
    (Classify, {"smoothing": 1.0}, "tasks.classify.smoothing=1.0"),
    (Classify, {"r_drop": 0.0}, "tasks.classify.r_drop=0.0"),
    (Classify, {"problem": "multi", "smoothing": 0.1}, "problem=multi has neither smoothing"),
    (Classify, {"class_weights": (1.0, 0.0)}, "the weight 0.0 must be above 0"),
    (Tag, {"stride": -1}, "tasks.tag.stride=-1"),
    (Answer, {"best": 0}, "tasks.answer.best=0 must be at least 1"),
    (Embed, {"objective": "triplet"}, "set tasks.embed.negative"),
    (Embed, {"temperature": 0.0}, "tasks.embed.temperature=0.0"),
]


@pytest.mark.parametrize("kind, options, message", OPTIONS)
def test_options_that_are_none(kind: type[LabelledTask], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**options)


def test_records_without_labels_can_be_predicted_but_not_scored() -> None:
    for task, columns in (
        (Classify(labels=("x", "y")), {"text": ["a"]}),
        (Regress(), {"text": ["a"]}),
        (Tag(labels=("O", "B-X")), {"words": [["a"]]}),
        (Answer(stride=2), {"question": ["a"], "context": ["ban da"]}),
        (Choose(number=2), {"text": ["a"], "choices": [["x", "y"]]}),
        (Translate(target_tokens=12), {"text": ["ban da"]}),
        (Translate(target_tokens=12), {"text": ["ban da"], "target": [None]}),
    ):
        split = make_split(**columns)
        batch = whole_batch(task, task.examples(split, WORDPIECE, 12), 12)
        assert float(jnp.asarray(batch.targets[task.name]["weight"]).sum()) == 0
        with pytest.raises(ValueError, match="train.tsv has no .*to score predictions with"):
            task.score([{}], split)


@pytest.mark.parametrize("task", labelled(tuple(TASKS.values())), ids=lambda task: task.name)
def test_made_up_records_suit_every_task(task: LabelledTask) -> None:
    task = task.on_made_up_records()
    train = task.read("train")
    task = task.resolve(train)
    for which in ("train", "heldout", "test"):
        split = task.read(which)
        assert len(split) == made_up.SIZES[which]
        examples = task.examples(split, WORDPIECE, 40)
        assert examples.records == len(split) and set(examples.record) == set(range(len(split)))
        assert not (examples.tokens == WORDPIECE.vocabulary.unk).any()
    assert task.read("train").digest == train.digest != task.read("heldout").digest


def test_tasks_of_one_kind_have_names_of_their_own() -> None:
    one = Classify(called="mnli")
    assert one.name == "mnli" and one.kind == "classify" and one.at("text") == "tasks.classify.text"
    assert set(dataclasses.replace(one, labels=("x", "y")).heads(SMALL)) == {"mnli"}
