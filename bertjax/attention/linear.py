"""Linear attention (Katharopoulos et al., 2006.16236): the feature map elu(x) + 1.

    mix(q, k, v)_i = φ(q_i) Σ_j φ(k_j)ᵀ v_j / φ(q_i) Σ_j φ(k_j)ᵀ,     φ(x) = elu(x) + 1

Cost: O(L K D) time, O(L D) memory. Rotary positions turn the features in the numerator and leave the normaliser as it
is (RoFormer, 2104.09864, equation 19), so that the weights depend on relative positions and still have a sum that
cannot vanish.
"""

import dataclasses

import jax
import jax.numpy as jnp

from bertjax.attention.base import Context
from bertjax.attention.kernelised import KernelAttention
from bertjax.layers.config import AttentionOptions
from bertjax.types import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class Linear(AttentionOptions):
    """Attention without a softmax, in linear time: features elu(x) + 1."""


class LinearAttention(KernelAttention):
    """Features of the size of a head."""

    def rotate(self, x: Float[Array, "B L H K"], positions: Int[Array, "B L"]) -> Float[Array, "B L H K"]:
        """Nothing yet: positions turn the features, not what they are made of."""
        del positions
        return x

    def features(
        self, x: Float[Array, "B L H K"], context: Context, *, keys: bool
    ) -> Float[Array, "B L H K"]:
        """elu(x) + 1, which is x + 1 above zero and exp(x) below."""
        del context, keys
        return jax.nn.elu(x.astype(jnp.float32)) + 1.0

    def turn(self, x: Float[Array, "B L H K"], context: Context) -> Float[Array, "B L H K"]:
        """The features, rotated where the position scheme rotates."""
        return super().rotate(x, context.positions)
