"""Longformer's attention equals that of `transformers` with the same weights."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import make_attention
from bertjax.attention.base import Context
from bertjax.attention.longformer import Longformer
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from tests.parity.weights import array, no_output, shake, to_heads


@pytest.mark.parity
@pytest.mark.parametrize("globals_", [(0,), (0, 5, 17)])
def test_self_attention(globals_: tuple[int, ...]) -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.longformer.modeling_longformer")
    sizes = dict(
        hidden_size=24, num_attention_heads=3, attention_window=[8], attention_probs_dropout_prob=0.0
    )
    theirs = shake(modeling.LongformerSelfAttention(modeling.LongformerConfig(**sizes), layer_id=0))
    length, draw = 32, np.random.default_rng(0)
    x = draw.standard_normal((2, length, 24)).astype(np.float32)
    mask = np.arange(length)[None] < np.asarray([[32], [27]])
    special = np.zeros((2, length), bool)
    special[:, list(globals_)] = True
    with torch.no_grad():
        given = torch.tensor(np.where(mask, np.where(special, 1e4, 0.0), -1e4), dtype=torch.float32)
        found = theirs(
            torch.tensor(x),
            attention_mask=given,
            is_index_masked=given < 0,
            is_index_global_attn=given > 0,
            is_global_attn=True,
        )[0]

    config = EncoderConfig(width=24, heads=3, attention=Longformer(size=8, slots=4), attention_dropout=0.0)
    names = {"query": "query", "key": "key", "value": "value"}
    names |= {f"global_{name}": f"{name}_global" for name in names}
    parameters = {our: to_heads(getattr(theirs, their), 3) for our, their in names.items()}
    parameters["output"] = no_output(24, 3)
    positions = jnp.broadcast_to(jnp.arange(length)[None], (2, length))
    context = Context(AttentionMask(valid=jnp.asarray(mask)), positions)
    named = dataclasses.replace(context.mask, globals=jnp.asarray(special))
    layer = make_attention(config, config.attention, "attention")
    contexts = [dataclasses.replace(context, mask=named)] + [context] * (globals_ == (0,))
    for given_context in contexts:
        ours = layer.apply({"params": parameters}, jnp.asarray(x), given_context, train=False)
        np.testing.assert_allclose(np.asarray(ours)[mask], array(found)[mask], atol=1e-5)
