"""Nystroemformer's attention equals that of `transformers` with the same weights, for rows without padding.

Padding is where the two differ on purpose: theirs averages it into the landmarks.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import make_attention
from bertjax.attention.base import Context
from bertjax.attention.nystroem import Nystroem
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from tests.parity.weights import array, no_output, shake, to_heads


@pytest.mark.parity
@pytest.mark.parametrize("landmarks", [4, 8, 24])  # 24 is the whole row, which both attend exactly
def test_self_attention(landmarks: int) -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.nystromformer.modeling_nystromformer")
    length, heads, width = 24, 3, 24
    theirs = shake(
        modeling.NystromformerSelfAttention(
            modeling.NystromformerConfig(
                hidden_size=width, num_attention_heads=heads, num_landmarks=landmarks, segment_means_seq_len=length,
                conv_kernel_size=5, attention_probs_dropout_prob=0.0,
            )
        )
    )  # fmt: skip
    theirs.init_option = "exact"  # each matrix by its own norm: what we do, and what the authors call exact
    x = np.random.default_rng(0).standard_normal((2, length, width)).astype(np.float32)
    with torch.no_grad():
        found = theirs(torch.tensor(x))[0]

    options = Nystroem(landmarks=landmarks, convolution=5)
    config = EncoderConfig(width=width, heads=heads, attention=options, attention_dropout=0.0)
    parameters = {name: to_heads(getattr(theirs, name), heads) for name in ("query", "key", "value")}
    parameters["output"] = no_output(width, heads)
    taps = array(theirs.conv.weight)[:, 0, :, 0].T  # [taps, heads]
    positions = jnp.broadcast_to(jnp.arange(length)[None], (2, length))
    context = Context(AttentionMask(valid=jnp.ones((2, length), bool)), positions)
    layer = make_attention(config, options, "attention")
    given = {"params": {**parameters, "convolution": taps}}
    ours = layer.apply(given, jnp.asarray(x), context, train=False)
    np.testing.assert_allclose(ours, array(found), atol=1e-5)
