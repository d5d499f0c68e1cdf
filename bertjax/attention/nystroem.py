"""Nystroemformer: softmax attention through a few landmarks (2102.03902).

    mix = softmax(q k̃ᵀ) · pinv(softmax(q̃ k̃ᵀ)) · softmax(q̃ kᵀ) v + conv(v)          scores scaled by 1 / sqrt(K)

q̃ and k̃ [landmarks, K] are means of q and k over equal stretches of the row, the pseudo-inverse is Newton's iteration of
third order (six rounds), and conv is a depthwise convolution with one filter for each head, a skip for the values.
Cost: O(L landmarks D) time, O(H L landmarks) memory. A row of no more tokens than landmarks is attended exactly, as in
the original code.

Deviations, which `padding=mixed` takes back: stretches divide the real tokens of a row and not its padding, so padding
neither feeds a landmark nor moves one; the original averages it in. Where a row has no padding and its length is a
multiple of the landmarks, both are the same. The convolution reads zeros at the padding. The iteration starts from the
norm of each matrix (the authors' "exact" choice) and not from the largest norm in the batch, which ties rows together.
A landmark belongs to all documents of a row, so packed rows are refused; so are causal masks and biases on pairs of
tokens.
"""

import dataclasses
import functools
from typing import Literal

import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention.base import Context
from bertjax.attention.filters import convolve
from bertjax.attention.full import FullAttention, normalise
from bertjax.attention.recurrence import hide
from bertjax.layers.config import AttentionOptions
from bertjax.layers.dropout import Dropout
from bertjax.layers.mask import AttentionMask
from bertjax.types import Array, Bool, Float


@dataclasses.dataclass(frozen=True)
class Nystroem(AttentionOptions):
    """Softmax attention approximated through landmarks, in linear time."""

    landmarks: int = 64
    """Stretches of the row whose means stand for it."""
    convolution: int | None = 65
    """Width of the convolution that carries the values past the attention, odd; none leaves it out."""
    rounds: int = 6
    """Steps of the iteration for the pseudo-inverse."""
    padding: Literal["hidden", "mixed"] = "hidden"
    """It leaves no trace in real tokens; or it is in landmarks and convolution like a token (published models)."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        for name in ("landmarks", "rounds"):
            if getattr(self, name) < 1:
                raise ValueError(f"model.attention.{name}={getattr(self, name)}: 1 or more")
        if self.convolution is not None and (self.convolution < 1 or self.convolution % 2 == 0):
            raise ValueError(f"model.attention.convolution={self.convolution}: an odd width, or none")


class NystroemAttention(FullAttention):
    """Three small softmaxes in place of a large one."""

    options: Nystroem  # type: ignore[assignment]

    def mix(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B M H K"],
        v: Float[Array, "B M H K"],
        context: Context,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """The attended values and the skip."""
        context = dataclasses.replace(context, mask=AttentionMask(valid=context.mask.valid))
        v = hide(v, context.mask) if self.options.padding == "hidden" else v
        if k.shape[1] <= self.options.landmarks:
            y = self.reference(q, k, v, context, train=train)
        else:
            y = self.through_landmarks(q, k, v, context.mask, train=train)
        if self.options.convolution is None:
            return y
        shape, axes = (self.options.convolution, self.config.heads), ("table", "heads")
        taps = sharding.param(self, "convolution", nn.initializers.lecun_normal(), shape, axes)
        return y + convolve(v, taps)

    def through_landmarks(
        self,
        q: Float[Array, "B L H K"],
        k: Float[Array, "B L H K"],
        v: Float[Array, "B L H K"],
        mask: AttentionMask,
        *,
        train: bool,
    ) -> Float[Array, "B L H K"]:
        """The product of the three softmaxes with the values, from right to left."""
        scale = jnp.asarray(
            q.shape[-1] ** -0.25, q.dtype
        )  # on both sides, so that landmarks are scaled as well
        q, k = q * scale, k * scale
        valid = mask.valid if mask.valid is not None else jnp.ones(q.shape[:2], bool)
        mixed = self.options.padding == "mixed"
        means, used = stretches(jnp.ones_like(valid) if mixed else valid, self.options.landmarks)
        few_q, few_k = (_sum("brm,bmhk->brhk", means.astype(x.dtype), x) for x in (q, k))
        used = used[:, None, None, :]
        spread = normalise(_scores(q, few_k), used).astype(q.dtype)  # [B H L R]
        core = normalise(_scores(few_q, few_k), used)
        core = jnp.where(used.swapaxes(-1, -2) & used, core, 0.0)
        # Rows without a token only fill a batch up.
        start = norms(core, jnp.any(valid, axis=1)[:, None, None, None] if mixed else None)
        gathered = normalise(_scores(few_q, k), valid[:, None, None, :]).astype(q.dtype)  # [B H R M]
        self.sow("intermediates", "attention", gathered)
        drop = Dropout(self.config.attention_dropout)
        summary = _sum("bhrm,bmhk->bhrk", drop(gathered, train=train), v).astype(jnp.float32)
        summary = jnp.einsum("bhrs,bhsk->bhrk", pseudo_inverse(core, self.options.rounds, start), summary)
        return _sum("bhlr,bhrk->blhk", spread, summary.astype(q.dtype))


def _scores(q: Float[Array, "B l H K"], k: Float[Array, "B m H K"]) -> Float[Array, "B H l m"]:
    return jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32)


def _sum(subscripts: str, left: Array, right: Array) -> Array:
    y = jnp.einsum(subscripts, left, right, preferred_element_type=jnp.float32)
    return y.astype(right.dtype)


def stretches(valid: Bool[Array, "B M"], landmarks: int) -> tuple[Float[Array, "B R M"], Bool[Array, "B R"]]:
    """Weights that average the real tokens of each stretch, and which stretches have any."""
    number = valid.sum(1, keepdims=True)
    place = jnp.cumsum(valid, axis=1) - 1  # among the real tokens
    stretch = jnp.where(valid, place * landmarks // jnp.maximum(number, 1), landmarks)
    member = stretch[:, None, :] == jnp.arange(landmarks)[None, :, None]
    size = member.sum(-1, keepdims=True)
    return member / jnp.maximum(size, 1), size[:, :, 0] > 0


def norms(
    x: Float[Array, "B H R R"], batch: Bool[Array, "B 1 1 1"] | None = None
) -> Float[Array, "#B #H 1 1"]:
    """|x|_1 |x|_∞ of each matrix, or the largest of those rows of the batch that count."""
    # All entries are non-negative, and rows that are not empty sum to one.
    each = x.sum(-2, keepdims=True).max(-1, keepdims=True)
    return each if batch is None else jnp.where(batch, each, 0.0).max(keepdims=True)


def pseudo_inverse(
    x: Float[Array, "B H R R"], rounds: int, start: Float[Array, "#B #H 1 1"] | None = None
) -> Float[Array, "B H R R"]:
    """Newton's iteration z = z/4 (13 - xz (15 - xz (7 - xz))), from the transpose over its norms or over `start`."""
    unit = jnp.eye(x.shape[-1], dtype=x.dtype)[None, None]
    times = functools.partial(jnp.matmul, precision="highest")  # TPUs would round every step to bfloat16
    z = x.swapaxes(-1, -2) / jnp.maximum(norms(x) if start is None else start, 1e-6)
    for _ in range(rounds):
        product = times(x, z)
        inner = 15 * unit - times(product, 7 * unit - product)
        z = 0.25 * times(z, 13 * unit - times(product, inner))
    return z
