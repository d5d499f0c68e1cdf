"""All layers of an encoder, in groups that repeat a pattern.

`AttentionOptions.layout(layers)` names the groups: each is a period of consecutive layers, which
may differ, and a number of repeats. With `scan` a group is one compiled loop over its periods with
stacked parameters (`layers`), so that compile time does not grow with depth; without it the periods
are unrolled (`layers_0`, `layers_1`, ...). `models/stacking.py` turns the parameters of one into
those of the other.

Parameters that layers have in common lie beside the groups (`shared_full`, by the kind of
attention): layers of one kind share. To a loop they are a constant; no copy is made of them, and
their gradients are summed over the layers.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.attention import Context, name_of
from bertjax.layers.config import AttentionOptions, EncoderConfig
from bertjax.models.block import Block, shared_parameters
from bertjax.types import Array, Float, Tree

REMAT_POLICIES = {
    "block": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class Period(nn.Module):
    """Consecutive layers, `block_0` and on: what a group repeats."""

    config: EncoderConfig
    period: tuple[AttentionOptions, ...]
    first: bool  # the first layer is the first of the encoder, and not like the others
    keep_states: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], context: Context, shared: Tree, train: bool
    ) -> tuple[Array, Array | None]:
        """The residual stream at the end and, if they are kept, after each layer [P B L D]."""
        states = []
        for index, options in enumerate(self.period):
            block = Block(self.config, options, self.first and index == 0, name=f"block_{index}")
            x = block(x, context, shared, train)
            states.append(x)
        return x, jnp.stack(states) if self.keep_states else None


class Group(nn.Module):
    """A period and its repeats: scanned, or one after the other."""

    config: EncoderConfig
    period: tuple[AttentionOptions, ...]
    repeats: int
    first: bool
    keep_states: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], context: Context, shared: Tree, *, train: bool
    ) -> tuple[Array, Array | None]:
        """The residual stream at the end and, if they are kept, after each layer of the group."""
        c, fields = self.config, (self.config, self.period, self.first, self.keep_states)
        module: Any = Period
        if c.remat != "none":
            # Static arguments are counted with self: the fourth is `train`.
            module = nn.remat(
                module, policy=REMAT_POLICIES[c.remat], static_argnums=(4,), prevent_cse=not c.scan
            )
        if c.scan:
            scanned = nn.scan(
                module,
                variable_axes={"params": 0, "intermediates": 0, "cache": 0, "memory": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=(nn.broadcast, nn.broadcast, nn.broadcast),
                length=self.repeats,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )
            x, states = scanned(*fields, name="layers")(x, context, shared, train)
            return x, states.reshape(-1, *x.shape) if self.keep_states else None
        collected = []
        for index in range(self.repeats):
            x, states = module(*fields, name=f"layers_{index}")(x, context, shared, train)
            collected.append(states)
        return x, jnp.concatenate(collected) if self.keep_states else None


class Stack(nn.Module):
    """The groups in order, `group_0` and on."""

    config: EncoderConfig
    keep_states: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B L D"], context: Context, *, train: bool
    ) -> tuple[Array, Array | None]:
        """The residual stream at the end and, if they are kept, before and after every layer [N+1 B L D]."""
        c, collected = self.config, [x[None]]
        shared = {}
        if c.sharing != "none":
            for options in c.kinds:
                start = functools.partial(shared_parameters, c, options, x, context)
                shared[name_of(options)] = self.param(f"shared_{name_of(options)}", start)
        for index, (period, repeats) in enumerate(c.layout):
            first = index == 0 and c.first_differs
            group = Group(c, period, repeats, first, self.keep_states, name=f"group_{index}")
            x, states = group(x, context, shared, train=train)
            collected.append(states)
        return x, jnp.concatenate(collected) if self.keep_states else None
