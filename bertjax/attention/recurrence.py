"""Sums of outer products over the tokens that a query may see, in O(L): the machine of every kernelised attention.

    everything seen      y_i = q_i Σ_j k_jᵀ v_j                                 two products, no loop
    one document         y_i = q_i Σ_j [same document] k_jᵀ v_j                 blocks
    what lies before     y_i = q_i Σ_{j <= i} exp(a_{j+1} + ... + a_i) k_jᵀ v_j      blocks; a <= 0 forgets

Blocks: inside a block of `block` tokens the products q kᵀ are formed and masked; what a query gets from other blocks
comes through one state [R K] at each border, which belongs to the document that crosses it and is handed from block
to block by a scan (the chunked form of Katharopoulos et al., 2006.16236, Section 3.3, and of Dao and Gu, 2405.21060,
Section 6). Time O(L (block + R) K), memory O(L (block + R K / block)), forward and backward.

q, k are features [B L H R], v values [B L H K]. Keys that nobody may see must be zero (`hide`). Documents are runs of
equal segment ids, as packing lays them.
"""

from typing import Any

import jax
import jax.numpy as jnp

from bertjax.attention.full import FORBIDDEN
from bertjax.attention.window import to_blocks
from bertjax.layers.mask import AttentionMask
from bertjax.types import Array, Bool, Float, Int

BLOCK = 128  # a multiple of every accelerator's tile, and about the size of the states it saves


def hide(x: Float[Array, "B L *n"], mask: AttentionMask) -> Float[Array, "B L *n"]:
    """x with zeros at the padding."""
    if mask.valid is None:
        return x
    return jnp.where(mask.valid.reshape(*mask.valid.shape, *(1,) * (x.ndim - 2)), x, jnp.zeros((), x.dtype))


def visible_sum(
    q: Float[Array, "B L H R"],
    k: Float[Array, "B L H R"],
    v: Float[Array, "B L H K"],
    mask: AttentionMask,
    *,
    block: int = BLOCK,
) -> Float[Array, "B L H K"]:
    """Σ (q_i · k_j) v_j over the keys that the mask lets query i see, in float32."""
    if mask.window is not None:
        raise ValueError(
            "a sum in linear time cannot stop at a window: model.attention can be window or full"
        )
    if mask.segments is None and not mask.causal:
        state = jnp.einsum("bmhr,bmhk->bhrk", k, v, preferred_element_type=jnp.float32).astype(q.dtype)
        return jnp.einsum("blhr,bhrk->blhk", q, state, preferred_element_type=jnp.float32)
    length, block = q.shape[1], min(block, q.shape[1])
    segments = mask.segments if mask.segments is not None else jnp.zeros(q.shape[:2], jnp.int32)
    q, k, v = (to_blocks(x, block) for x in (q, k, v))
    segments = to_blocks(segments, block)
    allowed = segments[:, :, :, None] == segments[:, :, None, :]
    if mask.causal:
        allowed = allowed & jnp.tri(block, dtype=bool)[None, None]
    y = _inside(q, k, v, allowed, None) + _across(q, k, v, segments, None)
    if not mask.causal:
        y = y + _turn(_across(_turn(q), _turn(k), _turn(v), _turn(segments), None))
    return _join(y, length)


def running_sum(
    q: Float[Array, "B L #H R"],
    k: Float[Array, "B L #H R"],
    v: Float[Array, "B L H K"],
    decay: Float[Array, "B L H"],
    segments: Int[Array, "B L"] | None,
    *,
    block: int = BLOCK,
) -> Float[Array, "B L H K"]:
    """Σ exp(decay_{j+1} + ... + decay_i) (q_i · k_j) v_j over j < i in the document of i, in float32."""
    length, block = q.shape[1], min(block, q.shape[1])
    segments = segments if segments is not None else jnp.zeros(q.shape[:2], jnp.int32)
    q, k, v = (to_blocks(x, block) for x in (q, k, v))
    segments = to_blocks(segments, block)
    same = segments[:, :, :, None] == segments[:, :, None, :]
    # A sum as a product with ones, so that nothing of another document takes part, not even in the rounding.
    upto = (same & jnp.tri(block, dtype=bool)[None, None]).astype(jnp.float32)
    decay = to_blocks(decay.astype(jnp.float32), block)
    total = jnp.einsum("bnst,bnth->bnsh", upto, decay, precision="highest")
    allowed = same & jnp.tri(block, k=-1, dtype=bool)[None, None]
    y = _inside(q, k, v, allowed, total)  # where all heads share q and k, their products are formed once
    q, k = (jnp.broadcast_to(x, (*v.shape[:4], x.shape[-1])) for x in (q, k))
    return _join(y + _across(q, k, v, segments, total), length)


def _inside(
    q: Float[Array, "B n s #H R"],
    k: Float[Array, "B n s #H R"],
    v: Float[Array, "B n s H K"],
    allowed: Bool[Array, "B n s s"],
    total: Float[Array, "B n s H"] | None,
) -> Float[Array, "B n s H K"]:
    """What a query gets from the keys of its own block."""
    products = jnp.einsum("bnshr,bnthr->bnhst", q, k, preferred_element_type=jnp.float32)
    if total is None:
        products = jnp.where(allowed[:, :, None], products, 0.0)
    else:
        total = jnp.moveaxis(total, 3, 2)
        # Masked before the exponential: what lies ahead would overflow there.
        between = jnp.where(allowed[:, :, None], total[..., :, None] - total[..., None, :], FORBIDDEN)
        products = products * jnp.exp(between)
    return jnp.einsum("bnhst,bnthk->bnshk", products.astype(v.dtype), v, preferred_element_type=jnp.float32)


def _across(
    q: Float[Array, "B n s H R"],
    k: Float[Array, "B n s H R"],
    v: Float[Array, "B n s H K"],
    segments: Int[Array, "B n s"],
    total: Float[Array, "B n s H"] | None,
) -> Float[Array, "B n s H K"]:
    """What a query gets from the blocks before its own."""
    first, last = segments[:, :, 0], segments[:, :, -1]
    before = jnp.concatenate([last[:, :1], last[:, :-1]], axis=1)  # the first block inherits nothing anyway
    leaving = segments == last[:, :, None]  # the tokens of the document that crosses the right border
    entered = segments == before[:, :, None]  # and of the one that crossed the left border
    kept = ((first == last) & (first == before)).astype(jnp.float32)[:, :, None]  # one document all through
    if total is None:
        k = jnp.where(leaving[..., None, None], k, jnp.zeros((), k.dtype))
    else:
        kept = kept * jnp.exp(total[:, :, -1])
        k = k * jnp.where(leaving[..., None], jnp.exp(total[:, :, -1:] - total), 0.0)[..., None].astype(
            k.dtype
        )
    own = jnp.einsum("bnthr,bnthk->nbhrk", k, v, preferred_element_type=jnp.float32)

    def step(state: Any, block: Any) -> tuple[Any, Any]:
        more, share = block
        return more + share[:, :, None, None] * state, state

    shares = jnp.broadcast_to(jnp.moveaxis(kept, 1, 0), own.shape[:3])
    states = jax.lax.scan(step, jnp.zeros_like(own[0]), (own, shares))[1].astype(q.dtype)
    y = jnp.einsum("bnshr,nbhrk->bnshk", q, states, preferred_element_type=jnp.float32)
    if total is not None:
        y = y * jnp.exp(total)[..., None]
    return jnp.where(entered[..., None, None], y, 0.0)


def _turn(x: Array) -> Array:
    """The row in blocks [B n s *m], from its end."""
    return jnp.flip(x, (1, 2))


def _join(y: Float[Array, "B n s H K"], length: int) -> Float[Array, "B L H K"]:
    return y.reshape(y.shape[0], -1, *y.shape[3:])[:, :length]
