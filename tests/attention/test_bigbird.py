"""BigBird: its plan, and its blocks against a masked full matrix in numpy."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention.bigbird import BigBird, first_plan, plan_of
from tests.attention.battery import refusal
from tests.attention.plain import bias_of, dense, matrix, ragged, run_layer


def seen_by(head: int, own: int, blocks: int, random: int, seed: int = 0) -> list[int]:
    index, used = plan_of(blocks, 4, random, seed)
    return [int(n) for n in index[head, own][used[head, own]]]


@pytest.mark.parametrize(("blocks", "random"), [(12, 3), (7, 2), (4, 3), (2, 1), (1, 0)])
def test_the_plan_has_neighbours_ends_and_random_blocks(blocks: int, random: int) -> None:
    for head in range(4):
        for own in range(blocks):
            seen = seen_by(head, own, blocks, random)
            fixed = {0, blocks - 1} | {n for n in (own - 1, own, own + 1) if 0 <= n < blocks}
            assert len(seen) == len(set(seen)) and fixed <= set(seen)
            assert len(seen) == min(blocks, len(fixed) + random)


def test_plans_differ_by_head_and_seed_and_repeat() -> None:
    rows = [tuple(tuple(seen_by(h, n, 40, 3, s)) for n in range(40)) for h in (0, 1) for s in (0, 1)]
    assert len(set(rows)) == 4
    plan_of.cache_clear()
    assert rows[0] == tuple(tuple(seen_by(0, n, 40, 3, 0)) for n in range(40))


@pytest.mark.parametrize(("length", "block", "random"), [(24, 2, 1), (29, 3, 2), (16, 16, 0), (7, 4, 1)])
@pytest.mark.parametrize("packed", [False, True])
def test_equals_a_masked_matrix(length: int, block: int, random: int, packed: bool) -> None:
    mask = ragged(length, packed)
    scores = np.random.default_rng(1).standard_normal((4, 2 * length - 1)).astype(np.float32)
    layer = run_layer(BigBird(block=block, random=random, seed=5), length, mask, jnp.asarray(scores))
    blocks = -(-length // block)
    allowed = np.zeros((4, length, length), bool)
    for head in range(4):
        for query in range(length):
            own = query // block
            seen = range(blocks) if own in (0, blocks - 1) else seen_by(head, own, blocks, random, 5)
            allowed[head, query] = np.isin(np.arange(length) // block, list(seen))
    assert random == 0 or blocks <= 2 or not allowed.all()
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    layer.check(dense(q, k, v, matrix(mask) & allowed[None], bias_of(scores)), np.asarray(mask.valid))


def test_layers_take_turns_with_plans() -> None:
    seeds = [options.seed for options in BigBird(plans=3, seed=2).period()]
    assert len(set(seeds)) == 3 and not set(seeds) & {o.seed for o in BigBird(plans=3, seed=1).period()}
    assert BigBird(plans=1).period() == (BigBird(plans=1),)
    assert "random" in refusal(lambda: dataclasses.replace(BigBird(), random=-1))


def test_first_blocks_instead_of_random_ones() -> None:
    """The keys of the first block count once more for every random block; short rows are exact."""
    random, block, length = 2, 3, 35  # twelve blocks, three more than are exact
    mask = ragged(length)
    layer = run_layer(BigBird(block=block, random=random, plan="first"), length, mask)
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    own, last = np.arange(length) // block, (length - 1) // block
    near = np.abs(own[:, None] - own[None]) <= 1
    ends = np.isin(own, (0, last))
    allowed = matrix(mask) & (near | ends[:, None] | ends[None])
    often = np.where((own[None] == 0) & ~ends[:, None], np.log(1 + random), 0.0)
    layer.check(dense(q, k, v, allowed, often), np.asarray(mask.valid))
    assert [first_plan(n, 4, random)[0].shape[-1] for n in (9, 10)] == [9, 5 + random]
    layer = run_layer(BigBird(block=block, random=random, plan="first"), 27, ragged(27))
    q, k, v = (layer.project(name) for name in ("query", "key", "value"))
    layer.check(dense(q, k, v, matrix(ragged(27))), np.asarray(ragged(27).valid))
