import jax
import numpy as np
import optax

from bertjax.models.stacking import stack_layers, unstack_layers
from tests.helpers import assert_close, parameters, small


def test_round_trip_and_equal_initial_structure():
    unrolled = parameters(small(layers=3))
    stacked = stack_layers(unrolled)
    assert_close(unstack_layers(stacked), unrolled, 0)
    scanned = parameters(small(layers=3, scan=True))
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, scanned)


def test_layers_keep_their_order_past_ten():
    tree = {f"layers_{i}": {"x": np.full(2, i)} for i in range(12)}
    np.testing.assert_array_equal(stack_layers(tree)["layers"]["x"][:, 0], np.arange(12))


def test_reaches_into_an_optimizer_state():
    """The momentum of a stacked model is the stacked momentum."""
    unrolled = parameters(small(layers=3))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1e-3, momentum=0.9))

    def state_after_a_step(params):
        return optimizer.update(jax.tree.map(np.cos, params), optimizer.init(params), params)[1]

    state, expected = state_after_a_step(unrolled), state_after_a_step(stack_layers(unrolled))
    assert_close(stack_layers(state), expected, 1e-6)
    assert_close(unstack_layers(stack_layers(state)), state, 0)
