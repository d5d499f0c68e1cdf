"""BigBird: blocks of queries meet a few blocks of keys: near, global and random ones (2007.14062, Section 2).

    block n sees   n - 1, n, n + 1   and the first and the last   and `random` others
    the first and the last block see everything

Cost: O(L block (5 + random)) time and memory, and O(2 block L) for the two global blocks. This is the ITC form, whose
global tokens are tokens of the row itself. A block that is near, global and random at once counts once, and a row
with too few blocks to draw from sees them all.

The random blocks are drawn by numpy from (seed, head, number of blocks), once for each of `plans` layers in turn, so
that they cost no state and are the same in every run. Deviations: the paper redraws nothing either, but every layer
has a plan of its own there; ours repeat after `plans` layers, so that layers can be scanned. With packed documents
a block sees only its own document inside the blocks that the plan names.

`plan=first` is what transformers computes of published models whenever it does not train: every random block is the
first one, whose keys so count several times, and a row of up to 5 + 2 random blocks is attended to exactly.
"""

import dataclasses
import functools
import math
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.attention.base import Attention, Context
from bertjax.attention.full import normalise
from bertjax.attention.window import to_blocks
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dropout import Dropout
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class BigBird(AttentionOptions):
    """Block-sparse attention: neighbours, the two ends of the row, and random blocks."""

    block: int = 64
    """Tokens of one block."""
    random: int = 3
    """Random blocks that each block of queries sees."""
    plans: int = 4
    """Layers after which the random blocks repeat; under model.scan, as many blocks are compiled."""
    seed: int = 0
    """Which random blocks are drawn."""
    plan: Literal["drawn", "first"] = "drawn"
    """Random blocks are drawn, or, as transformers computes outside of training, all the first one."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        for name, least in (("block", 1), ("random", 0), ("plans", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"model.attention.{name}={getattr(self, name)}: {least} or more")

    def period(self) -> tuple[AttentionOptions, ...]:
        """Layers that differ by their seed."""
        return tuple(
            dataclasses.replace(self, plans=1, seed=self.seed * self.plans + i) for i in range(self.plans)
        )


class BigBirdAttention(Attention):
    """Gathers the blocks of keys that each block of queries sees."""

    options: BigBird

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """Block-sparse scores, softmax, weighted values; the two global blocks densely."""
        block, length = self.options.block, q.shape[1]
        blocks, heads = -(-length // block), q.shape[2]
        if self.options.plan == "first":
            index, used = first_plan(blocks, heads, self.options.random)
        else:
            index, used = plan_of(blocks, heads, self.options.random, self.options.seed)
        ends = np.unique([0, blocks - 1])
        sparse = self.sparse(q, k, v, context, index, used, train)
        dense = self.dense(q, k, v, context, ends, train)
        y = jnp.asarray(sparse).at[:, ends].set(dense)
        return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length]

    def sparse(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B L H K"],
        v: Float[Array, "B L H K"],
        context: Context,
        index: np.ndarray,
        used: np.ndarray,
        train: bool,
    ) -> Float[Array, "B blocks block H K"]:
        """Every block against the blocks of its plan."""
        block, length = self.options.block, q.shape[1]
        place = np.arange(block, dtype=np.int32)
        own = (block * np.arange(index.shape[1])[:, None] + place)[None, None, :, :, None]
        seen = (block * index[..., None] + place).reshape(*index.shape[:2], -1)[None, :, :, None, :]
        seen = np.where(np.repeat(used, block, -1)[None, :, :, None, :], seen, length)  # outside: forbidden
        near_k, near_v = (gather_blocks(to_blocks(x, block), index) for x in (k, v))
        scores = jnp.einsum(
            "bnshk,bhntk->bhnst", to_blocks(q, block), near_k, preferred_element_type=jnp.float32
        )
        scores = scores / math.sqrt(q.shape[-1])
        queries, keys = jnp.asarray(own, jnp.int32), jnp.asarray(seen, jnp.int32)
        if context.scores is not None:
            middle = context.scores.shape[1] // 2
            distance = jnp.clip(keys - queries + middle, 0, 2 * middle)[0]
            scores = (
                scores + jax.vmap(jnp.take)(context.scores, distance)[None]
            )  # each head has keys of its own
        allowed = context.mask.pairs(queries, keys) & (keys < length)
        weights = normalise(scores, allowed).astype(q.dtype)
        weights = Dropout(self.config.attention_dropout)(weights, train=train)
        y = jnp.einsum("bhnst,bhntk->bnshk", weights, near_v, preferred_element_type=jnp.float32)
        return y.astype(q.dtype)

    def dense(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B L H K"],
        v: Float[Array, "B L H K"],
        context: Context,
        ends: np.ndarray,
        train: bool,
    ) -> Float[Array, "B ends block H K"]:
        """The global blocks against the whole row."""
        block, length = self.options.block, q.shape[1]
        few = to_blocks(q, block)[:, ends]
        scores = jnp.einsum("bnshk,bmhk->bhnsm", few, k, preferred_element_type=jnp.float32)
        scores = scores / math.sqrt(q.shape[-1])
        queries = jnp.asarray(block * ends[:, None] + np.arange(block), jnp.int32)[None, None, :, :, None]
        keys = jnp.arange(length)[None, None, None, None, :]
        if context.scores is not None:
            scores = scores + context.bias_at((keys - queries)[0, 0])[None]
        weights = normalise(scores, context.mask.pairs(queries, keys)).astype(q.dtype)
        weights = Dropout(self.config.attention_dropout)(weights, train=train)
        y = jnp.einsum("bhnsm,bmhk->bnshk", weights, v, preferred_element_type=jnp.float32)
        return y.astype(q.dtype)


@functools.cache
def plan_of(blocks: int, heads: int, random: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """For each head and block [H blocks W]: the blocks of keys that it sees, and which entries of that list count."""
    width = min(blocks, 5 + random)
    index = np.zeros((heads, blocks, width), np.int32)
    used = np.zeros((heads, blocks, width), bool)
    for head in range(heads):
        draw = np.random.default_rng((seed, head, blocks))
        for own in range(blocks):
            fixed = sorted({0, blocks - 1, *(n for n in (own - 1, own, own + 1) if 0 <= n < blocks)})
            others = np.setdiff1d(np.arange(blocks), fixed)
            seen = [*fixed, *draw.permutation(others)[:random]][:width]
            index[head, own, : len(seen)] = seen
            used[head, own, : len(seen)] = True
    return index, used


@functools.cache
def first_plan(blocks: int, heads: int, random: int) -> tuple[np.ndarray, np.ndarray]:
    """The same where every random block is the first one; all blocks in short rows."""
    if blocks <= 5 + 2 * random:
        index = np.broadcast_to(np.arange(blocks, dtype=np.int32), (heads, blocks, blocks))
        return index, np.ones(index.shape, bool)
    index, used = plan_of(blocks, heads, 0, 0)
    wide = ((0, 0), (0, 0), (0, random))
    return np.pad(index, wide), np.pad(used, wide, constant_values=True)


def gather_blocks(x: Float[Array, "B blocks block H K"], index: np.ndarray) -> Float[Array, "B H blocks t K"]:
    """The blocks that each head's plan names, joined."""

    def one_head(rows: Array, plan: Array) -> Array:  # [B n s K], [n W] -> [B n W s K]
        return rows[:, plan]

    y = jax.vmap(one_head, in_axes=(3, 0), out_axes=1)(x, jnp.asarray(index))
    return y.reshape(*y.shape[:3], -1, y.shape[-1])
