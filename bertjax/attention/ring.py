"""Ring attention: full attention over a row that several devices share (Liu et al., 2310.01889).

Each of the n devices holds a part of the queries, keys and values of a row. The keys and values go round: a device
meets its own part, sends it on to its neighbour, meets the next, and keeps three running numbers a query,

    m' = max(m, max_j s_j),   z' = z e^(m - m') + Σ_j e^(s_j - m'),   y' = y e^(m - m') + Σ_j e^(s_j - m') v_j

with y / z the result after n parts (online softmax, 1805.02867). Cost: O(L² / n) time a device, and in memory the
scores of one pair of parts, O(H (L / n)²); never the keys of a whole row, which the other way, `gather`, brings
together on every device. The backward pass goes round once more, with the gradients of keys and values travelling
beside them, and computes the scores anew.

What a query may see is told by its place in the whole row: padding, packed documents, causality and windows all work.
Results are those of one device up to the order of sums. No attention dropout, no position bias, no attention maps.
Deviation from the paper: the feed-forward part needs no blocks here, since its activations are split by length anyway.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from bertjax import sharding
from bertjax.layers.mask import AttentionMask
from bertjax.types import Array, Bool, Float

PART = ("batch", "length", "act_heads", "act_head_size")
FORBIDDEN = (
    -1e30
)  # finite: the running maximum of a query that has seen nothing yet is subtracted from itself


def ring(
    q: Float[Array, "B L H K"], k: Float[Array, "B L H K"], v: Float[Array, "B L H K"], mask: AttentionMask
) -> Float[Array, "B L H K"]:
    """Attention, with the length of all inputs split over the mesh axis that `length` stands for."""
    rows, length = q.shape[:2]
    (axis,) = sharding.mesh_axes("length")
    valid = jnp.ones((rows, length), bool) if mask.valid is None else jnp.asarray(mask.valid)
    segments = jnp.ones((rows, length), jnp.int32) if mask.segments is None else jnp.asarray(mask.segments)
    order = AttentionMask(causal=mask.causal, window=mask.window)
    local = functools.partial(_attend, order, axis, sharding.parts("length"))
    names = (PART, PART, PART, ("batch", "length"), ("batch", "length"))
    return sharding.on_each_device(local, names, PART)(q, k, v, valid, segments)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(
    order: AttentionMask, axis: str, devices: int, q: Array, k: Array, v: Array, valid: Array, segments: Array
) -> Array:
    """One device's share."""
    return _forward(order, axis, devices, q, k, v, valid, segments)[0]


def _forward(
    order: AttentionMask, axis: str, devices: int, q: Array, k: Array, v: Array, valid: Array, segments: Array
) -> tuple[Array, Any]:
    met = functools.partial(_meet, order, axis, devices, q, segments)
    rows, length, heads, _ = q.shape
    highest = jnp.full((rows, heads, length), FORBIDDEN, jnp.float32)
    start = (highest, jnp.zeros_like(highest), jnp.zeros(q.shape, jnp.float32))

    def add(running: Any, part: Any, shift: Any) -> Any:
        highest, total, y = running
        k, v, valid, others = part
        scores, _ = met(k, valid, others, shift)
        above = jnp.maximum(highest, scores.max(-1))
        weights = jnp.exp(scores - above[..., None])
        keep = jnp.exp(highest - above)
        gathered = jnp.einsum(
            "bhlm,bmhk->blhk", weights.astype(v.dtype), v, preferred_element_type=jnp.float32
        )
        y = y * by_query(keep) + gathered
        return above, total * keep + weights.sum(-1), y

    def turn(carry: Any, shift: Any) -> tuple[Any, None]:
        running, part = carry
        part = _send_on(part, axis, devices)
        return (add(running, part, shift), part), None

    part = (k, v, valid, segments)
    carry = (add(start, part, 0), part)
    ((highest, total, y), _), _ = jax.lax.scan(turn, carry, jnp.arange(1, devices))
    y = (y / by_query(total)).astype(q.dtype)
    return y, (q, k, v, valid, segments, y, highest, total)


def _backward(order: AttentionMask, axis: str, devices: int, saved: Any, grad: Array) -> tuple[Any, ...]:
    q, k, v, valid, segments, y, highest, total = saved
    met = functools.partial(_meet, order, axis, devices, q, segments)
    product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
    scale = 1 / math.sqrt(q.shape[-1])
    # What the softmax takes away again: the mean of the weights' gradients, which is that of y by y.
    mean = jnp.einsum("blhk,blhk->bhl", grad.astype(jnp.float32), y.astype(jnp.float32))

    def add(grad_q: Any, part: Any, grads: Any, shift: Any) -> tuple[Any, Any]:
        k, v, valid, others = part
        grad_k, grad_v = grads
        scores, allowed = met(k, valid, others, shift)
        weights = jnp.exp(scores - highest[..., None]) / total[..., None]
        grad_weights = product("blhk,bmhk->bhlm", grad, v)
        grad_scores = jnp.where(allowed, weights * (grad_weights - mean[..., None]), 0.0) * scale
        grad_scores = grad_scores.astype(q.dtype)
        grad_v = grad_v + product("bhlm,blhk->bmhk", weights.astype(q.dtype), grad)
        grad_k = grad_k + product("bhlm,blhk->bmhk", grad_scores, q)
        return grad_q + product("bhlm,bmhk->blhk", grad_scores, k), (grad_k, grad_v)

    def turn(carry: Any, shift: Any) -> tuple[Any, None]:
        grad_q, part, grads = carry
        part, grads = _send_on((part, grads), axis, devices)
        grad_q, grads = add(grad_q, part, grads, shift)
        return (grad_q, part, grads), None

    part = (k, v, valid, segments)
    zeros = jnp.zeros(k.shape, jnp.float32)
    grad_q, grads = add(jnp.zeros(q.shape, jnp.float32), part, (zeros, zeros), 0)
    (grad_q, _, grads), _ = jax.lax.scan(turn, (grad_q, part, grads), jnp.arange(1, devices))
    grad_k, grad_v = _send_on(grads, axis, devices)  # the last step of their way home
    return grad_q.astype(q.dtype), grad_k.astype(k.dtype), grad_v.astype(v.dtype), None, None


_attend.defvjp(_forward, _backward)


def _meet(
    order: AttentionMask,
    axis: str,
    devices: int,
    q: Array,
    segments: Array,
    k: Array,
    valid: Array,
    others: Array,
    shift: Any,
) -> tuple[Float[Array, "B H l m"], Bool[Array, "B 1 l m"]]:
    """Scores of this device's queries and the keys that have come `shift` devices far, and which of them count."""
    here = jax.lax.axis_index(axis)
    length = q.shape[1]
    place = jnp.arange(length, dtype=jnp.int32)
    queries, keys = here * length + place, (here - shift) % devices * length + place
    allowed = order.pairs(queries[None, :, None], keys[None, None, :])[:, None]
    allowed = allowed & valid[:, None, None, :] & (segments[:, None, :, None] == others[:, None, None, :])
    scores = jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32)
    return jnp.where(allowed, scores / math.sqrt(q.shape[-1]), FORBIDDEN), allowed


def _send_on(tree: Any, axis: str, devices: int) -> Any:
    """Every array to the next device of the ring."""
    return jax.lax.ppermute(tree, axis, [(i, (i + 1) % devices) for i in range(devices)])


def by_query(x: Float[Array, "B H l"]) -> Float[Array, "B l H 1"]:
    """A number a query and head, beside its values."""
    return jnp.swapaxes(x, 1, 2)[..., None]
