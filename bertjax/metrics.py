"""Metrics are pairs (sum, weight): adding them is the only way to aggregate, whatever was split."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.types import Array, Float, Int, Metrics


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


def cross_entropy(logits: Float[Array, "*B V"], labels: Int[Array, "*B"]) -> Float[Array, "*B"]:
    """-log softmax(logits)[label], in float32."""
    logits = logits.astype(jnp.float32)
    chosen = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def weighted(values: Float[Array, "*B"], weights: Float[Array, "*B"]) -> tuple[Array, Array]:
    """The (sum, weight) pair of per-prediction values."""
    return (values * weights).sum(), weights.sum()
