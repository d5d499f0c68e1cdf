"""Whole models of `transformers` with random weights: hidden states, pooled tokens and logits, padding included.

Each is one config of ours: BERT; RoFormer (rotary positions, neighbours in pairs); ALBERT (shared layers, narrow
embeddings); ModernBERT (pre-norm without a first norm, GeGLU, no biases, local and global layers).
"""

import dataclasses
import functools
from typing import Any

import jax
import numpy as np
import pytest

from bertjax.attention.local_global import LocalGlobal
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import Rope
from bertjax.models.heads import MaskedLmHead
from bertjax.models.network import Network
from bertjax.models.stacking import locate
from tests.helpers import make_batch, unbox
from tests.parity.weights import array, bert_attention, bert_head, bert_layer, from_heads, matrix, norm, shake

pytestmark = pytest.mark.parity
SIZES = dict(
    vocab_size=53, hidden_size=24, num_hidden_layers=3, num_attention_heads=3, intermediate_size=40,
    max_position_embeddings=16, pad_token_id=0, attn_implementation="eager",
)  # fmt: skip
OURS = EncoderConfig(
    layers=3, width=24, heads=3, feedforward=40, vocab=53, vocab_multiple=1, max_length=16,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
BATCH = make_batch((11, 6))


def run_theirs(model: Any, *, types: bool = True) -> Any:
    torch = pytest.importorskip("torch")
    inputs = {"input_ids": BATCH.tokens, "attention_mask": BATCH.mask}
    if types:
        inputs["token_type_ids"] = BATCH.types
    given = {name: torch.tensor(np.asarray(x)).long() for name, x in inputs.items()}
    with torch.no_grad():
        return model(**given, output_hidden_states=True)


def run_ours(config: EncoderConfig, encoder: Any, head: Any) -> Any:
    """All outputs of the network, whose parameters must be exactly those that were found in the other model."""
    network = Network(config, {"mlm": MaskedLmHead(config, "mlm")}, keep_states=True)
    params = {"encoder": encoder, "heads_mlm": head}
    wanted = unbox(
        jax.eval_shape(functools.partial(network.init, train=False), jax.random.key(0), BATCH)["params"]
    )
    assert jax.tree.map(np.shape, params) == jax.tree.map(np.shape, wanted)
    return jax.jit(functools.partial(network.apply, train=False))({"params": params}, BATCH)


def close(ours: Any, theirs: Any) -> None:
    """At the real tokens."""
    np.testing.assert_allclose(np.asarray(ours)[BATCH.mask], array(theirs)[BATCH.mask], rtol=1e-4, atol=1e-4)


def unrolled(config: EncoderConfig, layers: list[dict[str, Any]]) -> dict[str, Any]:
    """Layers one by one, where an unrolled stack keeps them."""
    stack: dict[str, Any] = {}
    for layer, ((_, group, layer_name, block), index) in zip(layers, locate(config), strict=True):
        stack.setdefault(group, {}).setdefault(f"{layer_name}_{index}", {})[block] = layer
    return stack


def no_pooler(bias: bool = True) -> dict[str, Any]:
    """Theirs has none."""
    kernel = {"kernel": np.zeros((24, 24), np.float32)}
    return {**kernel, "bias": np.zeros(24, np.float32)} if bias else kernel


def test_bert() -> None:
    modeling = pytest.importorskip("transformers.models.bert.modeling_bert")
    model = shake(modeling.BertForPreTraining(modeling.BertConfig(**SIZES)))
    theirs, bert, tables = run_theirs(model), model.bert, model.bert.embeddings
    encoder = {
        "embedder": {
            "tokens": array(tables.word_embeddings.weight),
            "types": array(tables.token_type_embeddings.weight),
            "norm": norm(tables.LayerNorm),
        },
        "position": {"embedding": array(tables.position_embeddings.weight)},
        "stack": unrolled(OURS, [bert_layer(layer, OURS.heads) for layer in bert.encoder.layer]),
        "pooler": matrix(bert.pooler.dense),
    }
    ours = run_ours(OURS, encoder, bert_head(model.cls.predictions))
    for mine, other in zip(ours["encoder"].states, theirs.hidden_states, strict=True):
        close(mine, other)
    close(ours["mlm"], theirs.prediction_logits)
    following = np.asarray(ours["encoder"].pooled) @ array(model.cls.seq_relationship.weight).T
    following = following + array(model.cls.seq_relationship.bias)
    np.testing.assert_allclose(following, array(theirs.seq_relationship_logits), atol=1e-4)


@pytest.mark.parametrize("narrow", [None, 16])
def test_roformer(narrow: int | None) -> None:
    modeling = pytest.importorskip("transformers.models.roformer.modeling_roformer")
    theirs_config = modeling.RoFormerConfig(**SIZES, embedding_size=narrow, rotary_value=False)
    model = modeling.RoFormerForMaskedLM(theirs_config)
    waves = model.roformer.encoder.embed_positions.weight
    sines = waves.detach().clone()
    shake(model)
    waves.data.copy_(sines)  # fixed sines, which theirs keeps among the parameters
    theirs, roformer, tables = run_theirs(model), model.roformer, model.roformer.embeddings
    config = dataclasses.replace(OURS, position=Rope(pairs="neighbours"), embedding_width=narrow)
    embedder = {
        "tokens": array(tables.word_embeddings.weight),
        "types": array(tables.token_type_embeddings.weight),
        "norm": norm(tables.LayerNorm),
    }
    if narrow is not None:
        embedder["projection"] = matrix(roformer.embeddings_project)
    encoder = {
        "embedder": embedder,
        "stack": unrolled(config, [bert_layer(layer, OURS.heads) for layer in roformer.encoder.layer]),
        "pooler": no_pooler(),
    }
    ours = run_ours(config, encoder, bert_head(model.cls.predictions))
    for mine, other in zip(ours["encoder"].states, theirs.hidden_states, strict=True):
        close(mine, other)
    close(ours["mlm"], theirs.logits)


def test_albert() -> None:
    modeling = pytest.importorskip("transformers.models.albert.modeling_albert")
    model = shake(
        modeling.AlbertForMaskedLM(modeling.AlbertConfig(**SIZES, embedding_size=16, hidden_act="gelu_new"))
    )
    theirs, albert, tables = run_theirs(model), model.albert, model.albert.embeddings
    config = dataclasses.replace(OURS, sharing="all", embedding_width=16, activation="gelu_tanh")
    layer = albert.encoder.albert_layer_groups[0].albert_layers[0]
    shared = {
        "attention": bert_attention(layer.attention, layer.attention.dense, OURS.heads),
        "attention_norm": norm(layer.attention.LayerNorm),
        "mlp": {"up": matrix(layer.ffn), "down": matrix(layer.ffn_output)},
        "mlp_norm": norm(layer.full_layer_layer_norm),
    }
    encoder = {
        "embedder": {
            "tokens": array(tables.word_embeddings.weight),
            "types": array(tables.token_type_embeddings.weight),
            "norm": norm(tables.LayerNorm),
            "projection": matrix(albert.encoder.embedding_hidden_mapping_in),
        },
        "position": {"embedding": array(tables.position_embeddings.weight)},
        "stack": {"shared_full": shared},
        "pooler": no_pooler(),
    }
    head = {
        "transform": matrix(model.predictions.dense),
        "norm": norm(model.predictions.LayerNorm),
        "bias": array(model.predictions.decoder.bias),
    }
    ours = run_ours(config, encoder, head)
    close(ours["encoder"].hidden, theirs.hidden_states[-1])
    close(ours["mlm"], theirs.logits)


def test_modernbert() -> None:
    """Five layers: a period of three and two more, the first without a norm before its attention."""
    modeling = pytest.importorskip("transformers.models.modernbert.modeling_modernbert")
    sizes = {**SIZES, "num_hidden_layers": 5}
    theirs_config = modeling.ModernBertConfig(**sizes, local_attention=4, global_attn_every_n_layers=3)
    model = shake(modeling.ModernBertForMaskedLM(theirs_config))
    theirs, modern = run_theirs(model, types=False), model.model
    config = dataclasses.replace(
        OURS, layers=5, types=None, block="pre", first_norm=False, activation="geglu", bias=False, norm_bias=False,
        norm_epsilon=1e-5, position=Rope(base=160_000.0), attention=LocalGlobal(every=3, size=4),
    )  # fmt: skip

    def layer(index: int, theirs: Any) -> dict[str, Any]:
        thirds = array(theirs.attn.Wqkv.weight).T.reshape(24, 3, OURS.heads, -1)
        names = enumerate(("query", "key", "value"))
        gate, up = np.split(array(theirs.mlp.Wi.weight).T, 2, axis=1)
        output = from_heads(theirs.attn.Wo, OURS.heads)["kernel"]
        found = {
            "attention": {**{n: {"kernel": thirds[:, i]} for i, n in names}, "output": {"kernel": output}},
            "mlp": {"gate": {"kernel": gate}, "up": {"kernel": up}, "down": matrix(theirs.mlp.Wo)},
            "mlp_norm": norm(theirs.mlp_norm),
        }
        return {**found, "attention_norm": norm(theirs.attn_norm)} if index else found

    encoder = {
        "embedder": {
            "tokens": array(modern.embeddings.tok_embeddings.weight),
            "norm": norm(modern.embeddings.norm),
        },
        "stack": unrolled(config, [layer(i, x) for i, x in enumerate(modern.layers)]),
        "final_norm": norm(modern.final_norm),
        "pooler": no_pooler(bias=False),
    }
    head = {
        "transform": matrix(model.head.dense),
        "norm": norm(model.head.norm),
        "bias": array(model.decoder.bias),
    }
    ours = run_ours(config, encoder, head)
    for mine, other in zip(ours["encoder"].states[:-1], theirs.hidden_states, strict=False):
        close(mine, other)
    close(ours["encoder"].hidden, theirs.hidden_states[-1])
    close(ours["mlm"], theirs.logits)
