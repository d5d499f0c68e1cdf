"""R-Drop and the divergence that it shares with SiFT, for every task that gives scores, against the formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from records import loss_of, make_split, whole_batch

from bertjax.data.labelled import made_up
from bertjax.tasks.answer import Answer
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.regress import Regress
from bertjax.tasks.scored import ScoredTask, distance
from bertjax.tasks.tag import Tag

TOKENIZER = made_up.tokenizer()
RANDOM = np.random.default_rng(0)
CLASSES = make_split(text=["ban da", "fa fe fi", "go"], label=["x", "y", None])
SEVERAL = make_split(text=["ban da", "fa fe fi", "go"], label=[["x", "y"], [], ["y"]])
NUMBERS = make_split(text=["ban da", "fa fe fi", "go"], label=[1.0, 2.5, None])
WORDS = make_split(words=[["korda", "ban"], ["da"]], tags=[["B-X", "O"], ["O"]])
QUESTIONS = make_split(
    question=["where is"] * 2, context=["ban near da", "go"], answers=[["near"], []], starts=[[4], []]
)
CHOICES = make_split(text=["ban", "da"], choices=[["fa", "fe", "fi"], ["go", "gu"]], label=[1, 0])
KINDS: dict[str, tuple[ScoredTask, Any]] = {
    "classify": (Classify(r_drop=2.0), CLASSES),
    "several": (Classify(r_drop=2.0, problem="multi"), SEVERAL),
    "regress": (Regress(r_drop=2.0), NUMBERS),
    "tag": (Tag(r_drop=2.0), WORDS),
    "answer": (Answer(r_drop=2.0, stride=2), QUESTIONS),
    "choose": (Choose(r_drop=2.0), CHOICES),
}
SHAPES = {
    "classify": (2,),
    "several": (2,),
    "regress": (1,),
    "tag": (16, 3),
    "answer": (16, 2),
    "choose": (1,),
}


def apart(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """(KL(p, q) + KL(q, p)) / 2 of two arrays of logits."""
    p, q = (x - x.max(-1, keepdims=True) for x in (p, q))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (p, q))
    return ((np.exp(p) * (p - q)).sum(-1) + (np.exp(q) * (q - p)).sum(-1)) / 2


def by_hand(name: str, batch: Any, p: np.ndarray, q: np.ndarray) -> float:
    """The divergence of two passes, its mean over what counts."""
    (target,) = batch.targets.values()
    weight = target["weight"]
    match name:
        case "classify" | "tag":
            return float((apart(p, q) * weight).sum() / weight.sum())
        case "several":
            flat = [np.stack([np.zeros_like(x), x], axis=-1) for x in (p, q)]
            return float((apart(*flat).mean(-1) * weight).sum() / weight.sum())
        case "regress":
            return float(((p - q)[:, 0] ** 2 * weight).sum() / weight.sum())
        case "choose":
            rows = [np.where(target["offered"], x.reshape(-1, 3), -1e9) for x in (p, q)]
            return float((apart(*rows) * weight).sum() / weight.sum())
    total = 0.0
    for row, real in enumerate(batch.mask):
        if weight[row]:
            total += sum(apart(p[row, real, end], q[row, real, end]) for end in (0, 1)) / 2
    return total / float(weight.sum())


@pytest.mark.parametrize("name", KINDS)
def test_two_passes(name: str) -> None:
    options, records = KINDS[name]
    task = options.resolve(records)
    assert isinstance(task, ScoredTask)
    batch = whole_batch(task, task.examples(records, TOKENIZER, 16), 16)
    rows, group = len(batch.tokens), task.group
    twice = task.corrupt(batch, jax.random.key(0), TOKENIZER.vocabulary, jnp.zeros((), jnp.int32))
    assert twice.tokens.shape == (2 * rows, 16)
    again = np.asarray(twice.tokens).reshape(-1, 2, group, 16)
    for number in range(2):
        np.testing.assert_array_equal(again[:, number].reshape(rows, 16), batch.tokens)
    scores = RANDOM.normal(size=(2 * rows, *SHAPES[name])).astype(np.float32)
    halves = scores.reshape(-1, 2, group, *SHAPES[name])
    first, second = (halves[:, number].reshape(rows, *SHAPES[name]) for number in range(2))
    alone = [loss_of(task, one, batch) for one in (first, second)]
    found, wanted = loss_of(task, scores, twice), by_hand(name, batch, first, second)
    assert wanted > 0.01 and found["divergence"] == pytest.approx(wanted, rel=1e-4)
    mean = (alone[0]["loss"] + alone[1]["loss"]) / 2
    assert found["loss"] == pytest.approx(mean + 2.0 * wanted, rel=1e-4)
    assert "divergence" not in alone[0], "one pass is read as one"

    counts = {task.name: jnp.float32(3.0)}
    compiled = jax.jit(lambda p, q, batch: distance((task,), {task.name: p}, {task.name: q}, batch, counts))
    total, metrics = compiled(first, second, batch)
    value, weight = metrics[f"{task.name}_noise_divergence"]
    assert float(value / weight) == pytest.approx(wanted, rel=1e-4)
    assert float(total) == pytest.approx(float(value) / 3.0, rel=1e-6)


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="tasks.tag.r_drop=0.0 must be above 0, or none for one pass"):
        Tag(r_drop=0.0)
