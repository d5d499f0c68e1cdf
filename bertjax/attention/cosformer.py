"""cosFormer (2202.08791): features relu(x), weighted by a cosine of the distance.

    weight_ij = relu(q_i) · relu(k_j) · cos(π/2 · (p_i - p_j) / P),    normalised over j

The cosine of a difference is cos·cos + sin·sin, so the features are relu(x) cos(π p / 2P) and relu(x) sin(π p / 2P),
side by side, and the sum stays linear. P is model.max_length (or the row, where it is longer): the paper's largest
position. Cost: O(L 2K D) time, O(L D) memory.

Positions count inside each packed document. Rotary positions are refused: the cosine is the variant's own place code,
and features that were turned could be negative.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from bertjax.attention.base import Context
from bertjax.attention.kernelised import KernelAttention
from bertjax.layers.config import AttentionOptions
from bertjax.types import Array, Float


@dataclasses.dataclass(frozen=True)
class Cosformer(AttentionOptions):
    """Attention without a softmax, in linear time: ReLU features that prefer what is near."""


class CosformerAttention(KernelAttention):
    """Features of twice the size of a head."""

    def features(
        self, x: Float[Array, "B L H K"], context: Context, *, keys: bool
    ) -> Float[Array, "B L H R"]:
        """relu(x) times the cosine and the sine of the position."""
        del keys
        largest = max(self.config.max_length, x.shape[1])
        angle = (math.pi / 2 / largest) * context.positions.astype(jnp.float32)[:, :, None, None]
        x = jax.nn.relu(x.astype(jnp.float32))
        return jnp.concatenate([x * jnp.cos(angle), x * jnp.sin(angle)], axis=-1)
