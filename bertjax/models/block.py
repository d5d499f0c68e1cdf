"""One layer: attention and feed-forward, each a residual branch (Vaswani et al., 1706.03762).

    post       x = norm(a x + attention(x)),        x = norm(a x + mlp(x))            (BERT, 1810.04805)
    pre        x = x + attention(norm(x)),          x = x + mlp(norm(x))              (2002.04745)
    sandwich   x = x + norm(attention(norm(x))),    x = x + norm(mlp(norm(x)))        (CogView, 2105.13290)
    parallel   y = norm(x),                         x = x + attention(y) + mlp(y)     (GPT-J; PaLM, 2204.02311)

Where there is something to read besides the row (`Context.memory`), a branch of attention to it stands between the two:
in `parallel` beside them. That is the block of a decoder (models/decoder.py).

All but `post` leave the stream as it is and have one more norm at the end of the encoder. a is 1, or with DeepNorm
(2203.00555) (2 N)^(1/4), N the number of layers.

With `model.convolution` a convolution of the embeddings joins the first layer (layers/convolution.py).

With `model.adapter` a small layer of its own stands behind the branches (layers/adapter.py), before their norms and
sums. With `model.prompt.at=layers` the layer begins by putting learned vectors of its own in the first places of a row
(2110.07602; deviation: as inputs of the layer, from which it makes keys and values, not as these themselves).

Sharing (ALBERT, 1909.11942): parts whose parameters the layers have in common, norms of the branch included, are not
declared here but handed in, and computed with them.

Layer drop (LayerDrop, 1909.11556): in training a layer is skipped with probability `layer_drop`, for the whole batch.
As there, nothing is scaled in return. Deviation: the skipped layer is computed and thrown away, so no time is saved; a
branch in the compiled program would keep XLA from overlapping it with the communication of other layers.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.attention import Context, name_of, variant_of
from bertjax.attention.base import Memory
from bertjax.attention.cross import CrossAttention
from bertjax.layers.adapter import AdapterLayer
from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.layers.convolution import Convolution
from bertjax.layers.dropout import Dropout
from bertjax.layers.einsum import kernel_init
from bertjax.layers.mask import AttentionMask
from bertjax.layers.mlp import Mlp
from bertjax.layers.norm import Norm
from bertjax.types import Array, Float, Tree

# Which parts each choice of `sharing` has in common.
_ATTENTION = tuple(f"{part}{norm}" for part in ("attention", "cross") for norm in ("", "_norm", "_out_norm"))
_MLP = ("mlp", "mlp_norm", "mlp_out_norm")
SHARED = {"none": (), "attention": _ATTENTION, "ffn": _MLP, "all": (*_ATTENTION, *_MLP, "norm")}
KEPT = ("cache", "memory")  # collections of a row that is written token by token


class Block(nn.Module):
    """Attention and, unless it takes that place as well, feed-forward, and the norms around them."""

    config: EncoderConfig
    options: AttentionOptions
    first: bool = (
        False  # the first layer of an encoder where that one differs: no norm before it, a convolution
    )

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], context: Context, shared: Tree, train: bool
    ) -> Float[Array, "B L D"]:
        """The residual stream after this layer; `shared` holds the parameters that layers have in common."""
        c, mine = self.config, shared.get(name_of(self.options), {})
        has_mlp, has_cross = variant_of(self.options).feedforward, context.memory is not None
        drop = Dropout(c.dropout)
        if c.prompt is not None and c.prompt.at == "layers":
            x = self.with_prompt(x)

        def attention(y: Array) -> Array:
            y = drop(self.part("attention", mine)(y, context, train=train), train=train)
            if c.adapter is None or (c.adapter.behind == "feedforward" and has_mlp):
                return y
            return AdapterLayer(c, c.adapter, name="attention_adapter")(y)

        def cross(y: Array) -> Array:
            return drop(self.part("cross", mine)(y, context, train=train), train=train)

        def mlp(y: Array) -> Array:
            y = drop(self.part("mlp", mine)(y), train=train)
            return y if c.adapter is None else AdapterLayer(c, c.adapter, name="mlp_adapter")(y)

        def norm(name: str) -> Callable[[Array], Array]:
            return self.part(name, mine)

        keep = (2 * c.layers) ** 0.25 if c.residual == "deepnorm" else 1.0
        bare = self.first and not c.first_norm  # the embeddings have just had a norm
        match c.block:
            case "post":
                y = norm("attention_norm")(keep * x + attention(x))
                if has_cross:
                    y = norm("cross_norm")(keep * y + cross(y))
                if has_mlp:
                    y = norm("mlp_norm")(keep * y + mlp(y))
            case "pre":
                y = x + attention(x if bare else norm("attention_norm")(x))
                if has_cross:
                    y = y + cross(norm("cross_norm")(y))
                if has_mlp:
                    y = y + mlp(norm("mlp_norm")(y))
            case "sandwich":
                y = x + norm("attention_out_norm")(attention(norm("attention_norm")(x)))
                if has_cross:
                    y = y + norm("cross_out_norm")(cross(norm("cross_norm")(y)))
                if has_mlp:
                    y = y + norm("mlp_out_norm")(mlp(norm("mlp_norm")(y)))
            case "parallel":
                both = norm("norm")(x)
                y = x + attention(both) + (cross(both) if has_cross else 0) + (mlp(both) if has_mlp else 0)
        if self.first and c.convolution is not None:
            near = self.part("convolution", mine)(x, context.mask, train=train)
            y = norm("convolution_norm")(y + near)
        if train and c.layer_drop:
            y = jnp.where(jax.random.bernoulli(self.make_rng("dropout"), c.layer_drop), x, y)
        return sharding.shard(y, "batch", "length", "act_width")

    def with_prompt(self, x: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
        """The stream with this layer's own vectors in its first places."""
        c = self.config
        assert c.prompt is not None
        shape, axes = (c.prompt.size, c.width), ("table", "width")
        own = sharding.param(self, "prompt", kernel_init(c.init_std), shape, axes).astype(x.dtype)
        own = jnp.broadcast_to(own[None], (x.shape[0], *shape))
        return sharding.shard(
            jnp.concatenate([own, x[:, c.prompt.size :]], 1), "batch", "length", "act_width"
        )

    def part(self, name: str, shared: Tree) -> Callable[..., Any]:
        """A part of this layer: with its own parameters, or with those that layers have in common."""
        if name not in shared:
            return self.make(name, own=True)
        module = self.make(name, own=False)

        def run(*inputs: Any, **flags: Any) -> Any:
            rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
            changed = [kind for kind in ("intermediates", *KEPT) if self.is_mutable_collection(kind)]
            kept = {kind: self.get_variable(kind, name) for kind in KEPT if self.has_variable(kind, name)}
            variables = {"params": shared[name], **kept}
            y = module.apply(variables, *inputs, rngs=rngs, mutable=changed or False, **flags)
            if not changed:
                return y
            y, seen = y
            for kind, values in seen.items():
                self.put_variable(kind, name, values)
            return y

        return run

    def make(self, part: str, *, own: bool) -> nn.Module:
        """The module of a part, below this one or, if its parameters are not this layer's own, below none."""
        where: dict[str, Any] = {"name": part} if own else {"parent": None}
        match part:
            case "attention":
                return variant_of(self.options).module(self.config, self.options, **where)
            case "cross":
                return CrossAttention(self.config, self.options, **where)
            case "mlp":
                return Mlp(self.config, **where)
            case "convolution":
                return Convolution(self.config, **where)
            case _:
                return Norm(self.config, **where)


def shared_parameters(
    config: EncoderConfig, options: AttentionOptions, x: Array, context: Context, key: Any
) -> Tree:
    """Initial parameters of the parts that layers of this kind have in common."""
    if context.place is not None:  # for the shapes alone: one token, and of what is kept there is nothing yet
        seen = None if context.memory is None else Memory(x, jnp.ones(x.shape[:2], bool))
        context = Context(mask=AttentionMask(), positions=context.positions, memory=seen)
    block = Block(config, options, parent=None).init({"params": key}, x, context, {}, False)["params"]
    return {name: value for name, value in block.items() if name in SHARED[config.sharing]}
