"""Performer: softmax attention estimated by positive orthogonal random features, FAVOR+ (2009.14794).

    exp(q · k / sqrt(K)) = E_w[ φ_w(q) φ_w(k) ],     φ_w(x) = exp(w · x' - |x'|²/2),   x' = x / K^¼,   w ~ N(0, I)

`features` directions w for each head are drawn in orthogonal blocks of K with the lengths of Gaussian vectors, which is
still unbiased and has less variance. `kernel=relu` is the paper's generalised attention, φ_w(x) = relu(w · x') + 0.001,
which estimates no softmax. Cost: O(L R D) time, O(L H R) memory.

The draw is a function of (seed, step // redraw) and of nothing else: it costs a small QR decomposition in each forward
pass, is no state, and a resumed run continues with it. The step comes through `Context.step`, from
`Encoder(...)(batch, step=...)`; without one (evaluation, prediction) it is the draw of step 0, so that what a model
answers depends on its parameters alone. All layers share one draw for each head; `draws=n` gives n layers in turn
their own.

The exponentials are taken relative to the largest one: of each query (which cancels), and of all keys of a document
(which cancels as well, but looks ahead, so causal masks are refused).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from bertjax.attention.base import Context
from bertjax.attention.full import FORBIDDEN
from bertjax.attention.kernelised import KernelAttention
from bertjax.layers.config import AttentionOptions
from bertjax.layers.mask import AttentionMask
from bertjax.types import Array, Float, Key


@dataclasses.dataclass(frozen=True)
class Performer(AttentionOptions):
    """Softmax attention estimated with random features, in linear time."""

    features: int = 256
    """Random features of each head; the error falls with their square root, K log K is the paper's advice."""
    kernel: Literal["softmax", "relu"] = "softmax"
    """What is estimated: softmax attention, or one with ReLU features."""
    redraw: int | None = 1000
    """Steps between new draws while training; none keeps the first draw."""
    draws: int = 1
    """Layers after which the draws repeat; model.layers is a multiple of it."""
    seed: int = 0
    """Which features are drawn."""

    def __post_init__(self) -> None:
        """Refuses sizes without meaning."""
        for name in ("features", "redraw", "draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"model.attention.{name}={value}: 1 or more")

    def period(self) -> tuple[AttentionOptions, ...]:
        """Layers that differ by their seed."""
        return tuple(
            dataclasses.replace(self, draws=1, seed=self.seed * self.draws + i) for i in range(self.draws)
        )


class PerformerAttention(KernelAttention):
    """Features from the directions of the current draw."""

    options: Performer

    def directions(self, context: Context) -> Float[Array, "H R K"]:
        """The draw in force."""
        o, c = self.options, self.config
        key = jax.random.key(o.seed)
        if o.redraw is not None and context.step is not None:
            key = jax.random.fold_in(key, context.step // o.redraw)
        else:
            key = jax.random.fold_in(key, 0)
        return orthogonal_directions(key, heads=c.heads, features=o.features, size=c.key_size)

    def features(
        self, x: Float[Array, "B L H K"], context: Context, *, keys: bool
    ) -> Float[Array, "B L H R"]:
        """Positive random features, up to a factor that cancels."""
        scale = jnp.asarray(x.shape[-1] ** -0.25, x.dtype)
        directions = jax.lax.stop_gradient(self.directions(context)).astype(x.dtype)
        product = jnp.einsum("blhk,hrk->blhr", x * scale, directions, preferred_element_type=jnp.float32)
        if self.options.kernel == "relu":
            return jax.nn.relu(product) + 0.001
        exponent: Any = product - jnp.square((x * scale).astype(jnp.float32)).sum(-1, keepdims=True) / 2
        largest: Any = jax.lax.stop_gradient(exponent).max(-1)
        if keys:
            largest = largest_of_document(largest, context.mask)
        # A key of the padding may lie above the largest real one; it is hidden later and must only stay finite.
        return jnp.exp(jnp.minimum(exponent - largest[..., None], 0.0))


def largest_of_document(x: Float[Array, "B L H"], mask: AttentionMask) -> Float[Array, "B L H"]:
    """For each token the largest value among the real tokens of its document."""
    if mask.valid is not None:
        x = jnp.where(mask.valid[:, :, None], x, FORBIDDEN)
    if mask.segments is None:
        return jnp.maximum(jnp.broadcast_to(x.max(1, keepdims=True), x.shape), FORBIDDEN / 2)

    def one_row(values: Array, segments: Array) -> Array:
        return jax.ops.segment_max(values, segments, num_segments=values.shape[0] + 1)[segments]

    return jnp.maximum(jax.vmap(one_row)(x, mask.segments), FORBIDDEN / 2)


def orthogonal_directions(key: Key, *, heads: int, features: int, size: int) -> Float[Array, "H R K"]:
    """Gaussian vectors, orthogonal to one another in blocks of `size`."""
    blocks = -(-features // size)
    draw, lengths = jax.random.split(key)
    square = jax.random.normal(draw, (heads, blocks, size, size))
    q, r = jnp.linalg.qr(square)
    # A triangle with a positive diagonal makes the decomposition unique, and q uniform over the rotations.
    q = q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[..., None, :]
    directions = q.swapaxes(-1, -2).reshape(heads, blocks * size, size)[:, :features]
    norms = jnp.linalg.norm(jax.random.normal(lengths, (heads, features, size)), axis=-1, keepdims=True)
    return directions * norms
