"""The ring is full attention: hidden states and gradients of one device, on any split of the length."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import slow_but
from helpers import assert_close, make_batch, parameters, small
from runs import tiny

from bertjax import sharding
from bertjax.attention import explain
from bertjax.attention.local_global import LocalGlobal
from bertjax.config import check
from bertjax.data.open import open_vocabulary
from bertjax.layers.config import EncoderConfig, Full
from bertjax.models.encoder import Encoder
from bertjax.plan.collectives import collectives
from bertjax.plan.compile import compile_step
from bertjax.plan.hlo import parse
from bertjax.program import build
from bertjax.sharding import MeshConfig
from bertjax.types import Batch, Tree

RULES = "fsdp_tensor_sequence"
MESHES = [MeshConfig(1, 1, 2, 4, RULES), MeshConfig(1, 2, 2, 2, RULES), MeshConfig(1, 1, 1, 8, RULES)]


def rows(*, packed: bool) -> Batch:
    """Rows of 16 with padding, one without a single real token in the first half of the ring's parts."""
    batch = make_batch((16, 11, 3, 16), length=16)
    if not packed:
        return batch
    segments = np.tile(np.repeat(np.arange(1, 5), (5, 2, 6, 3)), (4, 1))
    return batch.replace(segments=np.where(batch.mask, segments, 0).astype(np.int32))


def loss_and_gradient(config: EncoderConfig) -> Callable[[Tree, Batch], Any]:
    def loss(params: Tree, batch: Batch) -> Any:
        hidden = Encoder(config).apply({"params": params}, batch, train=False).hidden
        weights = np.sin(np.arange(hidden.size)).reshape(hidden.shape).astype(np.float32)
        return (jnp.where(batch.mask[:, :, None], hidden, 0) * weights).sum(), hidden

    # A new function every time: what is compiled for one mesh must not be found again for another.
    return jax.jit(jax.value_and_grad(loss, has_aux=True))


@pytest.mark.parametrize(
    "how, direction, packed",
    slow_but(
        [
            (how, d, packed)
            for how in ("ring", "gather")
            for d in ("both", "left_to_right")
            for packed in (False, True)
        ],
        [("ring", "both", True), ("ring", "left_to_right", False), ("gather", "left_to_right", True)],
    ),
)
def test_a_split_row_is_a_whole_row(how: Any, direction: Any, packed: bool) -> None:
    config, batch = small(heads=4, direction=direction), rows(packed=packed)
    params = parameters(config)
    (_, hidden), gradient = loss_and_gradient(config)(params, batch)
    for mesh in MESHES if how == "ring" and packed else MESHES[:1]:
        mesh = dataclasses.replace(mesh, sequence_attention=how)
        with sharding.activate(sharding.make_mesh(mesh), mesh.rules, mesh.sequence_attention):
            (_, split), split_gradient = jax.device_get(loss_and_gradient(config)(params, batch))
        real = np.asarray(batch.mask)
        assert_close(split[real], np.asarray(hidden)[real])
        # That of a whole model: sums over the rows of two devices come in another order.
        assert_close(split_gradient, jax.device_get(gradient), 1e-4)


def exchanges(how: str, *settings: str) -> list[Any]:
    """Of a train step in which two devices share a row of 14."""
    split = (
        "mesh.rules=fsdp_tensor_sequence",
        "mesh.sequence=2",
        "mesh.data=2",
        f"mesh.sequence_attention={how}",
    )
    config = tiny("model.scan=True", *split, *settings)
    program = build(config, open_vocabulary("synthetic", config.model.vocab))
    return collectives(parse(compile_step(program).text), program.mesh)


def test_the_ring_never_holds_the_keys_of_a_whole_row() -> None:
    whole = (8, 14, 4, 6)  # rows, length, heads, head size of one device

    def gathers(found: list[Any]) -> int:
        return sum(
            sorted(array.shape) == sorted(whole)
            for one in found
            for array in one.arrays
            if one.kind in ("all-gather", "all-reduce")
        )

    assert gathers(exchanges("gather")) >= 2  # the test can see them
    ring = exchanges("ring")
    assert gathers(ring) == 0
    passed = {
        one.times for one in ring if one.kind == "collective-permute" and one.arrays[0].shape == (8, 7, 4, 6)
    }
    assert passed == {2}  # a trip of a ring of two, in each of two layers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention_dropout": 0.1}, "ring has no attention dropout: set model.attention_dropout=0"),
        ({"position": "alibi"}, "ring takes no position bias"),
        ({"backend": "splash"}, "model.attention.backend=splash would need all keys in one place"),
    ],
)
def test_what_a_ring_cannot_do_is_an_error(changes: dict[str, Any], message: str) -> None:
    settings = {
        "attention_dropout": ["model.attention_dropout=0.1"],
        "position": ["model.position=alibi"],
        "backend": ["model.attention.backend=splash"],
    }[next(iter(changes))]
    with pytest.raises(ValueError) as caught:
        exchanges("ring", *settings)
    assert message in str(caught.value) and "mesh.sequence_attention=gather" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_only_full_attention_goes_round() -> None:
    config = tiny("mesh.sequence_attention=ring", "model.attention=linformer", "data.format=padded")
    with pytest.raises(ValueError, match="mesh.sequence_attention=ring is for model.attention=full"):
        check(config)
    check(tiny("mesh.sequence_attention=ring", "model.attention=local_global"))  # some of its layers are full


def test_the_banner_says_ring() -> None:
    mesh = dataclasses.replace(MESHES[0], sequence_attention="ring")
    config = small(attention=LocalGlobal(every=2, size=4))
    assert "ring" not in explain(config, "cpu")
    with sharding.activate(sharding.make_mesh(mesh), mesh.rules, mesh.sequence_attention):
        said = explain(config, "cpu")
        assert (
            said.startswith("full by ring (as mesh.sequence_attention says)")
            and "window by reference" in said
        )
        assert explain(small(attention=Full()), "tpu", length=256).startswith("full by ring")
