"""Sentence order: labels against the corpus, and that they can be learned."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import Config, check
from bertjax.data.pairs import SegmentPair
from bertjax.data.singles import FullSentences
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.sop import Sop
from tests.tasks.learning import learn
from tests.tasks.rows import CORPUS, VOCABULARY, make_rows

pytestmark = pytest.mark.usefixtures("quick_compiles")

SWAPPED = SegmentPair(negatives="swapped")


def test_labels_say_in_which_order_the_corpus_has_the_parts():
    batch = make_rows(300, format=SWAPPED)
    text = CORPUS.read(0, CORPUS.tokens)
    separator = -1
    joined = np.concatenate([[separator], text, [separator]]).astype(">i4").tobytes()
    labels = batch.targets["pair"]["label"]
    for row in range(300):
        real = batch.tokens[row][batch.mask[row]]
        first, second = np.split(real[1:-1], np.flatnonzero(real[1:-1] == VOCABULARY.sep))
        second = second[1:]
        in_order, exchanged = (
            np.concatenate(parts).astype(">i4").tobytes() in joined
            for parts in ((first, second), (second, first))
        )
        assert (in_order, exchanged) == (labels[row] == 0, labels[row] == 1)
    assert 0.4 < labels.mean() < 0.6


def config(task, format):
    base = Config()
    return dataclasses.replace(base, tasks=(Mlm(), task), data=dataclasses.replace(base.data, format=format))


@pytest.mark.parametrize(
    "task, format",
    [(Sop(), SegmentPair()), (Sop(), FullSentences()), (Nsp(), SWAPPED), (Nsp(), FullSentences())],
)
def test_other_rows_are_refused(task, format):
    with pytest.raises(
        ValueError, match=f"task {task.name} needs pairs with negatives={task.negatives}"
    ) as error:
        check(config(task, format))
    assert "\n" not in str(error.value)


def test_pairs_with_such_labels_are_accepted():
    check(config(Sop(), SWAPPED))
    check(config(Nsp(), SegmentPair()))


def test_the_loss_counts_both_labels_and_no_empty_row():
    logits = np.array([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0], [9.0, 0.0]], np.float32)
    batch = make_rows(4, format=SWAPPED)
    mask = batch.mask.copy()
    mask[3] = False
    batch = batch.replace(mask=mask, targets={"pair": {"label": np.array([0, 1, 1, 1], np.int32)}})
    batch = jax.tree.map(jnp.asarray, batch)
    found = Sop().loss({"sop": logits}, batch)
    assert found["accuracy"] == (2.0, 3.0) and float(Sop().normaliser(batch)) == 3.0
    right, wrong = np.log1p(np.exp(-2.0)), np.log1p(np.exp(2.0))
    assert float(found["loss"][0]) == pytest.approx(2 * right + wrong, rel=1e-6)


def test_rows_of_one_order_can_be_told_apart():
    # Little tells the order of made-up sentences, so a handful of rows is learned by heart.
    history = learn((Sop(),), SWAPPED, steps=40, batches=1)
    assert history["sop_loss"][-5:].mean() < 0.5 * history["sop_loss"][:5].mean()
