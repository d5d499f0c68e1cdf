"""FNet's layers equal those of `transformers` with the same weights, for rows without padding.

Padding is where the two differ on purpose: theirs transforms it with the rest.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.base import Context
from bertjax.attention.fourier import Fourier
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.models.block import Block
from tests.parity.weights import array, shake


@pytest.mark.parity
@pytest.mark.parametrize("method", ["fft", "matrix"])
def test_layer(method: str) -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.fnet.modeling_fnet")
    width, inner, length = 24, 40, 13
    sizes = dict(hidden_size=width, intermediate_size=inner, hidden_dropout_prob=0.0)
    theirs = shake(modeling.FNetLayer(modeling.FNetConfig(**sizes)))
    x = np.random.default_rng(0).standard_normal((2, length, width)).astype(np.float32)
    with torch.no_grad():
        found = theirs(torch.tensor(x))[0]

    dense = lambda part: {"kernel": array(part.weight).T, "bias": array(part.bias)}  # noqa: E731
    norm = lambda part: {"scale": array(part.weight), "bias": array(part.bias)}  # noqa: E731
    parameters = {
        "attention_norm": norm(theirs.fourier.output.LayerNorm),
        "mlp": {"up": dense(theirs.intermediate.dense), "down": dense(theirs.output.dense)},
        "mlp_norm": norm(theirs.output.LayerNorm),
    }
    options = Fourier(method)  # type: ignore[arg-type]
    config = EncoderConfig(
        width=width, heads=3, feedforward=inner, attention=options, activation="gelu_tanh", dropout=0.0
    )
    positions = jnp.broadcast_to(jnp.arange(length)[None], (2, length))
    context = Context(AttentionMask(valid=jnp.ones((2, length), bool)), positions)
    ours = Block(config, options).apply({"params": parameters}, jnp.asarray(x), context, {}, False)
    np.testing.assert_allclose(ours, array(found), atol=2e-5)
