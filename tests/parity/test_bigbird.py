"""BigBird's block-sparse attention equals that of `transformers` with the same weights and the same random blocks."""

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.attention import make_attention
from bertjax.attention.base import Context
from bertjax.attention.bigbird import BigBird, plan_of
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from tests.parity.weights import array, no_output, shake, to_heads


@pytest.mark.parity
def test_block_sparse_attention() -> None:
    torch = pytest.importorskip("torch")
    modeling = pytest.importorskip("transformers.models.big_bird.modeling_big_bird")
    block, random, blocks, heads = 4, 2, 10, 3
    sizes = dict(hidden_size=24, num_attention_heads=heads, block_size=block, num_random_blocks=random)
    theirs = shake(modeling.BigBirdBlockSparseAttention(modeling.BigBirdConfig(**sizes), seed=0))

    def our_plan(*arguments: Any, **options: Any) -> list[np.ndarray]:
        """The random part of our plan: per head, blocks 1 to the last but one, their random blocks."""
        index, used = plan_of(blocks, heads, random, 7)
        found = np.zeros((heads, blocks - 2, random), np.int64)
        for head in range(heads):
            for own in range(1, blocks - 1):
                near = {0, own - 1, own, own + 1, blocks - 1}
                found[head, own - 1] = [n for n in index[head, own][used[head, own]] if n not in near]
        return list(found)

    theirs._bigbird_block_rand_mask_with_head = (
        our_plan  # its own plan is random when training and empty otherwise
    )
    length, draw = block * blocks, np.random.default_rng(0)
    x = draw.standard_normal((2, length, 24)).astype(np.float32)
    mask = np.arange(length)[None] < np.asarray([[40], [33]])
    with torch.no_grad():
        given = modeling.BigBirdModel.create_masks_for_block_sparse_attn(
            torch.tensor(mask, dtype=torch.float32), block
        )
        blocked, band, from_mask, to_mask = given
        found = theirs(
            torch.tensor(x),
            band_mask=band,
            from_mask=from_mask,
            to_mask=to_mask,
            from_blocked_mask=blocked,
            to_blocked_mask=blocked,
        )[0]

    options = BigBird(block=block, random=random, seed=7)
    config = EncoderConfig(width=24, heads=heads, attention=options, attention_dropout=0.0)
    parameters = {name: to_heads(getattr(theirs, name), heads) for name in ("query", "key", "value")}
    parameters["output"] = no_output(24, heads)
    context = Context(
        AttentionMask(valid=jnp.asarray(mask)), jnp.broadcast_to(jnp.arange(length)[None], (2, length))
    )
    ours = make_attention(config, options, "attention").apply(
        {"params": parameters}, jnp.asarray(x), context, train=False
    )
    np.testing.assert_allclose(np.asarray(ours)[mask], array(found)[mask], atol=1e-5)
