"""Metrics are pairs (sum, weight): adding them is the only way to aggregate, whatever was split."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.types import Array, Bool, Float, Int, Metrics


def add(parts: Iterable[Metrics]) -> Metrics:
    """Sums and weights of several batches, microbatches or hosts, added up."""
    total: Metrics = {}
    for part in parts:
        for name, (value, weight) in part.items():
            before = total.get(name, (0.0, 0.0))
            total[name] = (before[0] + value, before[1] + weight)
    return total


def means(metrics: Metrics) -> dict[str, float]:
    """Sum over weight of every metric; one that nothing contributed to is left out."""
    fetched: Any = jax.device_get(metrics)
    return {name: float(value / weight) for name, (value, weight) in fetched.items() if weight > 0}


@jax.custom_vjp
def cross_entropy(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """-log softmax(logits)[label], in float32."""
    return _cross_entropy(logits, labels)[0]


def _cross_entropy(logits: Array, labels: Array) -> tuple[Array, tuple[Array, Array, Array]]:
    wide = jnp.asarray(logits).astype(jnp.float32)
    total = jax.nn.logsumexp(wide, axis=-1)
    return total - at(wide, labels), (logits, labels, total)


def _cross_entropy_gradient(saved: tuple[Array, Array, Array], grad: Array) -> tuple[Array, None]:
    """softmax - one-hot in one pass over the logits: no softmax is kept, nothing is scattered."""
    logits, labels, total = saved
    is_label = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) == labels[..., None]
    probability = jnp.exp(logits.astype(jnp.float32) - total[..., None])
    slope = (probability - is_label.astype(jnp.float32)) * grad[..., None]
    return slope.astype(logits.dtype), None


cross_entropy.defvjp(_cross_entropy, _cross_entropy_gradient)


def at(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """The logit of each label."""
    return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]


def is_first(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Bool[Array, "*B"]:
    """Whether the label is `argmax(logits)`, the first of the largest, in one pass that compares and keeps nothing."""
    chosen = at(logits, labels)[..., None]
    before = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1) < labels[..., None]
    return ~jnp.where(before, logits >= chosen, logits > chosen).any(-1)


def weighted(values: Float[Array, "*B"], weights: Float[Array, "*B"]) -> tuple[Array, Array]:
    """The (sum, weight) pair of per-prediction values."""
    return (values * weights).sum(), weights.sum()
