"""Adapters: small layers inside of a trained model, which alone are fine-tuned (Houlsby et al., 1902.00751).

    y = x + act(x W + a) V + b,      W [D, r], V [r, D], r far below D

x is what a branch of a layer gives, with its dropout, before it meets the residual stream: that of attention and that
of feed-forward (1902.00751, Figure 2), or of feed-forward alone (Pfeiffer et al., 2005.00247). V and b start from zero,
so that a model with fresh adapters is the model without. `tune.trained=adapters` holds everything else but the heads;
with `tune.norms` norms move too, as Houlsby's do.

Deviations: both papers start V from small numbers. Pfeiffer's adapter reads the branch after its sum and norm and goes
through that norm again; here it stands where Houlsby's does, which every kind of block has a place for.
"""

from flax import linen as nn

from bertjax.layers.config import Adapter, EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.einsum import Einsum
from bertjax.layers.mlp import ACTIVATIONS
from bertjax.sharding import shard
from bertjax.types import Array, Float


class AdapterLayer(nn.Module):
    """Down, a nonlinearity, up, and the sum."""

    config: EncoderConfig
    options: Adapter

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """What the branch gives instead."""
        c, size = self.config, self.options.size
        y = dense(c, "bld,dr->blr", (c.width, size), ("width", "output"), "branch", name="down", bias=True)(x)
        y = ACTIVATIONS[self.options.activation](shard(y, "batch", "length", None))
        zeros, axes = nn.initializers.zeros, ("output", "width")
        up = Einsum("blr,rd->bld", (size, c.width), axes, c.compute, zeros, name="up")
        return shard(x + up(y), "batch", "length", "act_width")
