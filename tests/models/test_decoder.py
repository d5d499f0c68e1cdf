"""The decoder: what it sees and what it does not, its arrangement by the formula, and token by token as at once."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.attention import Context
from bertjax.attention.base import Memory
from bertjax.attention.cross import CrossAttention
from bertjax.attention.full import FullAttention
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.mask import AttentionMask
from bertjax.layers.mlp import Mlp
from bertjax.layers.norm import Norm
from bertjax.layers.position import T5, Alibi, Relative, Rope
from bertjax.models.block import Block
from bertjax.models.decoder import Decoder, DecoderHead, DecoderOptions, decoder_config
from bertjax.models.decoding import Beam, Greedy, Marks, write_about
from bertjax.models.network import Network
from bertjax.tasks.clm import NextTokenHead
from bertjax.types import Batch, Tree
from tests.helpers import assert_close, declared_parameters, make_batch, small, unbox

LENGTH = 9  # of targets; 7 of sources
MARKS = Marks(start=2, end=3, pad=0)
BATCH = make_batch()


def with_targets(batch: Batch, sizes: tuple[int, ...] = (10, 6), seed: int = 5) -> Batch:
    random = np.random.default_rng(seed)
    size = np.resize(np.asarray(sizes), len(batch.tokens)).astype(np.int32)
    row = random.integers(4, 53, (len(size), LENGTH + 1)).astype(np.int32)
    row = np.where(np.arange(LENGTH + 1)[None, :] < size[:, None], row, 0).astype(np.int32)
    row[:, 0] = MARKS.start
    return batch.with_targets("translate", row=row, size=size, weight=np.ones(len(size), np.float32))


def network(config: EncoderConfig, layers: int | None = None) -> Network:
    return Network(
        config, {"translate": Decoder(decoder_config(config, DecoderOptions(layers)), "translate")}
    )


@functools.cache
def declared(config: EncoderConfig) -> Tree:
    batch = with_targets(make_batch(length=LENGTH))
    start = functools.partial(network(config).init, train=False)
    return jax.eval_shape(start, {"params": jax.random.key(0)}, batch)["params"]


@functools.cache
def params_of(config: EncoderConfig) -> Tree:
    random = np.random.default_rng(1)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        return (0.3 * random.normal(size=leaf.shape) + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, unbox(declared(config)))


def logits_of(config: EncoderConfig, batch: Batch) -> np.ndarray:
    run = jax.jit(
        lambda params, batch: network(config).apply({"params": params}, batch, train=False)["translate"]
    )
    return np.asarray(run(params_of(config), batch))


WAYS = {
    "bert": small(),
    "rotated, scanned": small(block="pre", position=Rope(), scan=True, layers=3, remat="block"),
    "biased": small(block="sandwich", position=T5(8, 6), norm="rmsnorm"),
    "slopes": small(block="parallel", position=Alibi(), bias=False, types=None),
    "shared": small(sharing="all", embedding_width=16),
    "shared, scanned": small(sharing="attention", scan=True, layers=3, first_norm=False, block="pre"),
    "own table": small(tied=False, residual="deepnorm", activation="geglu"),
}
WATCHED = ("rotated, scanned", "shared, scanned")  # every time; the others are slow tests


# ------------------------------------------------------------------------------------------ what it sees


def test_it_sees_what_is_written_and_what_was_read() -> None:
    config, batch = small(), with_targets(make_batch(length=LENGTH))
    whole = logits_of(config, batch)
    assert whole.shape == (2, LENGTH, 56) and (whole[:, :, 53:] < -1e8).all()
    target = batch.targets["translate"]
    later = target["row"].copy()
    later[:, 5] = 7 + later[:, 5] % 11
    changed = logits_of(config, batch.with_targets("translate", row=later))
    np.testing.assert_allclose(changed[:, :5], whole[:, :5], atol=1e-6)
    assert np.abs(changed[0, 5:] - whole[0, 5:]).max(-1).min() > 1e-3
    tokens = np.where(batch.mask, batch.tokens, 9).astype(np.int32)  # padding of the source
    np.testing.assert_allclose(logits_of(config, batch.replace(tokens=tokens)), whole, atol=1e-6)
    tokens[0, 3] = 1 + tokens[0, 3] % 50
    read = logits_of(config, batch.replace(tokens=tokens))
    assert np.abs(read[0] - whole[0]).max(-1).min() > 1e-3
    np.testing.assert_allclose(read[1], whole[1], atol=1e-6)


def test_a_batch_of_short_rows_has_short_targets() -> None:
    """With the same logits at the places that there are; a batch of another task is written about at one place."""
    config, batch = small(), with_targets(make_batch(length=LENGTH))
    names = ("tokens", "mask", "types", "positions", "segments")
    cut = batch.replace(**{name: getattr(batch, name)[:, :7] for name in names})
    whole, short = logits_of(config, batch), logits_of(config, cut)
    assert short.shape == (2, 7, 56)
    np.testing.assert_allclose(short, whole[:, :7], atol=1e-5)
    assert logits_of(config, BATCH).shape == (2, 1, 56)


def test_a_table_of_its_own() -> None:
    """The same as the encoder's while it holds the same numbers, for what goes in and for what comes out; then not."""
    config, batch = small(), with_targets(make_batch(length=LENGTH))
    own = Network(config, {"translate": DecoderHead(DecoderOptions(table="own")).module(config)})
    params = params_of(config)
    table = params["encoder"]["embedder"]["tokens"]
    start = functools.partial(own.init, train=False)
    shapes = unbox(jax.eval_shape(start, {"params": jax.random.key(0)}, batch)["params"])
    assert shapes["heads_translate"]["embedder"]["tokens"].shape == table.shape

    def logits(numbers: np.ndarray) -> np.ndarray:
        head = params["heads_translate"]
        head = {**head, "embedder": {**head["embedder"], "tokens": numbers}}
        whole = {**params, "heads_translate": head}
        return np.asarray(own.apply({"params": whole}, batch, train=False)["translate"])[:, :, :53]

    wanted = logits_of(config, batch)[:, :, :53]
    np.testing.assert_allclose(logits(table), wanted, atol=1e-5)
    row = batch.targets["translate"]["row"][0].tolist()
    place = next(place for place in range(2, LENGTH) if row[place] not in row[:place])
    changed = np.where(np.arange(len(table))[:, None] == row[place], -table, table).astype(np.float32)
    found, others = logits(changed), np.arange(53) != row[place]
    np.testing.assert_allclose(found[0, :place, others], wanted[0, :place, others], atol=1e-5)
    assert np.abs(found[0, :place, ~others] - wanted[0, :place, ~others]).max() > 1e-3
    assert np.abs(found[0, place:, others] - wanted[0, place:, others]).max() > 1e-3


# ------------------------------------------------------------------------------------------ formulas

X = np.random.default_rng(3).normal(size=(2, 7, 24)).astype(np.float32)
MEMORY = Memory(
    np.random.default_rng(4).normal(size=(2, 5, 24)).astype(np.float32),
    np.arange(5)[None] < np.array([[5], [3]]),
)
CONTEXT = Context(mask=AttentionMask(valid=BATCH.mask, causal=True), positions=BATCH.positions, memory=MEMORY)


def softmax(x: np.ndarray) -> np.ndarray:
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def test_cross_attention_equals_numpy() -> None:
    config = small()
    layer = CrossAttention(config, Full())
    shapes = unbox(
        jax.eval_shape(functools.partial(layer.init, train=False), jax.random.key(0), X, CONTEXT)["params"]
    )
    random = np.random.default_rng(6)
    params = jax.tree.map(lambda leaf: random.normal(size=leaf.shape).astype(np.float32), shapes)
    assert set(params) == {"query", "key", "value", "output"}
    y = layer.apply({"params": params}, X, CONTEXT, train=False)
    q = np.einsum("bld,dhk->blhk", X, params["query"]["kernel"]) + params["query"]["bias"]
    k, v = (
        np.einsum("bmd,dhk->bmhk", MEMORY.hidden, params[name]["kernel"]) + params[name]["bias"]
        for name in ("key", "value")
    )
    scores = np.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(8)
    weights = softmax(np.where(MEMORY.mask[:, None, None, :], scores, -np.inf))
    mixed = np.einsum("bhlm,bmhk->blhk", weights, v)
    wanted = np.einsum("blhk,hkd->bld", mixed, params["output"]["kernel"]) + params["output"]["bias"]
    np.testing.assert_allclose(y, wanted, atol=1e-4)


@pytest.mark.parametrize("block", ["post", "pre", "sandwich", "parallel"])
def test_block_equals_its_formula(block: Any) -> None:
    config = small(block=block)
    start = functools.partial(Block(config, Full()).init, train=False)
    shapes = unbox(jax.eval_shape(start, jax.random.key(0), X, CONTEXT, {})["params"])
    random = np.random.default_rng(7)
    params = jax.tree.map(lambda leaf: (0.3 * random.normal(size=leaf.shape)).astype(np.float32), shapes)

    def norm(name: str, y: Any) -> Any:
        return Norm(config).apply({"params": params[name]}, y)

    def attention(y: Any) -> Any:
        return FullAttention(config, Full()).apply({"params": params["attention"]}, y, CONTEXT, train=False)

    def cross(y: Any) -> Any:
        return CrossAttention(config, Full()).apply({"params": params["cross"]}, y, CONTEXT, train=False)

    def mlp(y: Any) -> Any:
        return Mlp(config).apply({"params": params["mlp"]}, y)

    x: Any = X
    match block:
        case "post":
            x = norm("attention_norm", x + attention(x))
            x = norm("cross_norm", x + cross(x))
            x = norm("mlp_norm", x + mlp(x))
        case "pre":
            x = x + attention(norm("attention_norm", x))
            x = x + cross(norm("cross_norm", x))
            x = x + mlp(norm("mlp_norm", x))
        case "sandwich":
            x = x + norm("attention_out_norm", attention(norm("attention_norm", x)))
            x = x + norm("cross_out_norm", cross(norm("cross_norm", x)))
            x = x + norm("mlp_out_norm", mlp(norm("mlp_norm", x)))
        case "parallel":
            y = norm("norm", x)
            x = x + attention(y) + cross(y) + mlp(y)
    found = Block(config, Full()).apply({"params": params}, X, CONTEXT, {}, False)
    np.testing.assert_allclose(found, x, atol=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_its_parameters_are_called_as_the_encoders(name: str) -> None:
    """But for the branch that an encoder has not, and what an encoder has that a decoder shares or needs not."""

    def paths(tree: Tree) -> dict[str, Any]:
        leaves = jax.tree_util.tree_leaves_with_path(unbox(tree))
        return {jax.tree_util.keystr(p, simple=True, separator="/"): leaf.shape for p, leaf in leaves}

    config = WAYS[name]
    own = paths(declared(config)["heads_translate"])
    encoder = paths(declared_parameters(dataclasses.replace(config, pooler=False)))
    assert {path for path in encoder if path not in own} == {"embedder/tokens"}
    assert all(own[path] == shape for path, shape in encoder.items() if path in own)
    new = {path for path in own if path not in encoder}
    assert new and all(path.startswith("head/") or "/cross" in path for path in new)


# ------------------------------------------------------------------------------------------ token by token


def write(config: EncoderConfig, params: Tree, batch: Batch, search: Any) -> Any:
    net = network(config)

    def apply(*inputs: Any, variables: Any = None, **options: Any) -> Any:
        return net.apply({"params": params, **(variables or {})}, *inputs, **options)

    hidden = apply(batch, method="encode").hidden
    keys = jax.vmap(jax.random.key)(jnp.arange(len(batch.tokens)))
    return write_about(apply, "translate", Memory(hidden, batch.mask), search, MARKS, LENGTH, keys)


@pytest.mark.parametrize(
    "name", [name if name in WATCHED else pytest.param(name, marks=pytest.mark.slow) for name in WAYS]
)
def test_token_by_token_as_at_once(name: str) -> None:
    """What a search has written has the probability that it says, and each token is the best, read all at once."""
    config, batch = WAYS[name], make_batch(length=LENGTH)
    written = jax.device_get(jax.jit(lambda p, b: write(config, p, b, Greedy()))(params_of(config), batch))
    tokens, size = written.tokens[:, 0], written.size[:, 0]
    row = np.concatenate([np.full((2, 1), MARKS.start, np.int32), tokens], 1)
    again = batch.with_targets("translate", row=row, size=size + 1, weight=np.ones(2, np.float32))
    logits = logits_of(config, again)
    real = np.arange(LENGTH)[None, :] < size[:, None]
    logs = np.asarray(jax.nn.log_softmax(logits, -1))
    np.testing.assert_array_equal(np.where(real, logits.argmax(-1), 0), tokens)
    chosen = np.take_along_axis(logs, tokens[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(written.logs[:, 0], (chosen * real).sum(1), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["biased", *(pytest.param(name, marks=pytest.mark.slow) for name in ("bert", "rotated, scanned"))]
)
def test_every_step_gives_the_logits_of_the_whole_row(name: str) -> None:
    config, batch = WAYS[name], with_targets(make_batch(length=LENGTH))
    net, variables = network(config), {"params": params_of(config)}
    memory = Memory(net.apply(variables, batch, method="encode").hidden, batch.mask)
    row = batch.targets["translate"]["row"]

    @jax.jit
    def steps() -> Any:
        kept: Any = {}
        found = []
        for place in range(LENGTH):
            now = {"length": LENGTH, "method": "write", "mutable": ["cache", "memory"]}
            inputs = ("translate", row[:, place], jnp.asarray(place), memory)
            logits, kept = net.apply({**variables, **kept}, *inputs, **now)
            found.append(logits)
        return jnp.stack(found, 1)

    found, whole = np.asarray(steps()), logits_of(config, batch)
    real = np.arange(LENGTH)[None, :] < batch.targets["translate"]["size"][:, None] - 1
    np.testing.assert_allclose(found[real], whole[real], atol=1e-5, rtol=1e-5)


def test_beams_are_written_side_by_side() -> None:
    """Each text has the probability that it says, although its beginning came from another place of the batch."""
    config, batch = small(), make_batch(length=LENGTH)
    written = jax.device_get(
        jax.jit(lambda p, b: write(config, p, b, Beam(beams=3)))(params_of(config), batch)
    )
    assert len({tuple(text) for text in written.tokens.reshape(-1, LENGTH)}) == 6
    for beam in range(3):
        tokens, size = written.tokens[:, beam], written.size[:, beam]
        row = np.concatenate([np.full((2, 1), MARKS.start, np.int32), tokens], 1)
        again = batch.with_targets("translate", row=row, size=size + 1, weight=np.ones(2, np.float32))
        logs = np.asarray(jax.nn.log_softmax(logits_of(config, again), -1))
        chosen = np.take_along_axis(logs, tokens[:, :, None], 2)[:, :, 0]
        real = np.arange(LENGTH)[None, :] < size[:, None]
        np.testing.assert_allclose(written.logs[:, beam], (chosen * real).sum(1), rtol=1e-5, atol=1e-4)


def test_on_a_mesh_as_on_one_device() -> None:
    """Rows over replicas, heads and vocabulary over tensor, sources over sequence."""
    config = small(heads=4, scan=True)
    batch = with_targets(make_batch((8, 5, 8, 3)))
    params, where = params_of(config), declared(config)
    whole = logits_of(config, batch)
    run = jax.jit(lambda p, b: write(config, p, b, Beam(beams=2)))
    written = jax.device_get(run(params, batch))
    rules = "fsdp_tensor_sequence"
    mesh = sharding.make_mesh(sharding.MeshConfig(data=1, fsdp=2, tensor=2, sequence=2, rules=rules))
    places = sharding.parameter_shardings(where, mesh, rules)
    with sharding.activate(mesh, rules):
        spread = jax.device_put(params, places)
        both = jax.jit(
            lambda p, b: (
                network(config).apply({"params": p}, b, train=False)["translate"],
                write(config, p, b, Beam(beams=2)),
            )
        )
        logits, other = jax.device_get(both(spread, batch))
    assert_close(logits, whole, 1e-4)
    np.testing.assert_array_equal(other.tokens, written.tokens)
    np.testing.assert_allclose(other.logs, written.logs, atol=1e-4)


def test_an_encoder_of_one_direction_writes_by_itself() -> None:
    """A text that goes on as it began, with the probabilities that it has when it is read at once."""
    config = small(direction="left_to_right", block="pre", position=Rope(), scan=True)
    net, batch = Network(config, {"clm": NextTokenHead(config, "clm")}), make_batch((9, 9))
    shapes = jax.eval_shape(functools.partial(net.init, train=False), {"params": jax.random.key(0)}, batch)[
        "params"
    ]
    random = np.random.default_rng(2)
    params = jax.tree.map(lambda leaf: 0.3 * random.normal(size=leaf.shape).astype(np.float32), unbox(shapes))

    def apply(*inputs: Any, variables: Any = None, **options: Any) -> Any:
        return net.apply({"params": params, **(variables or {})}, *inputs, **options)

    prefix, keys = np.array([[7, 9], [11, -1]], np.int32), jax.vmap(jax.random.key)(jnp.arange(2))
    run = jax.jit(lambda: write_about(apply, "clm", None, Greedy(), MARKS, 8, keys, prefix))
    written = jax.device_get(run())
    tokens, size = written.tokens[:, 0], written.size[:, 0]
    assert tokens[0, :2].tolist() == [7, 9] and tokens[1, 0] == 11
    row = np.concatenate([np.full((2, 1), MARKS.start, np.int32), tokens], 1)
    again = batch.replace(tokens=row, types=np.zeros_like(row))
    logs = np.asarray(jax.nn.log_softmax(apply(again, train=False)["clm"]["logits"], -1))[:, :-1]
    places = np.arange(8)[None, :]
    real = (places < size[:, None]) & (places >= np.array([[2], [1]]))
    np.testing.assert_array_equal(logs.argmax(-1)[real], tokens[real])
    chosen = np.take_along_axis(logs, tokens[:, :, None], 2)[:, :, 0]
    np.testing.assert_allclose(written.logs[:, 0], (chosen * real).sum(1), rtol=1e-5, atol=1e-4)
    blind = Network(small(), {"clm": NextTokenHead(small(), "clm")})
    with pytest.raises(
        ValueError, match="from left to right with full attention, and this model has model.direction=both"
    ):
        blind.init(jax.random.key(0), "clm", prefix[:, 0], jnp.asarray(0), length=8, method="write")


# ------------------------------------------------------------------------------------------ refusals


def test_what_no_decoder_can_be() -> None:
    with pytest.raises(ValueError, match="decoder.layers=0: a decoder has at least one"):
        DecoderOptions(layers=0)
    with pytest.raises(ValueError, match="model.position=relative is read by disentangled attention"):
        decoder_config(small(position=Relative()), DecoderOptions())
