"""Causal language modelling in both directions, against plain loops."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import tasks
from bertjax.config import Config, check
from bertjax.data.packing import BestFit
from bertjax.data.singles import FullSentences
from bertjax.tasks.clm import Clm
from bertjax.tasks.mlm import Mlm
from tests.cases import slow_but
from tests.helpers import make_batch, pack, small
from tests.tasks.learning import learn
from tests.tasks.rows import forward, random_parameters

pytestmark = pytest.mark.usefixtures("quick_compiles")

DIRECTIONS = ["left_to_right", "right_to_left"]


def outputs(direction, batch):
    """Network outputs with random parameters."""
    network = tasks.make_network((Clm(),), small(direction=direction))
    return forward(network, random_parameters(network, batch), batch)


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("packed", [False, True], ids=["padded", "packed"])
def test_every_token_but_the_first_one_read_is_predicted(direction, packed):
    batch = make_batch((7, 5, 1, 0), length=7)
    if packed:
        batch = pack(make_batch((4, 1, 3)), 10)
    result = outputs(direction, batch)
    batch, result = jax.tree.map(jnp.asarray, (batch, result))
    logits = np.asarray(result["clm"]["logits"], np.float64)
    total = right = number = 0.0
    step = 1 if direction == "left_to_right" else -1
    for row, position in np.argwhere(batch.mask):
        other = position + step
        inside = 0 <= other < batch.mask.shape[1] and batch.mask[row, other]
        if inside and batch.segments[row, other] == batch.segments[row, position]:
            scores, label = logits[row, position], batch.tokens[row, other]
            total += np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label]
            right += scores.argmax() == label
            number += 1
    found = Clm().loss(result, batch)
    assert float(Clm().normaliser(batch)) == number == float(found["loss"][1])
    assert float(found["loss"][0]) == pytest.approx(total, rel=1e-5)
    assert float(found["accuracy"][0]) == right


def config(*chosen, direction):
    base = Config()
    data = dataclasses.replace(base.data, format=FullSentences())
    model = dataclasses.replace(base.model, direction=direction)
    return dataclasses.replace(base, tasks=chosen, data=data, model=model)


def test_an_encoder_that_sees_everything_is_refused():
    with pytest.raises(ValueError, match="set model.direction=left_to_right") as error:
        check(config(Clm(), direction="both"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("chosen", [(Clm(), Mlm()), (Mlm(), Clm())])
def test_hidden_tokens_are_refused(chosen):
    with pytest.raises(ValueError, match=re.escape("mlm hides some in the same pass")) as error:
        check(config(*chosen, direction="left_to_right"))
    assert "\n" not in str(error.value)
    check(config(Clm(), direction="left_to_right"))


@pytest.mark.parametrize("direction", slow_but(DIRECTIONS, ("left_to_right",)))
def test_the_loss_falls(direction):
    history = learn((Clm(),), BestFit(), steps=60, direction=direction)
    loss = history["clm_loss"]
    assert loss[0] == pytest.approx(np.log(256), abs=0.3)
    assert loss[-5:].mean() < loss[0] - 0.7
    # Half of the made-up tokens follow from the one before; from the one after as well, for it has one predecessor.
    assert history["clm_accuracy"][-5:].mean() > 3 * history["clm_accuracy"][0]
