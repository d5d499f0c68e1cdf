"""Masked language modelling: how many tokens, which, what becomes of them, and what they are worth."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import metrics, tasks
from bertjax.data.corpus import Vocabulary
from bertjax.tasks import Mlm
from bertjax.types import Batch

pytestmark = pytest.mark.usefixtures("quick_compiles")

LENGTH, SIZE, ROWS = 40, 53, 300
# Specials stand at both ends and in the middle, and 0 is an ordinary word.
SPECIAL = np.isin(np.arange(SIZE), (3, 4, 5, 30, SIZE - 1))
WORDS = Vocabulary(
    size=SIZE, pad=3, unk=4, cls=5, sep=30, mask=SIZE - 1, starts_word=np.ones(SIZE, bool), special=SPECIAL
)


def rows(number: int = ROWS, *, seed: int = 0, lengths: Any = None, epoch: int = 0) -> Batch:
    """[CLS] words [SEP] padding, of any length from nothing at all; the words hold every ordinary token."""
    random = np.random.default_rng(seed)
    lengths = random.integers(0, LENGTH + 1, number) if lengths is None else np.asarray(lengths)
    tokens = random.choice(np.flatnonzero(~SPECIAL), (number, LENGTH)).astype(np.int32)
    mask = np.arange(LENGTH)[None, :] < lengths[:, None]
    tokens[:, 0] = WORDS.cls
    tokens[np.arange(number), np.maximum(lengths - 1, 0)] = WORDS.sep
    return Batch(
        tokens=np.where(mask, tokens, WORDS.pad),
        mask=mask,
        types=np.zeros_like(tokens),
        positions=np.where(mask, np.arange(LENGTH, dtype=np.int32)[None, :], 0),
        segments=None,
        targets={},
        example_id=np.arange(number, dtype=np.int32),
        epoch=np.full(number, epoch, np.int32),
    )


@functools.cache
def compiled(task: Mlm) -> Any:
    return jax.jit(lambda batch, seed: tasks.corrupt((task,), batch, WORDS, seed), static_argnums=1)


def corrupt(task: Mlm, batch: Batch, seed: int = 0) -> Batch:
    return jax.device_get(compiled(task)(batch, seed))


def chosen(batch: Batch) -> np.ndarray:
    """Bool [B L]: which positions are predicted."""
    where = np.zeros(batch.mask.shape, bool)
    target = batch.targets["mlm"]
    for row, (positions, weights) in enumerate(zip(target["positions"], target["weights"], strict=True)):
        used = positions[weights > 0]
        assert len(set(used)) == len(used)
        where[row, used] = True
    return where


@pytest.mark.parametrize("rate", [0.15, 0.4, 1.0])
def test_the_number_of_predictions_of_a_row(rate: float) -> None:
    batch = rows()
    share = [max(1, round(rate * int(real))) for real in batch.mask.sum(1)]
    want = np.minimum(share, (batch.mask & ~SPECIAL[batch.tokens]).sum(1))
    np.testing.assert_array_equal(chosen(corrupt(Mlm(rate=rate), batch)).sum(1), want)
    assert {0, 1} <= set(want.tolist())


def test_special_tokens_and_padding_are_neither_chosen_nor_changed() -> None:
    batch = rows(seed=1)
    after = corrupt(Mlm(), batch)
    forbidden = ~batch.mask | SPECIAL[batch.tokens]
    assert not (chosen(after) & forbidden).any()
    np.testing.assert_array_equal(after.tokens[~chosen(after)], batch.tokens[~chosen(after)])
    assert chosen(after).any()


def test_labels_are_the_words_that_stood_there() -> None:
    batch = rows(seed=2)
    target = corrupt(Mlm(), batch).targets["mlm"]
    want = np.take_along_axis(batch.tokens, target["positions"], 1)
    used = target["weights"] > 0
    np.testing.assert_array_equal(target["labels"][used], want[used])
    assert (target["labels"][used] == 0).any()


@pytest.mark.parametrize("shares", [(0.8, 0.1), (0.5, 0.0), (0.2, 0.7)])
def test_shares_of_masked_random_and_kept_tokens(shares: tuple[float, float]) -> None:
    """Over more than 1e5 predictions, within five standard deviations of the binomial."""
    batch = rows(7000, seed=3, lengths=np.full(7000, LENGTH))
    after = corrupt(Mlm(rate=0.5, mask=shares[0], random=shares[1]), batch)
    where = chosen(after)
    old, new = batch.tokens[where], after.tokens[where]
    assert len(old) > 1e5
    ordinary = (~SPECIAL).sum()
    masked, changed = new == WORDS.mask, (new != WORDS.mask) & (new != old)
    for found, share in ((masked, shares[0]), (changed, shares[1] * (1 - 1 / ordinary))):
        assert abs(found.mean() - share) <= 5 * np.sqrt(share * (1 - share) / len(old))
    # Random words are all ordinary ones, each as often as the others.
    counts = np.bincount(new[changed], minlength=SIZE)
    assert not counts[SPECIAL].any()
    if shares[1]:
        mean = counts.sum() / ordinary
        assert np.abs(counts[~SPECIAL] - mean).max() <= 6 * np.sqrt(mean)


def test_every_position_is_chosen_equally_often() -> None:
    where = chosen(corrupt(Mlm(rate=0.25), rows(4000, seed=4, lengths=np.full(4000, LENGTH))))
    share = where[:, 1:-1].mean(0)
    want = where.sum() / (4000 * (LENGTH - 2))
    assert np.abs(share - want).max() <= 5 * np.sqrt(want * (1 - want) / 4000)


def test_a_row_is_corrupted_alike_wherever_it_stands() -> None:
    batch = rows(seed=5)
    order = np.random.default_rng(0).permutation(ROWS)
    left = corrupt(Mlm(), batch)
    for where in (order, order[:7]):
        right = corrupt(Mlm(), jax.tree.map(lambda x, where=where: x[where], batch))
        jax.tree.map(lambda x, y, where=where: np.testing.assert_array_equal(x[where], y), left, right)


def test_epoch_example_and_seed_each_change_what_is_hidden() -> None:
    batch = rows(seed=6, lengths=np.full(ROWS, LENGTH))
    first = chosen(corrupt(Mlm(), batch))
    np.testing.assert_array_equal(first, chosen(corrupt(Mlm(), batch)))
    for other in (
        corrupt(Mlm(), batch.replace(epoch=batch.epoch + 1)),
        corrupt(Mlm(), batch.replace(example_id=batch.example_id + 1000)),
        corrupt(Mlm(), batch, seed=1),
    ):
        assert (chosen(other) != first).any(1).mean() > 0.9
    # One row under two epochs is no other row: (epoch 1, example 2) and (epoch 2, example 1) differ.
    twins = jax.tree.map(lambda x: np.repeat(x[:1], ROWS, 0), batch)
    number = np.arange(ROWS, dtype=np.int32)
    left = corrupt(Mlm(), twins.replace(example_id=number, epoch=number[::-1].copy()))
    right = corrupt(Mlm(), twins.replace(example_id=number[::-1].copy(), epoch=number))
    assert (chosen(left) != chosen(right)).any(1).mean() > 0.9


def score(batch: Batch, logits: np.ndarray, task: Mlm) -> tuple[float, dict[str, Any], np.ndarray]:
    """Total loss, metrics, and the gradient of the logits."""
    batch = jax.tree.map(jnp.asarray, batch)

    def loss(logits: Any) -> Any:
        return tasks.total_loss((task,), {"mlm": logits}, batch, tasks.normalisers((task,), batch))

    (total, values), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits))
    return float(total), jax.device_get(values), np.asarray(gradient)


def test_loss_and_accuracy_against_numpy_and_label_zero_counts() -> None:
    task = Mlm(weight=2.0)
    batch = corrupt(task, rows(20, seed=7))
    target = batch.targets["mlm"]
    logits = np.random.default_rng(1).normal(size=(*target["labels"].shape, SIZE)).astype(np.float32)
    used = np.argwhere(target["weights"] > 0)
    words = [target["labels"][tuple(place)] for place in used]
    assert 0 in words
    costs, right = [], []
    for place, word in zip(used, words, strict=True):
        row = logits[tuple(place)].astype(np.float64)
        costs.append(np.log(np.exp(row).sum()) - row[word])
        right.append(row.argmax() == word)
    total, values, gradient = score(batch, logits, task)
    np.testing.assert_allclose(total, 2.0 * np.mean(costs), rtol=1e-5)
    np.testing.assert_allclose(values["mlm_loss"], (np.sum(costs), len(costs)), rtol=1e-5)
    np.testing.assert_allclose(values["mlm_accuracy"], (np.sum(right), len(costs)))
    np.testing.assert_array_equal(np.abs(gradient).sum(-1) > 0, target["weights"] > 0)


@pytest.mark.parametrize("lengths", [(0, 0), (2, 2), (0, 9)], ids=["empty", "only specials", "one empty row"])
def test_nothing_to_predict_is_no_nan(lengths: tuple[int, int]) -> None:
    task = Mlm()
    batch = corrupt(task, rows(2, seed=8, lengths=lengths))
    shape = batch.targets["mlm"]["labels"].shape
    total, values, gradient = score(batch, np.ones((*shape, SIZE), np.float32), task)
    count = chosen(batch).sum()
    np.testing.assert_allclose(total, np.log(SIZE) if count else 0.0, rtol=1e-5)
    assert np.isfinite(gradient).all() and values["mlm_loss"][1] == count
    assert ("mlm_loss" in metrics.means(values)) == bool(count)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rate": 0.0}, "tasks.mlm.rate=0.0 must be above 0 and at most 1; BERT has 0.15"),
        ({"rate": 1.5}, "tasks.mlm.rate=1.5"),
        (
            {"mask": 0.8, "random": 0.3},
            "tasks.mlm.mask=0.8 and tasks.mlm.random=0.3 must add up to at most 1",
        ),
        ({"mask": -0.1}, "tasks.mlm.mask=-0.1"),
    ],
)
def test_shares_that_are_none_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Mlm(**options)
