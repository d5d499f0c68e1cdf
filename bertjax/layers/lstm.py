"""A bidirectional LSTM, for heads that read a frozen encoder (Hochreiter and Schmidhuber, 1997; BERT, Section 5.3).

    i, f, g, o = x_t W + h_{t-1} R + b       each W wide
    c_t = σ(f + 1) c_{t-1} + σ(i) tanh(g)    h_t = σ(o) tanh(c_t)

Each layer reads the row from its start and from its end, with parameters of their own, and gives both side by side:
[B L 2 W]. Padding, which stands at the end of a row, changes no state, so that the second reading begins at the last
real token; its own results are zero. Cells are float32 whatever the model computes in. The 1 keeps memory open at first
(Jozefowicz et al., 2015).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.einsum import Einsum, einsum
from bertjax.types import Array, Bool, Float

Pair = tuple[jax.Array, jax.Array]


class Lstm(nn.Module):
    """One reading of the row."""

    config: EncoderConfig
    width: int
    backwards: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B L E"], mask: Bool[Array, "B L"]) -> Float[Array, "B L W"]:
        """The state at every token."""
        c, size = self.config, self.width
        shape, axes, init = (x.shape[-1], 4 * size), ("width", "output"), nn.initializers.glorot_uniform()
        gates = Einsum("ble,ef->blf", shape, axes, c.compute, init, name="input")(x)
        # A step of the loop needs all of its row's gates: nothing but rows is split.
        gates = sharding.shard(gates, "batch", None, None)
        start = nn.initializers.orthogonal()
        recurrent = sharding.param(self, "recurrent", start, (size, 4 * size), ("output", "table"))

        def step(before: Pair, now: Pair) -> tuple[Pair, jax.Array]:
            (hidden, cell), (gate, real) = before, now
            total = gate.astype(jnp.float32) + einsum("bw,wf->bf", hidden, recurrent, c.compute)
            i, f, g, o = jnp.split(total, 4, axis=-1)
            new = jax.nn.sigmoid(f + 1.0) * cell + jax.nn.sigmoid(i) * jnp.tanh(g)
            out = (jax.nn.sigmoid(o) * jnp.tanh(new)).astype(c.compute)
            real = real[:, None]
            kept = jnp.where(real, out, hidden), jnp.where(real, new, cell)
            return kept, jnp.where(real, out, jnp.zeros((), out.dtype))

        rows = x.shape[0]
        zero = jnp.zeros((rows, size), c.compute), jnp.zeros((rows, size), jnp.float32)
        inputs = gates.swapaxes(0, 1), jnp.asarray(mask).T
        states = jax.lax.scan(step, zero, inputs, reverse=self.backwards)[1]
        return sharding.shard(states.swapaxes(0, 1), "batch", "length", "act_width")


class BiLstm(nn.Module):
    """Layers of two readings each."""

    config: EncoderConfig
    layers: int
    width: int

    @nn.compact
    def __call__(self, x: Float[Array, "B L E"], mask: Bool[Array, "B L"]) -> Float[Array, "B L W"]:
        """The states of the last layer, both readings side by side."""
        for layer in range(self.layers):
            readings = [
                Lstm(self.config, self.width, backwards, name=f"{name}_{layer}")(x, mask)
                for name, backwards in (("forward", False), ("backward", True))
            ]
            x = jnp.concatenate(readings, axis=-1)
        return x
