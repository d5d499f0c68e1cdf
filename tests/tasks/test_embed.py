"""Vectors of texts: three objectives by hand, similarity and retrieval."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from records import WORDPIECE, log_softmax, loss_of, make_split, outcomes_of, whole_batch

from bertjax.data.labelled.split import Split
from bertjax.tasks.embed import Embed

RANDOM = np.random.default_rng(0)


def vectors(rows: int, width: int = 5) -> np.ndarray:
    x = RANDOM.normal(size=(rows, width))
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32)


def embedded(records: Split, **options: Any) -> tuple[Embed, Any, Any]:
    task = Embed(**options).resolve(records)
    examples = task.examples(records, WORDPIECE, 8)
    return task, examples, whole_batch(task, examples, 8)


PAIRS = {"text": ["ban", "da", "ku"], "pair": ["go", "gu", "ka"]}


def test_cosines() -> None:
    records = make_split(**PAIRS, label=[5, 2.5, None])
    task, examples, batch = embedded(records)
    x = vectors(8)
    cosines = (x[0::2] * x[1::2]).sum(1)
    wanted = np.mean((cosines[:2] - [1.0, 0.5]) ** 2)
    assert loss_of(task, x, batch)["loss"] == pytest.approx(wanted, rel=1e-5)
    predictions = task.predictions(examples, outcomes_of(task, x, batch), records)
    assert [prediction["similarity"] for prediction in predictions] == pytest.approx(cosines[:3], rel=1e-5)
    assert set(task.score(predictions, records)) == {"spearman", "pearson"}


@pytest.mark.parametrize("negative", [None, "far"])
def test_contrast_with_the_batch(negative: str | None) -> None:
    records = make_split(**PAIRS, far=["la", "le", "li"])
    task, _, batch = embedded(records, objective="contrastive", negative=negative, temperature=0.1)
    group = 2 if negative is None else 3
    x = vectors(4 * group)
    sides = [x[side::group][:3] for side in range(group)]
    logits = np.concatenate([sides[0] @ side.T for side in sides[1:]], axis=1) / 0.1
    wanted = -np.diagonal(log_softmax(logits)).mean()
    found = loss_of(task, x, batch)
    assert found["loss"] == pytest.approx(wanted, rel=1e-4)
    assert found["accuracy"] == np.mean(logits.argmax(1) == np.arange(3))
    assert task.makes_rows


def test_a_pair_that_is_there_twice_is_not_its_own_negative() -> None:
    records = make_split(text=["ban", "da", "ku"], pair=["go", "go", "ka"])
    task, _, batch = embedded(records, objective="contrastive", temperature=0.1)
    x = vectors(8)
    logits = (x[0:6:2] @ x[1:6:2].T) / 0.1
    logits[0, 1] = logits[1, 0] = -np.inf
    assert loss_of(task, x, batch)["loss"] == pytest.approx(
        -np.diagonal(log_softmax(logits)).mean(), rel=1e-4
    )


def test_triplets() -> None:
    records = make_split(**PAIRS, far=["la", "le", "li"])
    task, _, batch = embedded(records, objective="triplet", negative="far", label=None, margin=0.5)
    x = vectors(12)
    near = np.linalg.norm(x[0::3] - x[1::3], axis=1)[:3]
    far = np.linalg.norm(x[0::3] - x[2::3], axis=1)[:3]
    assert loss_of(task, x, batch)["loss"] == pytest.approx(np.maximum(near - far + 0.5, 0).mean(), rel=1e-4)
    assert jnp.isfinite(loss_of(task, np.ones((12, 5), np.float32) / 5**0.5, batch)["loss"])


def test_retrieval() -> None:
    records = make_split(text=["ban", "da", "ku"], pair=["go", "go", "ka"])
    task, examples, batch = embedded(records, objective="contrastive", label=None)
    x = np.zeros((8, 3), np.float32)
    x[[0, 1, 2, 3]] = [1, 0, 0]  # the first two find each other's, which is the same text
    x[4], x[5] = [0, 1, 0], [-0.6, 0.8, 0]
    predictions = task.predictions(examples, outcomes_of(task, x, batch), records)
    found = task.score(predictions, records)
    assert found["mrr@10"] == 1.0 and found["recall@1"] == pytest.approx((0.5 + 0.5 + 1) / 3)
    assert not any(name.startswith("_") for name in ("similarity",)) and predictions[0]["similarity"] == 1.0
