"""What many tests share: a small encoder whose sizes are all different, batches for it, and comparisons.

B2 L7 D24 H3 K8 F40 V53 (M is L), so that an exchanged axis cannot hide.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.layers.config import EncoderConfig
from bertjax.models.encoder import Encoder
from bertjax.sharding import Declared
from bertjax.types import Batch, Tree

SMALL = EncoderConfig(
    layers=2,
    width=24,
    heads=3,
    feedforward=40,
    vocab=53,
    vocab_multiple=8,
    max_length=16,
    norm_epsilon=1e-6,
    dropout=0.0,
    attention_dropout=0.0,
)


def small(**changes: Any) -> EncoderConfig:
    """The small encoder with some fields changed."""
    return dataclasses.replace(SMALL, **changes)


def make_batch(
    lengths: Sequence[int] = (7, 5), *, length: int | None = None, vocab: int = 53, seed: int = 0
) -> Batch:
    """Random rows of the given numbers of real tokens, padded to `length` (or the longest)."""
    random = np.random.default_rng(seed)
    rows, length = len(lengths), length or max(lengths)
    mask = np.arange(length)[None, :] < np.asarray(lengths)[:, None]
    return Batch(
        tokens=np.where(mask, random.integers(1, vocab, (rows, length)), 0).astype(np.int32),
        mask=mask,
        types=np.where(mask, random.integers(0, 2, (rows, length)), 0).astype(np.int32),
        positions=np.where(mask, np.arange(length)[None, :], 0).astype(np.int32),
        segments=mask.astype(np.int32),
        targets={},
        example_id=np.arange(rows, dtype=np.int32),
        epoch=np.zeros(rows, np.int32),
    )


def pack(batch: Batch, length: int) -> Batch:
    """All rows of a batch as the segments of one row."""
    places = [
        (row, position) for row in range(len(batch.mask)) for position in np.flatnonzero(batch.mask[row])
    ]
    fill = length - len(places)

    def one(field: np.ndarray) -> np.ndarray:
        return np.asarray([[field[place] for place in places] + [0] * fill], field.dtype)

    return batch.replace(
        tokens=one(batch.tokens),
        mask=one(batch.mask),
        types=one(batch.types),
        positions=one(batch.positions),
        segments=np.asarray([[row + 1 for row, _ in places] + [0] * fill], np.int32),
        example_id=np.zeros(1, np.int32),
        epoch=np.zeros(1, np.int32),
    )


@functools.cache
def encode(config: EncoderConfig, *, train: bool = False) -> Callable[..., Any]:
    """The compiled encoder: (params, batch, dropout key or None) to its output."""

    def run(params: Tree, batch: Batch, key: Any = None) -> Any:
        return Encoder(config).apply(
            {"params": params}, batch, train=train, rngs={} if key is None else {"dropout": key}
        )

    return jax.jit(run)


@functools.cache
def loss_and_gradient(config: EncoderConfig, *, train: bool = False) -> Callable[..., Any]:
    """The compiled value and gradient of a scalar of all real hidden states and of the pooled token."""

    def loss(params: Tree, batch: Batch, key: Any = None) -> Any:
        output = encode(config, train=train)(params, batch, key)
        weights = jnp.sin(jnp.arange(output.hidden.size, dtype=jnp.float32)).reshape(output.hidden.shape)
        real = batch.mask[:, :, None]
        pooled = jnp.where(batch.mask[:, :1], output.pooled.astype(jnp.float32), 0.0)
        return (jnp.where(real, output.hidden, 0).astype(jnp.float32) * weights).sum() + jnp.square(
            pooled
        ).sum()

    return jax.jit(jax.value_and_grad(loss))


@functools.cache
def declared_parameters(config: EncoderConfig) -> Tree:
    """Shapes of an encoder's parameters, each with the names of its axes."""
    start = functools.partial(Encoder(config).init, train=False)
    return jax.eval_shape(start, {"params": jax.random.key(0)}, make_batch())["params"]


def parameters(config: EncoderConfig, seed: int = 1) -> Tree:
    """Random values for every parameter of an encoder, biases and scales too, without compiling."""
    random = np.random.default_rng(seed)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        return (0.2 * random.normal(size=leaf.shape) + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, unbox(declared_parameters(config)))


def unbox(tree: Tree) -> Tree:
    """The arrays of a tree of declared parameters."""
    return jax.tree.map(lambda box: box.value, tree, is_leaf=lambda leaf: isinstance(leaf, Declared))


def assert_close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Two trees of one structure, their leaves equal within the tolerance (relative above one)."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, left), right in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        np.testing.assert_allclose(
            np.asarray(left, np.float32),
            np.asarray(right, np.float32),
            rtol=tolerance,
            atol=tolerance,
            err_msg=jax.tree_util.keystr(path),
        )
