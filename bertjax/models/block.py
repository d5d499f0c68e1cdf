"""One layer: attention and feed-forward, each a residual branch (Vaswani et al., 1706.03762).

post-norm   x = norm(x + attention(x)),  x = norm(x + mlp(x))     (BERT, 1810.04805)
pre-norm    x = x + attention(norm(x)),  x = x + mlp(norm(x))     (and one norm at the end of the stack)
"""

from typing import Any

from flax import linen as nn

from bertjax.attention import Context, make_attention, variant_of
from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.dropout import Dropout
from bertjax.layers.mlp import Mlp
from bertjax.layers.norm import Norm
from bertjax.sharding import shard
from bertjax.types import Array, Float


class Block(nn.Module):
    """One layer: attention and, unless it takes that place as well, feed-forward, each a residual branch."""

    config: EncoderConfig
    options: AttentionOptions

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, train: bool) -> Float[Array, "B L D"]:
        """The residual stream after this layer."""
        c = self.config
        attention, drop = make_attention(c, self.options, name="attention"), Dropout(c.dropout)
        branches: list[tuple[str, Any]] = [("attention_norm", lambda y: attention(y, context, train=train))]
        if variant_of(self.options).feedforward:
            branches.append(("mlp_norm", Mlp(c, name="mlp")))
        for name, branch in branches:
            norm = Norm(c, name=name)
            if c.block == "pre":
                x = x + drop(branch(norm(x)), train=train)
            else:
                x = norm(x + drop(branch(x), train=train))
        return shard(x, "batch", "length", "act_width")
