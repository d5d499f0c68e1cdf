"""The decoder against EncoderDecoderModel of two BERTs, with random weights: logits, greedy search and beams."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.base import Memory
from bertjax.models.decoder import Decoder, DecoderOptions, decoder_config
from bertjax.models.decoding import Beam, Greedy, Marks, SearchOptions, write_about
from bertjax.models.network import Network
from tests.helpers import make_batch, small
from tests.parity.weights import array, from_heads, shake, to_heads

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compiles")]

CONFIG, HEADS, TOKENS, LENGTH = small(pooler=False, vocab_multiple=1), 3, 53, 9
BATCH = make_batch()
NETWORK = Network(CONFIG, {"translate": Decoder(decoder_config(CONFIG, DecoderOptions()), "translate")})
MARKS = Marks(start=2, end=3, pad=0)


@functools.cache
def theirs() -> Any:
    """Both stacks with their own tables of positions, and one table of tokens."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": TOKENS,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "intermediate_size": 40,
        "max_position_embeddings": 16,
        "layer_norm_eps": 1e-6,
        "attn_implementation": "eager",
    }
    decoder = transformers.BertConfig(**sizes, is_decoder=True, add_cross_attention=True)
    encoder = transformers.BertModel(transformers.BertConfig(**sizes), add_pooling_layer=False)
    model = transformers.EncoderDecoderModel(encoder=encoder, decoder=transformers.BertLMHeadModel(decoder))
    shake(model)
    table = model.decoder.bert.embeddings.word_embeddings.weight
    table.data.copy_(model.encoder.embeddings.word_embeddings.weight.data)
    model.decoder.cls.predictions.decoder.weight.data.copy_(table.data)
    config = model.generation_config
    config.decoder_start_token_id, config.eos_token_id, config.pad_token_id = (
        MARKS.start,
        MARKS.end,
        MARKS.pad,
    )
    return model


def norm(layer: Any) -> dict[str, np.ndarray]:
    return {"scale": array(layer.weight), "bias": array(layer.bias)}


def linear(layer: Any) -> dict[str, np.ndarray]:
    return {"kernel": array(layer.weight).T, "bias": array(layer.bias)}


def attention(part: Any) -> dict[str, Any]:
    inner = {name: to_heads(getattr(part.self, name), HEADS) for name in ("query", "key", "value")}
    return {**inner, "output": from_heads(part.output.dense, HEADS)}


def stack(layers: Any) -> dict[str, Any]:
    found = {}
    for index, layer in enumerate(layers):
        block = {
            "attention": attention(layer.attention),
            "attention_norm": norm(layer.attention.output.LayerNorm),
            "mlp": {"up": linear(layer.intermediate.dense), "down": linear(layer.output.dense)},
            "mlp_norm": norm(layer.output.LayerNorm),
        }
        if hasattr(layer, "crossattention"):
            block["cross"] = attention(layer.crossattention)
            block["cross_norm"] = norm(layer.crossattention.output.LayerNorm)
        found[f"layers_{index}"] = {"block_0": block}
    return {"group_0": found}


def one(bert: Any) -> dict[str, Any]:
    tables = bert.embeddings
    return {
        "embedder": {"types": array(tables.token_type_embeddings.weight), "norm": norm(tables.LayerNorm)},
        "position": {"embedding": array(tables.position_embeddings.weight)},
        "stack": stack(bert.encoder.layer),
    }


@functools.cache
def params() -> Any:
    model = theirs()
    encoder, decoder = one(model.encoder), one(model.decoder.bert)
    encoder["embedder"]["tokens"] = array(model.encoder.embeddings.word_embeddings.weight)
    last = model.decoder.cls.predictions
    head = {
        "transform": linear(last.transform.dense),
        "norm": norm(last.transform.LayerNorm),
        "bias": array(last.bias),
    }
    return {"encoder": encoder, "heads_translate": {**decoder, "head": head}}


def inputs() -> dict[str, Any]:
    import torch

    names = {"input_ids": BATCH.tokens, "attention_mask": BATCH.mask, "token_type_ids": BATCH.types}
    return {name: torch.tensor(np.asarray(value, np.int64)) for name, value in names.items()}


def apply(*given: Any, variables: Any = None, **options: Any) -> Any:
    return NETWORK.apply({"params": params(), **(variables or {})}, *given, **options)


def test_logits() -> None:
    import torch

    row = np.random.default_rng(0).integers(4, TOKENS, (2, LENGTH + 1)).astype(np.int32)
    # Theirs keeps types out of generation, so the encoder's are all zero here.
    given = {**inputs(), "decoder_input_ids": torch.tensor(row[:, :7].astype(np.int64))}
    given.pop("token_type_ids")
    with torch.no_grad():
        wanted = array(theirs()(**given).logits)
    batch = BATCH.replace(types=np.zeros_like(BATCH.types))
    size = np.full(2, LENGTH + 1, np.int32)
    batch = batch.with_targets("translate", row=row, size=size, weight=np.ones(2, np.float32))
    found = np.asarray(apply(batch, train=False)["translate"])
    assert found.shape == wanted.shape == (2, 7, TOKENS)
    np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


@pytest.mark.parametrize("beams", [1, 3])
def test_searches(beams: int) -> None:
    """The same texts; of beams, all of them, without a penalty for their length."""
    import torch

    given = inputs()
    given.pop("token_type_ids")
    more = {
        "num_beams": beams,
        "num_return_sequences": beams,
        "max_new_tokens": LENGTH,
        "length_penalty": 0.0,
    }
    with torch.no_grad():
        wanted = theirs().generate(**given, **more, do_sample=False).numpy()[:, 1:].reshape(2, beams, -1)
    search: SearchOptions = Greedy() if beams == 1 else Beam(beams=beams, penalty=0.0)
    batch = BATCH.replace(types=np.zeros_like(BATCH.types))
    memory = Memory(apply(batch, method="encode").hidden, batch.mask)
    keys = jax.vmap(jax.random.key)(jnp.arange(2))
    run = jax.jit(lambda: write_about(apply, "translate", memory, search, MARKS, LENGTH, keys))
    found = np.asarray(run().tokens)
    wanted = np.pad(wanted, ((0, 0), (0, 0), (0, LENGTH - wanted.shape[2])))
    np.testing.assert_array_equal(found, wanted)
