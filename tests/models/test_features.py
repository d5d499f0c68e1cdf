"""What heads read of an encoder: chosen layers, joined as the formulas say, and the refusals."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from helpers import assert_close, make_batch, parameters, small

from bertjax.data.formats import FORMATS
from bertjax.models import task_heads
from bertjax.models.features import FEATURES, FeatureReader, Features
from bertjax.models.network import Network
from bertjax.tasks.classify import Classify
from bertjax.tasks.tag import Tag
from bertjax.types import EncoderOutput

CONFIG = small(layers=5)
RANDOM = np.random.default_rng(0)
STATES = RANDOM.normal(size=(6, 2, 7, 24)).astype(np.float32)
OUTPUT = EncoderOutput(hidden=2 * STATES[5], pooled=STATES[5, :, 0], states=STATES)  # as behind a final norm
MASK = make_batch().mask


def read(options: Features, **params: Any) -> np.ndarray:
    return np.asarray(FeatureReader(CONFIG, options).apply({"params": params}, OUTPUT, MASK))


def test_chosen_layers() -> None:
    assert_close(read(FEATURES["embeddings"]), STATES[0])
    assert_close(read(FEATURES["second_to_last"]), STATES[4])
    assert_close(read(FEATURES["last"]), OUTPUT.hidden)
    wanted = np.concatenate([STATES[2], STATES[3], STATES[4], OUTPUT.hidden], axis=-1)
    assert_close(read(FEATURES["concat_last_four"]), wanted)
    weights, scale = np.array([0.3, -1.0, 0.0, 2.0], np.float32), np.array([1.5], np.float32)
    shares = np.exp(weights) / np.exp(weights).sum()
    layers = [STATES[2], STATES[3], STATES[4], OUTPUT.hidden]
    wanted = 1.5 * sum(share * layer for share, layer in zip(shares, layers, strict=True))
    assert_close(read(FEATURES["sum_last_four"], weights=weights, scale=scale), wanted)
    assert FEATURES["sum_all"].numbers(5) == (1, 2, 3, 4, 5)
    assert Features((0, -5, 5)).numbers(5) == (0, 1, 5)


def test_a_bilstm_reads_them() -> None:
    options = Features((-1, -2), "concat", lstm=2, lstm_width=3)
    shapes = jax.eval_shape(FeatureReader(CONFIG, options).init, jax.random.key(0), OUTPUT, MASK)
    shapes = meta.unbox(shapes["params"]["lstm"])
    assert shapes["forward_0"]["input"]["kernel"].shape == (48, 12)
    assert shapes["backward_1"]["input"]["kernel"].shape == (6, 12)


@pytest.mark.parametrize("scan", [False, True])
def test_a_network_keeps_the_states_that_its_head_reads(scan: bool) -> None:
    config, batch = small(scan=scan), make_batch()
    plain = {"tag": task_heads.Tag(classes=3).module(config)}
    reads = {"tag": task_heads.Tag(classes=3, features=Features((1,))).module(config)}
    head = {"output": {"kernel": RANDOM.normal(size=(24, 3)), "bias": np.zeros(3)}}
    params = {"encoder": parameters(config), "heads_tag": jax.tree.map(jnp.float32, head)}

    def run(heads: Any, **options: Any) -> Any:
        network = Network(config, heads, **options)
        return jax.jit(lambda p: network.apply({"params": p}, batch, train=False))(params)

    found, known = run(reads), run(plain, keep_states=True)
    assert found["encoder"].states is None, "nobody has asked for them"
    assert_close(
        found["tag"], np.asarray(known["encoder"].states[1]) @ params["heads_tag"]["output"]["kernel"], 1e-4
    )
    assert not np.allclose(found["tag"], known["tag"], atol=1e-2)


REFUSED = [
    (lambda: Features((6,)).numbers(5), "features.layers has 6 of model.layers=5"),
    (lambda: Features(lstm=0), "features.lstm=0 must be at least 1"),
    (lambda: Classify(features=Features((0,))), "tasks.classify.pooling=pooled is made of the last layer"),
    (lambda: task_heads.Choose(features=Features()), "heads.choose.pooling=pooled is made of the last layer"),
    (
        lambda: Tag(features=Features((-9,))).check(small(), FORMATS["padded"], ()),
        "features.layers has -9 of model.layers=2",
    ),
]


@pytest.mark.parametrize("make, message", REFUSED)
def test_what_cannot_be_read(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)


def test_made_up_records_keep_the_features() -> None:
    task = Tag(features=dataclasses.replace(FEATURES["sum_last_four"], lstm=2)).on_made_up_records()
    assert isinstance(task, Tag) and task.features == Features((-2, -1), lstm=2, lstm_width=16)
