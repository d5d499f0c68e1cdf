"""Adapters and prompts: what they compute, that fresh adapters change nothing, and who has no room for a prompt."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_close, encode, make_batch, parameters, small

from bertjax.attention import ATTENTIONS, check_attention
from bertjax.layers.adapter import AdapterLayer
from bertjax.layers.config import ADAPTERS, Adapter, EncoderConfig, Prompt
from bertjax.layers.position import POSITIONS
from bertjax.models.encoder import Encoder
from bertjax.types import Tree

BATCH = make_batch()
RANDOM = np.random.default_rng(0)


def joined(config: EncoderConfig, known: Tree, changed: Any) -> Tree:
    """Parameters of an encoder, those that `known` has from there, the others by `changed(path, random ones)`."""
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(known)}

    def one(path: Any, leaf: Any) -> Any:
        name = jax.tree_util.keystr(path)
        return flat[name] if name in flat else changed(name, leaf)

    return jax.tree_util.tree_map_with_path(one, parameters(config))


def test_an_adapter_by_hand() -> None:
    x = RANDOM.normal(size=(2, 7, 24)).astype(np.float32)
    down, up = RANDOM.normal(size=(24, 5)), RANDOM.normal(size=(5, 24))
    a, b = RANDOM.normal(size=5), RANDOM.normal(size=24)
    params = {"down": {"kernel": down, "bias": a}, "up": {"kernel": up, "bias": b}}
    layer = AdapterLayer(small(), Adapter(size=5, activation="relu"))
    found = layer.apply({"params": jax.tree.map(jnp.float32, params)}, x)
    assert_close(found, (x + np.maximum(x @ down + a, 0) @ up + b).astype(np.float32))


@pytest.mark.parametrize(
    "kind, options",
    [
        ("houlsby", {}),
        ("houlsby", {"block": "pre", "scan": True}),
        ("pfeiffer", {"scan": True, "sharing": "all"}),
    ],
)
def test_fresh_adapters_change_nothing(kind: str, options: Any) -> None:
    """And those that have learned do; there are as many as the paper says."""
    plain, config = small(**options), small(adapter=ADAPTERS[kind], **options)
    known = parameters(plain)
    fresh = joined(config, known, lambda name, leaf: np.zeros_like(leaf) if "['up']" in name else leaf)
    learned = joined(config, known, lambda name, leaf: leaf)
    wanted, run = encode(plain)(known, BATCH), encode(config)
    assert_close(run(fresh, BATCH).hidden, wanted.hidden, 1e-6)
    assert not np.allclose(run(learned, BATCH).hidden, wanted.hidden, atol=1e-2)
    size = ADAPTERS[kind].size
    number = sum(np.size(x) for x in jax.tree.leaves(fresh)) - sum(np.size(x) for x in jax.tree.leaves(known))
    assert number == 2 * (2 if kind == "houlsby" else 1) * (2 * 24 * size + 24 + size)


def test_initial_adapters_start_at_nothing() -> None:
    config = small(adapter=Adapter(3))
    params = jax.jit(lambda key: AdapterLayer(config, Adapter(3)).init(key, jnp.ones((1, 2, 24))))(
        jax.random.key(0)
    )
    assert not np.any(params["params"]["up"]["kernel"].value) and np.any(
        params["params"]["down"]["kernel"].value
    )


# ---------------------------------------------------------------------------------------------- prompts

PROMPT = Prompt(size=3)


@pytest.mark.parametrize("position", ["learned", "rope", "t5"])
def test_a_prompt_is_rows_that_begin_with_it(position: str) -> None:
    """Against the plain encoder on longer rows whose first embeddings are the learned vectors, normalised."""
    options = {"position": POSITIONS[position].options}
    config, plain = small(prompt=PROMPT, **options), small(**options)
    params = parameters(config)
    found = encode(config)(params, BATCH)
    vectors, norm = params["embedder"]["prompt"], params["embedder"]["norm"]
    centred = vectors - vectors.mean(-1, keepdims=True)
    front = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * norm["scale"] + norm["bias"]

    def by_hand(params: Tree) -> Any:
        bare = {**params, "embedder": {k: v for k, v in params["embedder"].items() if k != "prompt"}}
        encoder = Encoder(plain)
        tokens = encoder.apply(
            {"params": bare}, BATCH, train=False, method=lambda e, b, train: e.embedder(b, train=train)
        )
        rows = jnp.concatenate([jnp.broadcast_to(front[None], (2, *front.shape)), tokens], 1)
        ones = np.ones((2, 3), bool)
        place = np.broadcast_to(np.arange(3)[None], (2, 3))
        longer = make_batch((10, 8)).replace(
            mask=np.concatenate([ones, BATCH.mask], 1),
            positions=np.concatenate([place, BATCH.positions + 3], 1),
            segments=np.concatenate([ones, BATCH.mask], 1).astype(np.int32),
        )
        return encoder.apply({"params": bare}, longer, train=False, embedded=rows).hidden[:, 3:]

    wanted = jax.jit(by_hand)(params)
    assert_close(found.hidden[BATCH.mask], wanted[BATCH.mask], 1e-4)
    assert found.hidden.shape == (2, 7, 24)


def test_every_layer_has_its_own_vectors() -> None:
    """What enters with the embeddings is nothing, and each layer's vectors reach the tokens."""
    config = small(prompt=Prompt(size=3, at="layers"), scan=True)
    params = parameters(config)
    assert "prompt" not in params["embedder"]
    own = params["stack"]["group_0"]["layers"]["block_0"]["prompt"]
    assert own.shape == (2, 3, 24)

    def total(prompt: Any) -> Any:
        block = {**params["stack"]["group_0"]["layers"]["block_0"], "prompt": prompt}
        tree = {**params, "stack": {"group_0": {"layers": {"block_0": block}}}}
        hidden = Encoder(config).apply({"params": tree}, BATCH, train=False).hidden
        return jnp.where(BATCH.mask[:, :, None], jnp.sin(hidden), 0).sum()

    gradient = np.asarray(jax.jit(jax.grad(total))(own))
    assert (np.abs(gradient).max(-1) > 1e-4).all(), "of both layers, all three"


QUICK = ("window", "performer", "state_space")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
        for name, v in ATTENTIONS.items()
        if v.prefix
    ],
)
def test_tokens_see_a_prompt_under(name: str) -> None:
    options = ATTENTIONS[name].small or ATTENTIONS[name].options
    position = "relative" if ATTENTIONS[name].relative else "learned"
    config = small(attention=options, prompt=PROMPT, position=POSITIONS[position].options)
    params, run = parameters(config), encode(config)
    other = {**params, "embedder": {**params["embedder"], "prompt": -params["embedder"]["prompt"]}}
    first, second = (np.asarray(run(one, BATCH).hidden) for one in (params, other))
    assert first.shape == (2, 7, 24) and np.abs(first - second)[BATCH.mask].max() > 1e-3


@pytest.mark.parametrize("name", [name for name, variant in ATTENTIONS.items() if not variant.prefix])
def test_who_has_no_room_for_a_prompt(name: str) -> None:
    config = small(attention=ATTENTIONS[name].options, prompt=PROMPT)
    with pytest.raises(ValueError, match=f"model.attention={name} has no room for model.prompt"):
        check_attention(config)


def test_refusals_of_sizes_and_packed_rows() -> None:
    with pytest.raises(ValueError, match="model.adapter.size=0 must be at least 1"):
        Adapter(size=0)
    with pytest.raises(ValueError, match="model.prompt.size=0 must be at least 1"):
        Prompt(size=0)
    with pytest.raises(ValueError, match="model.prompt stands before one text"):
        check_attention(small(prompt=PROMPT), packed=True)
