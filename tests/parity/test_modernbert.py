"""ModernBERT's global and local attention equal those of `transformers`, each layer with its window and RoPE base."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import make_attention
from bertjax.attention.base import Context
from bertjax.attention.local_global import LocalGlobal
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position.rope import Rope
from tests.parity.weights import array, from_heads, shake


@pytest.mark.parity
def test_every_layer_of_a_period() -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.modernbert.modeling_modernbert")
    heads, width, length, size = 3, 24, 29, 8
    model = shake(
        modeling.ModernBertModel(
            modeling.ModernBertConfig(
                vocab_size=53, hidden_size=width, num_hidden_layers=3, num_attention_heads=heads, intermediate_size=40,
                local_attention=size, global_attn_every_n_layers=3, pad_token_id=0, attn_implementation="eager",
            )
        )
    )  # fmt: skip
    passed: list[tuple[Any, Any]] = []

    def keep(module: Any, given: tuple[Any, ...], named: dict[str, Any], found: tuple[Any, ...]) -> None:
        passed.append((given[0] if given else named["hidden_states"], found[0]))

    for layer in model.layers:
        layer.attn.register_forward_hook(keep, with_kwargs=True)
    mask = np.arange(length)[None] < np.asarray([[29], [21]])
    tokens = np.random.default_rng(0).integers(1, 53, (2, length))
    with torch.no_grad():
        model(input_ids=torch.tensor(tokens), attention_mask=torch.tensor(mask))

    options = LocalGlobal(every=3, size=size, local_base=10_000.0)
    config = EncoderConfig(
        width=width, heads=heads, attention=options, position=Rope(base=160_000.0), attention_dropout=0.0
    )
    positions = jnp.broadcast_to(jnp.arange(length)[None], (2, length))
    context = Context(AttentionMask(valid=jnp.asarray(mask)), positions)
    assert len(passed) == 3
    for kind, (x, found), layer in zip(options.period(), passed, model.layers, strict=True):
        thirds = array(layer.attn.Wqkv.weight).T.reshape(width, 3, heads, -1)
        parameters: dict[str, Any] = {"output": from_heads(layer.attn.Wo, heads)}
        for index, name in enumerate(("query", "key", "value")):
            parameters[name] = {"kernel": thirds[:, index], "bias": np.zeros(thirds.shape[2:], np.float32)}
        attention = make_attention(config, kind, "attention")
        ours = attention.apply({"params": parameters}, jnp.asarray(array(x)), context, train=False)
        np.testing.assert_allclose(np.asarray(ours)[mask], array(found)[mask], atol=1e-5)
