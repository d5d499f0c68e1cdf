"""The convolution of the first layer: against a loop, at the borders of texts, and in its place in the model."""

import jax
import numpy as np
import pytest

from bertjax.attention import Context
from bertjax.layers.config import Full
from bertjax.layers.convolution import Convolution
from bertjax.layers.mask import AttentionMask
from bertjax.layers.norm import Norm
from bertjax.models.block import Block
from tests.helpers import declared_parameters, make_batch, parameters, small

CONFIG = small(convolution=5, convolution_activation="tanh", layers=3)
BATCH = make_batch()
X = np.random.default_rng(3).normal(size=(2, 7, 24)).astype(np.float32)
BLOCK = parameters(CONFIG)["stack"]["group_0"]["layers_0"]["block_0"]
SEGMENTS = np.array([[1, 1, 1, 2, 2, 2, 2], [1, 2, 2, 2, 3, 0, 0]], np.int32)


def run(x: np.ndarray, mask: AttentionMask) -> np.ndarray:
    found = Convolution(CONFIG).apply({"params": BLOCK["convolution"]}, x, mask, train=False)
    return np.asarray(found)


@pytest.mark.parametrize("packed", [False, True])
def test_equals_a_loop(packed: bool) -> None:
    taps = {name: np.asarray(value) for name, value in BLOCK["convolution"]["taps"].items()}
    wanted = np.zeros_like(X)
    for row, i, t in np.ndindex(2, 7, 5):
        j = i + t - 2
        same = not packed or SEGMENTS[row, i] == SEGMENTS[row, max(0, min(j, 6))]
        if 0 <= j < 7 and BATCH.mask[row, j] and same:
            wanted[row, i] += X[row, j] @ taps["kernel"][t]
    mask = AttentionMask(valid=BATCH.mask, segments=SEGMENTS if packed else None)
    found = run(X, mask)[BATCH.mask]
    np.testing.assert_allclose(found, np.tanh(wanted + taps["bias"])[BATCH.mask], atol=1e-5)


def test_only_the_first_layer_has_it() -> None:
    declared = declared_parameters(CONFIG)["stack"]
    assert [repeats for _, repeats in CONFIG.layout] == [1, 2]
    assert {"convolution", "convolution_norm"} <= set(declared["group_0"]["layers_0"]["block_0"])
    assert not {"convolution", "convolution_norm"} & set(declared["group_1"]["layers_0"]["block_0"])


def test_joins_what_the_layer_made_of_the_same_input() -> None:
    mask = AttentionMask(valid=BATCH.mask)
    context = Context(mask=mask, positions=BATCH.positions)
    own = {name: value for name, value in BLOCK.items() if not name.startswith("convolution")}
    layer = Block(CONFIG, Full()).apply({"params": own}, X, context, {}, False)
    first = jax.jit(
        lambda: Block(CONFIG, Full(), first=True).apply({"params": BLOCK}, X, context, {}, False)
    )()
    wanted = Norm(CONFIG).apply({"params": BLOCK["convolution_norm"]}, layer + run(X, mask))
    np.testing.assert_allclose(first, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"convolution": 4},
        {"convolution": 3, "block": "pre"},
        {"convolution": 3, "direction": "left_to_right"},
    ],
)
def test_refuses_what_it_cannot_be(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"^model\.convolution="):
        small(**changes)
