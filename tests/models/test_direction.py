"""Encoders of one direction: who can influence whom, and where results stand."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.layers.mask import AttentionMask
from bertjax.models.encoder import Encoder
from tests.helpers import assert_close, encode, make_batch, pack, parameters, small

pytestmark = pytest.mark.usefixtures("quick_compiles")

LEFT, RIGHT = (small(direction=name) for name in ("left_to_right", "right_to_left"))
PARAMS = parameters(LEFT)  # the same for every direction


def influence(config, batch):
    """[L L] for the first row: whether the hidden state at i depends on the token at j."""

    def hidden(table):
        output = Encoder(config).apply(
            {"params": {**PARAMS, "embedder": {**PARAMS["embedder"], "tokens": table}}}, batch, train=False
        )
        return output.hidden[0].sum(1)

    table = jnp.asarray(PARAMS["embedder"]["tokens"])
    gradient = jax.jit(jax.jacrev(hidden))(table)  # [L, vocabulary, D]
    return np.abs(np.asarray(gradient)).max(2)[:, np.asarray(batch.tokens[0])] > 1e-7


def test_a_token_sees_itself_and_what_was_read_before():
    batch = make_batch((7, 5))
    batch = batch.replace(tokens=np.arange(14, dtype=np.int32).reshape(2, 7) + 1)
    ahead = np.tril(np.ones((7, 7), bool))
    assert (influence(LEFT, batch) == ahead).all()
    assert (influence(RIGHT, batch) == ahead.T).all()
    assert influence(small(), batch).all()


def test_packed_sequences_are_read_each_on_its_own():
    batch = pack(make_batch((4, 3)), 9)
    batch = batch.replace(tokens=np.arange(9, dtype=np.int32)[None] + 1)
    first, second = np.tril(np.ones((4, 4), bool)), np.tril(np.ones((3, 3), bool))
    for config, turn in ((LEFT, lambda x: x), (RIGHT, np.transpose)):
        found = influence(config, batch)
        assert (found[:4, :4] == turn(first)).all() and (found[4:7, 4:7] == turn(second)).all()
        assert not found[:4, 4:].any() and not found[4:7, :4].any()


def test_reading_from_the_right_is_reading_turned_text_from_the_left():
    batch = make_batch((7, 5))
    order = np.array([[6, 5, 4, 3, 2, 1, 0], [4, 3, 2, 1, 0, 5, 6]])
    turn = functools.partial(np.take_along_axis, indices=order, axis=1)
    there = encode(LEFT)(PARAMS, batch.replace(tokens=turn(batch.tokens), types=turn(batch.types)))
    here = encode(RIGHT)(PARAMS, batch)
    back = np.take_along_axis(np.asarray(there.hidden), order[:, :, None], axis=1)
    real = batch.mask[:, :, None]
    assert_close(np.where(real, here.hidden, 0), np.where(real, back, 0))
    assert_close(here.pooled, there.pooled)


def test_states_stand_with_their_tokens():
    batch = make_batch((7, 5))
    output = Encoder(RIGHT, keep_states=True).apply({"params": PARAMS}, batch, train=False)
    assert output.states.shape[0] == RIGHT.layers + 1
    assert_close(output.states[-1], output.hidden)


@pytest.mark.parametrize("config", [LEFT, RIGHT], ids=["left_to_right", "right_to_left"])
def test_the_pooled_token_has_seen_everything(config):
    batch = make_batch((7, 5))
    pooled = encode(config)(PARAMS, batch).pooled
    for position in range(5):
        tokens = batch.tokens.copy()
        tokens[:, position] = tokens[:, position] % 51 + 1
        moved = encode(config)(PARAMS, batch.replace(tokens=tokens)).pooled
        assert (np.abs(np.asarray(moved - pooled)).max(1) > 1e-4).all()


def test_turning_is_its_own_inverse_and_leaves_padding_alone():
    batch = pack(make_batch((4, 1, 3)), 10)
    order = np.asarray(AttentionMask(batch.mask, batch.segments).backwards(10, 1))
    assert order.tolist() == [[3, 2, 1, 0, 4, 7, 6, 5, 8, 9]]
    unpacked = AttentionMask(np.array([[True, True, True, False], [False] * 4]))
    assert np.asarray(unpacked.backwards(4, 2)).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3]]
