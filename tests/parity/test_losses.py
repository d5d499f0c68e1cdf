"""The losses of the fine-tuning tasks against those that transformers computes from the same logits."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from records import loss_of, whole_batch

from bertjax.data.labelled import made_up
from bertjax.tasks import LabelledTask
from bertjax.tasks.answer import Answer
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.regress import Regress
from bertjax.tasks.tag import Tag

pytestmark = pytest.mark.parity
TOKENIZER = made_up.tokenizer()
RANDOM = np.random.default_rng(0)


def made(task: LabelledTask) -> tuple[Any, Any]:
    """A task and a batch of its made-up records."""
    split = task.read("train").select(range(12))
    task = task.resolve(task.read("train"))
    return task, whole_batch(task, task.examples(split, TOKENIZER, 40), 40, empty=0)


def draw(*shape: int) -> tuple[np.ndarray, Any]:
    import torch

    logits = RANDOM.normal(size=shape).astype(np.float32)
    return logits, torch.tensor(logits)


def test_sequence_classification() -> None:
    import torch
    from transformers.loss.loss_utils import ForSequenceClassificationLoss

    for problem, kind, size in (
        ("single", "single_label_classification", 4),
        ("multi", "multi_label_classification", 4),
    ):
        task, batch = made(Classify(problem=problem))  # type: ignore[arg-type]
        ours, theirs = draw(12, size)
        labels = torch.tensor(batch.targets["classify"]["label"])
        labels = labels.long() if problem == "single" else labels.float()
        wanted = ForSequenceClassificationLoss(
            labels, theirs, SimpleNamespace(num_labels=size, problem_type=kind)
        )
        assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)
    task, batch = made(Regress(pair="pair"))
    ours, theirs = draw(12, 1)
    wanted = ForSequenceClassificationLoss(
        torch.tensor(batch.targets["regress"]["label"]),
        theirs,
        SimpleNamespace(num_labels=1, problem_type="regression"),
    )
    assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_smoothing_and_weights() -> None:
    import torch

    task, batch = made(Classify(smoothing=0.2))
    ours, theirs = draw(12, 4)
    labels = torch.tensor(batch.targets["classify"]["label"]).long()
    wanted = torch.nn.functional.cross_entropy(theirs, labels, label_smoothing=0.2)
    assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)
    task, batch = made(Classify(class_weights=(1.0, 2.0, 3.0, 4.0)))
    wanted = torch.nn.functional.cross_entropy(theirs, labels, weight=torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_token_classification() -> None:
    import torch
    from transformers.loss.loss_utils import ForTokenClassification

    task, batch = made(Tag())
    ours, theirs = draw(*batch.tokens.shape, len(task.labels))
    target = batch.targets["tag"]
    labels = np.where(target["weight"] > 0, target["label"], -100)
    wanted = ForTokenClassification(
        theirs, torch.tensor(labels).long(), type("C", (), {"num_labels": len(task.labels)})
    )
    assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_question_answering() -> None:
    import torch
    from transformers.loss.loss_utils import ForQuestionAnsweringLoss

    task, batch = made(Answer(stride=4))
    ours, theirs = draw(*batch.tokens.shape, 2)
    hidden = torch.tensor(np.where(batch.mask, 0.0, -1e9).astype(np.float32))  # padding takes no part here
    target = {name: torch.tensor(value).long() for name, value in batch.targets["answer"].items()}
    wanted = ForQuestionAnsweringLoss(
        theirs[..., 0] + hidden, theirs[..., 1] + hidden, target["first"], target["last"]
    )
    assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)


def test_multiple_choice() -> None:
    import torch

    task, batch = made(Choose())
    ours, theirs = draw(36, 1)
    labels = torch.tensor(batch.targets["choose"]["label"]).long()
    wanted = torch.nn.functional.cross_entropy(theirs.view(12, 3), labels)  # as in BertForMultipleChoice
    assert loss_of(task, ours, batch)["loss"] == pytest.approx(float(wanted), rel=1e-5)
