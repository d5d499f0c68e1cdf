import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models.heads import MaskedLmHead, PooledHead
from bertjax.types import EncoderOutput
from tests.helpers import make_batch, small, unbox

CONFIG = small()
BATCH = make_batch()
WHERE = np.array([[1, 4, 6], [0, 2, 2]], np.int32)


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


OUTPUT = EncoderOutput(hidden=normal(2, 7, 24), pooled=normal(2, 24, seed=1))
TABLE = normal(56, 24, seed=2)


@pytest.fixture(scope="module")
def params():
    params = unbox(MaskedLmHead(CONFIG, "mlm").init(jax.random.key(0), OUTPUT, BATCH, TABLE)["params"])
    return jax.tree.map(
        lambda p: p + 0.1 * jnp.cos(jnp.arange(p.size, dtype=p.dtype)).reshape(p.shape), params
    )


def logits(params, batch=BATCH, table=TABLE):
    return np.asarray(MaskedLmHead(CONFIG, "mlm").apply({"params": params}, OUTPUT, batch, table))


def test_masked_lm_equals_numpy(params):

    x = OUTPUT.hidden @ np.asarray(params["transform"]["kernel"]) + np.asarray(params["transform"]["bias"])
    x = x * 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + CONFIG.norm_epsilon)
    x = x * np.asarray(params["norm"]["scale"]) + np.asarray(params["norm"]["bias"])
    expected = x @ TABLE.T + np.asarray(params["bias"])
    np.testing.assert_allclose(logits(params)[:, :, :53], expected[:, :, :53], atol=1e-4)


def test_rows_past_the_vocabulary_never_win(params):
    """Not even where the table's padded rows would have the largest products."""
    table = TABLE.copy()
    table[53:] = 100 * OUTPUT.hidden[0, 0]
    for hostile in (table, -table):
        y = logits(params, table=hostile)
        assert y.argmax(-1).max() < 53
        probabilities = np.asarray(jax.nn.softmax(y, -1))
        assert (probabilities[:, :, 53:] == 0).all()


def test_gathered_equals_the_full_logits_there(params):
    gathered = logits(params, BATCH.with_targets("mlm", positions=WHERE))
    everywhere = logits(params)
    assert gathered.shape == (2, 3, 56) and everywhere.shape == (2, 7, 56)
    np.testing.assert_allclose(gathered, np.take_along_axis(everywhere, WHERE[:, :, None], 1), atol=1e-5)


def test_head_may_have_a_matrix_of_its_own(params):
    """Of the width of the embedding, and then the embedding is not read."""
    config = small(tied=False, embedding_width=16)
    head = MaskedLmHead(config, "mlm")
    table = normal(56, 16, seed=5)
    own = unbox(head.init(jax.random.key(0), OUTPUT, BATCH, table)["params"])
    assert own["table"].shape == (56, 16) and own["transform"]["kernel"].shape == (24, 16)
    y = head.apply({"params": own}, OUTPUT, BATCH, table)
    np.testing.assert_array_equal(y, head.apply({"params": own}, OUTPUT, BATCH, 0 * table))
    tied = MaskedLmHead(small(embedding_width=16), "mlm")
    rest = {name: value for name, value in own.items() if name != "table"}
    np.testing.assert_allclose(y, tied.apply({"params": rest}, OUTPUT, BATCH, own["table"]), atol=1e-6)


def test_targets_of_another_task_are_not_mine(params):
    assert logits(params, BATCH.with_targets("other", positions=WHERE)).shape == (2, 7, 56)


def test_pooled_head_equals_numpy():
    head = PooledHead(CONFIG, classes=5)
    params = unbox(head.init(jax.random.key(0), OUTPUT, BATCH, TABLE)["params"])
    params["output"]["bias"] = normal(5, seed=4)
    y = head.apply({"params": params}, OUTPUT, BATCH, TABLE)
    expected = OUTPUT.pooled @ np.asarray(params["output"]["kernel"]) + params["output"]["bias"]
    assert y.dtype == jnp.float32 and y.shape == (2, 5)
    np.testing.assert_allclose(y, expected, atol=1e-5)
