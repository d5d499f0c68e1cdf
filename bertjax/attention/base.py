"""What every attention variant shares: projections, the residual branch's interface, and the context of a layer.

    q = x Wq,  k = x Wk,  v = x Wv,      y = mix(q, k, v) Wo

A row that is written token by token (`Context.place`) keeps the keys and values of its tokens in the collection
`cache`, so that a new token costs a query and not a row.

A variant overrides `mix`, or `__call__` where there is no q, k and v. It reads its own options from
`self.options` and everything else from `self.config`. `Variant` is its line in the registry: what it can do, what
it costs in parameters, and where it meets full attention.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.dense import Role, dense
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position import rotate
from bertjax.sharding import shard
from bertjax.types import Array, Float, Int, Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """What another stack has read, for layers that look at it (`cross.py`)."""

    hidden: Array | None  # float [B M D]; None once its keys and values are kept
    mask: Array  # bool [B M], True at real tokens


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Context:
    """What all layers of one forward pass have in common."""

    mask: AttentionMask
    positions: Array  # int [B L]
    # What positions say about pairs, for each distance from 1 - L to L - 1. A packed document's positions differ by the
    # same distances as its places in the row, so the row's length is all there is to know.
    scores: Array | None = None  # float [H 2L-1], added to the scores, by distance key - query
    relative: Array | None = None  # float [2L-1 D], vectors, by distance query - key
    step: Array | int | None = None  # int [], of training; None outside of it
    memory: Memory | None = None
    # Where the one token of every row stands that is read now; the mask then tells which of all places are written.
    place: Array | None = None  # int []

    @classmethod
    def of_token(
        cls, place: Array, rows: int, length: int, scores: Array | None, memory: Memory | None = None
    ) -> "Context":
        """That of one token of every row of at most `length`, of which those before it are kept."""
        written = jnp.arange(length)[None, :] <= place
        return cls(
            mask=AttentionMask(valid=jnp.broadcast_to(written, (rows, length))),
            positions=jnp.broadcast_to(place.astype(jnp.int32), (rows, 1)),
            scores=scores,
            memory=memory,
            place=place,
        )

    @property
    def bias(self) -> Float[Array, "1 H L M"] | None:
        """What is added to the scores, as a matrix of all pairs, or of the one query and all keys."""
        if self.scores is None:
            return None
        heads, distances = self.scores.shape
        if self.place is not None:
            length = (distances + 1) // 2
            row = jax.lax.dynamic_slice(self.scores, (0, length - 1 - self.place), (heads, length))
            return row[None, :, None, :]
        rows = jnp.broadcast_to(self.scores[None, :, None, :], (1, heads, (distances + 1) // 2, distances))
        return by_pairs(rows)

    def bias_at(self, distance: Int[Array, "*n"]) -> Float[Array, "H *n"]:
        """What is added to the scores of keys at that distance from their query; outside the row the nearest."""
        assert self.scores is not None
        middle = self.scores.shape[1] // 2
        return jnp.take(self.scores, jnp.clip(distance + middle, 0, 2 * middle), axis=1)


def by_pairs(x: Float[Array, "B H L E"]) -> Float[Array, "B H L L"]:
    """y[i, j] = x[i, j - i + L - 1], for E = 2 L - 1: one more column, and a row of memory is E long, not E + 1."""
    rows, heads, length, distances = x.shape
    assert distances == 2 * length - 1, x.shape
    flat = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 1))).reshape(rows, heads, -1)
    return flat[:, :, : length * distances].reshape(rows, heads, length, distances)[..., length - 1 :]


class Attention(nn.Module):
    """Projects, mixes, projects back."""

    config: EncoderConfig
    options: AttentionOptions

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, *, train: bool) -> Float[Array, "B L D"]:
        """The branch without its residual sum."""
        q = self.rotate(self.project(x, "query"), context.positions)
        k = self.rotate(self.project(x, "key"), context.positions)
        v = self.project(x, "value")
        if context.place is not None:
            k, v = self.keep("keys", k, context), self.keep("values", v, context)
        return self.output(self.mix(q, k, v, context, train=train))

    def keep(self, name: str, new: Float[Array, "B 1 H K"], context: Context) -> Float[Array, "B M H K"]:
        """Keys or values of all places of the row, those of the new token among them."""
        assert context.mask.valid is not None and context.place is not None
        rows, _, heads, size = new.shape
        shape = (rows, context.mask.valid.shape[1], heads, size)
        kept = self.variable("cache", name, jnp.zeros, shape, new.dtype)
        kept.value = shard(
            jax.lax.dynamic_update_slice(kept.value, new, (0, context.place, 0, 0)),
            *("batch", "key_length", "act_heads", "act_head_size"),
        )
        return kept.value

    def project(self, x: Float[Array, "B L D"], name: str, *, heads: int | None = None) -> Array:
        """Queries, keys or values [B L H K] of every head, or of `heads` of them."""
        c, heads = self.config, heads or self.config.heads
        shape, axes = (c.width, heads, c.key_size), ("width", "heads", "head_size")
        role: Role = "branch" if name.endswith("value") else "score"
        y = dense(c, "bld,dhk->blhk", shape, axes, role, name=name)(x)
        y = shard(y, "batch", "length", "act_heads", "act_head_size")
        if name == "query" or self.in_ring:
            return y
        # Keys and values are made part by part, and then brought together: every query meets all of them.
        return shard(y, "batch", "key_length", "act_heads", "act_head_size")

    @property
    def in_ring(self) -> bool:
        """Whether keys and values stay where they are and go round the devices that share a row (`ring.py`)."""
        return False

    def rotate(self, x: Float[Array, "B L H K"], positions: Int[Array, "B L"]) -> Float[Array, "B L H K"]:
        """Queries or keys turned by their positions, where the position scheme turns them."""
        return rotate(self.config, x, positions)

    def output(self, y: Float[Array, "B L H K"]) -> Float[Array, "B L D"]:
        """The heads, joined and projected back to the width of the residual stream."""
        c = self.config
        y = shard(y, "batch", "length", "act_heads", "act_head_size")
        back, axes = (c.heads, c.key_size, c.width), ("heads", "head_size", "width")
        return dense(c, "blhk,hkd->bld", back, axes, "exit", name="output")(y)

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """What each query gathers from the values."""
        raise AssertionError(f"{type(self).__name__} overrides neither mix nor __call__")


def require_length(config: EncoderConfig, length: int, name: str) -> None:
    """Refuses a row that parameters with a length of their own cannot serve."""
    if length > config.max_length:
        raise ValueError(
            f"model.attention={name} has parameters for {config.max_length} tokens and the row has {length}: "
            f"set model.max_length={length}, or train a variant that takes any length"
        )


def _same_parameters(own: Tree, full: Tree) -> Tree:
    return {**own, **full}


@dataclasses.dataclass(frozen=True)
class Variant:
    """A registry entry: default options, the module, and what it can do."""

    options: AttentionOptions
    module: type[Any]
    parameters: int  # of one layer at the size of BERT-base, rows of 512: its price, and pinned by a test
    small: AttentionOptions | None = None  # for rows of a few tokens, where the default would not show itself
    segments: bool = True  # keeps packed documents apart
    causal: bool = True  # obeys a causal mask
    rotate: bool = True  # takes positions that turn queries and keys
    bias: bool = True  # takes positions that add to the scores
    prefix: bool = (
        True  # takes learned vectors before the tokens: no token has a place of its own, and all see them
    )
    any_length: bool = True  # has no parameters that end at model.max_length
    feedforward: bool = True  # stands beside a feed-forward part; False for what takes its place as well
    relative: bool = False  # takes, and needs, positions that are a vector per distance
    linear: bool = False  # time and memory grow with the length, not with its square
    exact: Callable[[EncoderConfig], AttentionOptions] | None = (
        None  # the setting that equals full attention ...
    )
    adapt: Callable[[Tree, Tree], Tree] = (
        _same_parameters  # ... with these parameters, from (its own, full's)
    )
