"""Next-sentence prediction, and what several tasks are together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import tasks
from bertjax.tasks import Mlm, Nsp
from bertjax.types import Batch, Metrics

pytestmark = pytest.mark.usefixtures("quick_compiles")


def batch(labels: list[int], lengths: list[int]) -> Batch:
    """Rows of seven tokens with labels of pairs; a row of length 0 holds nothing."""
    mask = np.arange(7)[None, :] < np.array(lengths)[:, None]
    zeros, ids = np.zeros(mask.shape, np.int32), np.arange(len(labels), dtype=np.int32)
    targets = {"pair": {"label": np.array(labels, np.int32)}}
    rows = Batch(zeros, mask, zeros, zeros, None, targets, ids, np.zeros_like(ids))
    return jax.tree.map(jnp.asarray, rows)


def score(rows: Batch, logits: np.ndarray, weight: float = 1.0) -> tuple[float, Metrics, np.ndarray]:
    """Total loss, metrics, and the gradient of the logits."""
    task = Nsp(weight=weight)

    def loss(logits: jax.Array) -> tuple[jax.Array, Metrics]:
        return tasks.total_loss((task,), {"nsp": logits}, rows, tasks.normalisers((task,), rows))

    (total, values), gradient = jax.value_and_grad(loss, has_aux=True)(jnp.asarray(logits))
    return float(total), jax.device_get(values), np.asarray(gradient)


def test_empty_rows_have_no_weight() -> None:
    rows = batch([0, 1, 1, 0, 0], [7, 3, 5, 0, 0])
    logits = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    total, values, gradient = score(rows, logits)
    costs = np.log(np.exp(logits).sum(1)) - logits[np.arange(5), [0, 1, 1, 0, 0]]
    right = logits.argmax(1) == [0, 1, 1, 0, 0]
    np.testing.assert_allclose(total, costs[:3].mean(), rtol=1e-5)
    np.testing.assert_allclose(values["nsp_loss"], (costs[:3].sum(), 3), rtol=1e-5)
    np.testing.assert_allclose(values["nsp_accuracy"], (right[:3].sum(), 3))
    np.testing.assert_array_equal(np.abs(gradient).sum(1) > 0, [True, True, True, False, False])


def test_a_batch_of_empty_rows_is_no_nan() -> None:
    total, values, gradient = score(batch([0, 0], [0, 0]), np.ones((2, 2), np.float32))
    assert total == 0.0 and not gradient.any() and values["nsp_loss"] == (0.0, 0.0)


def test_zero_is_follows_and_one_is_random() -> None:
    """A model that is sure of class 0 is right about label 0, in the order of BERT's own head."""
    sure = np.array([[9.0, -9.0], [9.0, -9.0]], np.float32)
    _, values, gradient = score(batch([0, 1], [7, 7]), sure)
    assert values["nsp_accuracy"] == (1.0, 2.0)
    assert np.abs(gradient[0]).max() < 1e-6 < gradient[1, 0]


def test_weights_scale_a_task_and_losses_add_up() -> None:
    rows = batch([0, 1], [7, 7])
    logits = np.random.default_rng(1).normal(size=(2, 2)).astype(np.float32)
    np.testing.assert_allclose(score(rows, logits, 0.25)[0], 0.25 * score(rows, logits)[0], rtol=1e-6)
    both = (Mlm(weight=2.0), Nsp(weight=0.5))
    values = {"mlm_loss": 3.0, "nsp_loss": 0.6, "mlm_accuracy": 0.1}
    assert tasks.summarise(both, values) == {"loss": 2.0 * 3.0 + 0.5 * 0.6, **values}
    assert tasks.summarise(both, {"nsp_loss": 0.6})["loss"] == 0.3
