"""The decoder against EncoderDecoderModel of two BERTs, with random weights: logits, greedy search and beams."""

import functools
import pathlib
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import bundle
from bertjax.attention.base import Memory
from bertjax.bundle import Bundle
from bertjax.convert.export import export
from bertjax.convert.parity import quiet
from bertjax.models.decoding import Beam, Greedy, Marks, SearchOptions, write_about
from bertjax.predict import Translate, run
from bertjax.sharding import MeshConfig
from tests.finetuning import as_left_by_a_run
from tests.helpers import make_batch
from tests.parity.weights import array, shake
from tests.predict.test_writing import FEW, TASK

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compiles")]

TOKENS, LENGTH = 53, 9
BATCH = make_batch()
MARKS = Marks(start=2, end=3, pad=0)


@functools.cache
def theirs() -> Any:
    """Both stacks with their own tables of positions, and one table of tokens."""
    transformers = pytest.importorskip("transformers")
    sizes = {
        "vocab_size": TOKENS,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
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


@functools.cache
def ours() -> Bundle:
    """The same model, read from the folder that it saves."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        theirs().save_pretrained(folder)
        return bundle.load(folder, mesh=MeshConfig(data=1))


def inputs() -> dict[str, Any]:
    import torch

    names = {"input_ids": BATCH.tokens, "attention_mask": BATCH.mask, "token_type_ids": BATCH.types}
    return {name: torch.tensor(np.asarray(value, np.int64)) for name, value in names.items()}


def apply(*given: Any, variables: Any = None, **options: Any) -> Any:
    return ours().model.apply({"params": ours().params, **(variables or {})}, *given, **options)


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
    found = np.asarray(apply(batch, train=False)["translate"])[..., :TOKENS]
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


def test_what_is_exported_writes_the_same(tmp_path: pathlib.Path) -> None:
    """A run's model as a published folder: their greedy search gives the text that `predict translate` gives."""
    transformers = pytest.importorskip("transformers")
    as_left_by_a_run(tmp_path / "run", (TASK,))
    model = bundle.load(str(tmp_path / "run"), mesh=MeshConfig(data=1))
    folder = str(tmp_path / "out")
    said = list(export(model, folder, workdir=str(tmp_path / "run")))
    assert "EncoderDecoderModel" in said[0] and any(line.startswith("  translate ") for line in said)
    texts = ["ban da", "da ban ban da ban", "ban"]
    with quiet():
        theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        given = tokenizer(texts, return_tensors="pt", padding=True)
        given.pop("token_type_ids", None)
        rows = theirs.generate(**given, max_new_tokens=TASK.target_tokens, do_sample=False)
    wanted = [tokenizer.decode(row, skip_special_tokens=True) for row in rows]
    for path in (str(tmp_path / "run"), folder):
        ours = bundle.load(path, mesh=MeshConfig(data=1))
        found = run(Translate(search="greedy", tokens=12), ours, ({"text": text} for text in texts), FEW)
        assert [one["text"] for one in found] == wanted
    assert all(wanted)
