"""The span boundary objective: boundaries against plain loops, and what a prediction may read."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import tasks
from bertjax.config import Config, check
from bertjax.tasks.masking import Span, Subword
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.sbo import Sbo, boundaries
from bertjax.types import EncoderOutput
from tests.helpers import small
from tests.tasks.learning import learn
from tests.tasks.rows import PAIRS, VOCAB, chosen_positions, corrupt, make_rows, real_text

pytestmark = pytest.mark.usefixtures("quick_compiles")

TEXT = make_rows(200, length=64)


@pytest.mark.parametrize("masking", [Span(), Subword()], ids=["span", "subword"])
def test_boundaries_are_the_visible_tokens_beside_a_run(masking):
    batch = corrupt(Mlm(rate=0.3, masking=masking), TEXT)
    target, hidden = batch.targets["mlm"], chosen_positions(batch)
    left, right, place = map(np.asarray, jax.jit(boundaries)(batch))
    longest = 0
    for row, slot in np.argwhere(target["weights"] > 0):
        position = start = stop = target["positions"][row, slot]
        while hidden[row, start]:
            start -= 1
        while hidden[row, stop]:
            stop += 1
        assert (left[row, slot], right[row, slot], place[row, slot]) == (start, stop, position - start - 1)
        longest = max(longest, stop - start - 1)
    assert longest >= 4


def test_with_spans_a_word_of_the_text_stands_at_each_boundary():
    batch = corrupt(Mlm(masking=Span()), TEXT)
    used = batch.targets["mlm"]["weights"] > 0
    rows = np.nonzero(used)[0]
    for side in map(np.asarray, jax.jit(boundaries)(batch)[:2]):
        there = side[used]
        assert not chosen_positions(batch)[rows, there].any()
        assert (batch.tokens == TEXT.tokens)[rows, there].all()
        assert real_text(TEXT)[rows, there].mean() > 0.8


def test_a_prediction_reads_its_boundaries_and_its_place_alone():
    model = small(vocab=VOCAB)
    batch = corrupt(Mlm(masking=Span()), make_rows(2, length=32))
    head = Sbo().heads(model)["sbo"]
    random = np.random.default_rng(0)
    hidden = random.normal(size=(2, 32, 24)).astype(np.float32)
    table = random.normal(size=(model.rows, 24)).astype(np.float32)

    def run(params, hidden):
        return head.apply(params, EncoderOutput(hidden=hidden, pooled=hidden[:, 0]), batch, table)

    output = EncoderOutput(hidden=hidden, pooled=hidden[:, 0])
    params = jax.tree.map(
        lambda box: random.normal(size=box.value.shape).astype(np.float32),
        jax.eval_shape(head.init, jax.random.key(0), output, batch, table),
        is_leaf=lambda x: hasattr(x, "names"),
    )
    slopes = jax.jit(jax.jacrev(lambda hidden: run(params, hidden).sum(-1)))(jnp.asarray(hidden))
    slopes = np.abs(np.asarray(slopes)).max(-1)  # [B S B L]
    left, right, place = map(np.asarray, boundaries(batch))
    used = np.argwhere(batch.targets["mlm"]["weights"] > 0)
    assert len(used) > 5
    for row, slot in used:
        assert set(np.argwhere(slopes[row, slot] > 1e-6)[:, 1]) == {left[row, slot], right[row, slot]}
    logits = np.asarray(jax.jit(run)(params, hidden))
    assert logits.shape == (2, batch.targets["mlm"]["positions"].shape[1], model.rows)
    longest = int(place.max())
    assert longest > 0
    rows = params["params"]["positions"]
    moved = {"params": {**params["params"], "positions": np.roll(rows, 1, axis=0)}}
    assert np.abs(np.asarray(jax.jit(run)(moved, hidden)) - logits).max() > 0.1


def test_long_runs_share_the_last_place():
    model = small(vocab=VOCAB)
    head = Sbo(positions=1).heads(model)["sbo"]
    batch = corrupt(Mlm(masking=Span()), make_rows(2, length=32))
    output = EncoderOutput(hidden=np.ones((2, 32, 24), np.float32), pooled=np.ones((2, 24), np.float32))
    table = np.ones((model.rows, 24), np.float32)
    logits = jax.jit(lambda key: head.init_with_output(key, output, batch, table)[0])(jax.random.key(0))
    assert np.isfinite(logits).all()


def test_there_must_be_hidden_tokens():
    with pytest.raises(ValueError, match="set tasks=mlm,sbo") as error:
        check(dataclasses.replace(Config(), tasks=(Sbo(), Nsp())))
    assert "\n" not in str(error.value)
    check(dataclasses.replace(Config(), tasks=(Sbo(), Mlm())))
    with pytest.raises(ValueError, match="tasks.sbo.positions=0"):
        Sbo(positions=0)


def test_the_loss_falls_and_counts_what_is_hidden():
    chosen = (Sbo(weight=2.0), Mlm(masking=Span()))
    history = learn(chosen, PAIRS, steps=40, batches=1)
    assert history["sbo_loss"][-3:].mean() < 0.7 * history["sbo_loss"][0]
    np.testing.assert_allclose(history["loss"], 2 * history["sbo_loss"] + history["mlm_loss"], rtol=1e-5)
    model = Config().model
    both = tasks.flops_per_token(chosen, model, attended=64.0)
    alone = tasks.flops_per_token(chosen[1:], model, attended=64.0)
    assert both - alone == pytest.approx(0.15 * 6 * model.width * (model.rows + model.width))
