"""Disentangled attention, its table and its buckets equal those of `transformers`' DeBERTa v2 with the same weights."""

import json
import pathlib

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import bundle
from bertjax.attention import make_attention
from bertjax.attention.base import Context
from bertjax.attention.disentangled import Disentangled
from bertjax.convert.families import FAMILIES
from bertjax.convert.parity import report
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position.relative import Relative, RelativePosition, bucket
from tests.convert.models import config_json
from tests.parity.weights import array, no_output, shake, to_heads


@pytest.mark.parity
@pytest.mark.parametrize(("buckets", "span", "length"), [(256, 512, 700), (6, 20, 30), (32, 128, 90)])
def test_buckets(buckets: int, span: int, length: int) -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    distances = np.arange(1 - length, length)
    found = modeling.make_log_bucket_position(torch.tensor(distances), buckets, span).long().numpy()
    ours = bucket(distances, buckets, span)
    np.testing.assert_array_equal(ours, np.clip(found + buckets, 0, 2 * buckets - 1))


@pytest.mark.parity
@pytest.mark.parametrize("terms", [["c2p", "p2c"], ["c2p"], ["p2c"]])
@pytest.mark.parametrize("share", [True, False])
def test_self_attention(terms: list[str], share: bool) -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.deberta_v2.modeling_deberta_v2")
    heads, length = 3, 23
    options = Disentangled("c2p" in terms, "p2c" in terms, share)
    encoder = shake(
        modeling.DebertaV2Encoder(
            modeling.DebertaV2Config(
                hidden_size=24, num_hidden_layers=1, num_attention_heads=heads, intermediate_size=40,
                relative_attention=True, pos_att_type=terms, share_att_key=share, position_buckets=6,
                max_relative_positions=20, norm_rel_ebd="layer_norm", layer_norm_eps=1e-7,
            )
        )
    )  # fmt: skip
    theirs = encoder.layer[0].attention.self
    x = np.random.default_rng(0).standard_normal((2, length, 24)).astype(np.float32)
    mask = np.arange(length)[None] < np.asarray([[23], [17]])
    with torch.no_grad():
        pairs = torch.tensor(mask[:, None, None, :] & mask[:, None, :, None])
        found = theirs(torch.tensor(x), pairs, rel_embeddings=encoder.get_rel_embedding())[0]

    scheme = Relative(buckets=6, max_distance=20)
    config = EncoderConfig(
        width=24, heads=heads, attention=options, position=scheme, norm_epsilon=1e-7, attention_dropout=0.0
    )
    table = {
        "embedding": array(encoder.rel_embeddings.weight),
        "norm": {"scale": array(encoder.LayerNorm.weight), "bias": array(encoder.LayerNorm.bias)},
    }
    relative = RelativePosition(config).apply({"params": table}, length, method="relative")
    names = {"query": "query_proj", "key": "key_proj", "value": "value_proj"}
    if not share:
        names |= {"position_key": "pos_key_proj"} if options.c2p else {}
        names |= {"position_query": "pos_query_proj"} if options.p2c else {}
    parameters = {our: to_heads(getattr(theirs, their), heads) for our, their in names.items()}
    parameters["output"] = no_output(24, heads)
    positions = jnp.broadcast_to(jnp.arange(length)[None], (2, length))
    context = Context(AttentionMask(valid=jnp.asarray(mask)), positions, relative=relative)
    layer = make_attention(config, options, "attention")
    ours = layer.apply({"params": parameters}, jnp.asarray(x), context, train=False)
    np.testing.assert_allclose(np.asarray(ours)[mask], array(found)[mask], atol=1e-5)


@pytest.mark.parity
def test_the_head_of_published_files(tmp_path: pathlib.Path) -> None:
    """Under its own names, with tensors that nobody reads, and a config.json that is older than `legacy`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = {**config_json("deberta-v2", "ForMaskedLM"), "legacy": False}
    kind = theirs.pop("model_type")
    model = shake(transformers.DebertaV2ForMaskedLM(transformers.DebertaV2Config(**theirs)))
    tensors = {**model.state_dict(), "mask_predictions.dense.weight": torch.zeros(3, 3)}
    tensors["deberta.embeddings.position_embeddings.weight"] = torch.zeros(18, 24)
    safetensors.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    del theirs["legacy"], theirs["architectures"]
    (tmp_path / "config.json").write_text(json.dumps({**theirs, "model_type": kind}))
    ours, family = bundle.load(str(tmp_path)), FAMILIES["deberta-v2"]
    assert ours.about["class"] == "DebertaV2ForMaskedLM"
    *_, worst = report(ours, str(tmp_path), family, ours.about["class"], {"mlm": "mlm"}, 2)
    assert "tolerance" in worst
