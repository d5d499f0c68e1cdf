"""Gradients of BERT's pretraining loss, through the table of names: those of PyTorch for every parameter."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import bundle
from bertjax.convert.parity import make_probe
from bertjax.convert.writing import plan_writing
from bertjax.metrics import cross_entropy
from tests.convert.models import config_json
from tests.parity.test_families import save
from tests.parity.weights import array, shake

pytestmark = [pytest.mark.parity, pytest.mark.usefixtures("quick_compiles")]


def test_gradients_of_bert(tmp_path: Any) -> None:
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    theirs = config_json("bert", "ForPreTraining", hidden_act="gelu")
    model = shake(transformers.BertForPreTraining(transformers.BertConfig(**theirs)))
    ours = bundle.load(save(model, tmp_path / "theirs"))
    probe = make_probe(ours.config.model, ours.vocabulary, 2)
    labels, follows = np.roll(probe.tokens, 1, axis=1), np.array([1, 0])
    chosen = probe.mask & (np.arange(probe.tokens.shape[1]) % 3 == 0)

    given = {"input_ids": probe.tokens, "attention_mask": probe.mask, "token_type_ids": probe.types}
    inputs = {name: torch.tensor(x).long() for name, x in given.items()}
    targets = torch.tensor(np.where(chosen, labels, -100)).long()
    loss = model(**inputs, labels=targets, next_sentence_label=torch.tensor(follows)).loss
    loss.backward()

    batch, _ = ours.batch(probe.tokens, probe.mask, probe.types)
    spare = len(batch.tokens) - len(labels)

    def run(params: Any) -> Any:
        outputs = ours.model.apply({"params": params}, batch, train=False)
        words = cross_entropy(outputs["mlm"][: len(labels)], labels)
        pairs = cross_entropy(outputs["nsp"][: len(labels)], follows)
        return jnp.where(chosen, words, 0.0).sum() / chosen.sum() + pairs.mean()

    assert spare >= 0
    value, gradient = jax.jit(jax.value_and_grad(run))(ours.params)
    np.testing.assert_allclose(value, loss.item(), rtol=1e-5)
    found = dict(plan_writing(dataclasses.replace(ours, params=gradient).opened(), family="bert").arrays())
    wanted = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert found.keys() == wanted.keys()
    for name, grad in wanted.items():
        size = float(grad.abs().max())
        error = np.abs(found[name] - array(grad)).max()
        # Of a key's bias the gradient is zero but for rounding: a softmax does not see it.
        assert error <= 1e-4 * max(size, 1e-3), f"{name}: {error:.1e} of {size:.1e}"
