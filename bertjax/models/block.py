"""One layer: attention and feed-forward, each a residual branch (Vaswani et al., 1706.03762).

post-norm   x = norm(x + attention(x)),  x = norm(x + mlp(x))     (BERT, 1810.04805)
pre-norm    x = x + attention(norm(x)),  x = x + mlp(norm(x))     (and one norm at the end of the stack)
"""

from flax import linen as nn

from bertjax.attention import Context, make_attention
from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.dropout import Dropout
from bertjax.layers.mlp import Mlp
from bertjax.layers.norm import Norm
from bertjax.sharding import shard
from bertjax.types import Array, Float


class Block(nn.Module):
    """One layer: attention and feed-forward, each a residual branch."""

    config: EncoderConfig
    options: AttentionOptions

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], context: Context, train: bool) -> Float[Array, "B L D"]:
        """The residual stream after this layer."""
        c = self.config
        attention = make_attention(c, self.options, name="attention")
        mlp, drop = Mlp(c, name="mlp"), Dropout(c.dropout)
        first, second = Norm(c, name="attention_norm"), Norm(c, name="mlp_norm")
        if c.block == "pre":
            x = x + drop(attention(first(x), context, train=train), train=train)
            x = x + drop(mlp(second(x)), train=train)
        else:
            x = first(x + drop(attention(x, context, train=train), train=train))
            x = second(x + drop(mlp(x), train=train))
        return shard(x, "batch", "length", "act_width")
