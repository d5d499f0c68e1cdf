"""What a head reads of an encoder: the states of some layers, joined, and read once more by a BiLSTM if asked for.

    one layer   h_i                                            i = 0 the embeddings, N or -1 the last layer
    sum         γ Σ_i softmax(w)_i h_i,  w and γ learned       (ELMo, 1802.05365, Equation 1)
    concat      [h_i ; h_j ; ...]

That is how BERT is used without fine-tuning it (1810.04805, Section 5.3, Table 7): under `tune.trained=heads` the
encoder is frozen, and a two-layer BiLSTM of width 768 reads its features. The paper does not say whether 768 is the
width of each direction; here it is. The last layer counts behind the encoder's final norm, where it has one.
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.lstm import BiLstm
from bertjax.types import Array, Bool, EncoderOutput, Float

LAST = (-1,)


@dataclasses.dataclass(frozen=True)
class Features:
    """States of an encoder that a head reads."""

    layers: tuple[int, ...] = LAST
    """Their layers: 0 the embeddings, 1 the first, -1 the last; empty takes all layers."""
    join: Literal["sum", "concat"] = "sum"
    """How several become one: a sum with learned weights, or side by side."""
    lstm: int | None = None
    """Layers of a BiLSTM that reads them; none for none."""
    lstm_width: int = 768
    """Width of each of its two directions."""

    def __post_init__(self) -> None:
        """Refuses sizes that are none."""
        for name in ("lstm", "lstm_width"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"features.{name}={value} must be at least 1, or features.lstm=none")

    @property
    def needs_states(self) -> bool:
        """Whether they are more than the last layer."""
        return self.layers != LAST

    def numbers(self, layers: int) -> tuple[int, ...]:
        """Their layers in an encoder of so many, counted from the embeddings."""
        for number in self.layers:
            if not -layers <= number <= layers:
                raise ValueError(
                    f"features.layers has {number} of model.layers={layers}: from 0, the embeddings, to {layers}, "
                    f"or -1, the last, to -{layers}"
                )
        chosen = tuple(
            number % (layers + 1) if number >= 0 else layers + 1 + number for number in self.layers
        )
        return chosen or tuple(range(1, layers + 1))

    def small(self) -> "Features":
        """Of the same kind, for an encoder of two layers."""
        layers = tuple(number for number in self.layers if -2 <= number <= 2)
        return dataclasses.replace(self, layers=layers, lstm_width=min(self.lstm_width, 16))


# The rows of BERT's Table 7, and a BiLSTM on a model that is fine-tuned with it (Table 5).
FEATURES = {
    "embeddings": Features((0,)),
    "second_to_last": Features((-2,)),
    "last": Features(),
    "sum_last_four": Features((-4, -3, -2, -1)),
    "concat_last_four": Features((-4, -3, -2, -1), "concat"),
    "sum_all": Features(()),
    "bilstm": Features(lstm=2),
}


class FeatureReader(nn.Module):
    """Joins the states of the layers."""

    config: EncoderConfig
    options: Features

    @nn.compact
    def __call__(self, output: EncoderOutput, mask: Bool[Array, "B L"]) -> Float[Array, "B L E"]:
        """One vector a token."""
        c, options = self.config, self.options
        numbers = options.numbers(c.layers)
        states = [output.hidden if number == c.layers else output.states[number] for number in numbers]
        x = states[0]
        if options.join == "concat":
            x = jnp.concatenate(states, axis=-1)
        elif len(states) > 1:
            weights = sharding.param(self, "weights", nn.initializers.zeros, (len(states),), ("table",))
            scale = sharding.param(self, "scale", nn.initializers.ones, (1,), ("table",))
            shares = scale * jax.nn.softmax(weights)
            total = sum(
                share * state.astype(jnp.float32) for share, state in zip(shares, states, strict=True)
            )
            x = jnp.asarray(total).astype(c.compute)
        x = sharding.shard(x, "batch", "length", "act_width")
        if options.lstm is None:
            return x
        return BiLstm(c, options.lstm, options.lstm_width, name="lstm")(x, mask)
