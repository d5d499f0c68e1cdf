"""The dense layers of a model, and what their weights start from.

    y = einsum(subscripts, x, kernel) + bias

Where a kernel stands decides how large it starts:

    score    queries and keys, which only meet each other
    branch   what a residual branch carries: values, the way into the feed-forward part
    exit     the last product of a residual branch
    head     outside of the stack

The schemes (`model.init_scheme`), with std = model.init_std, D the width and N the number of layers:

    bert     normal cut at two standard deviations, std everywhere                      (BERT, 1810.04805)
    depth    the same, and exits start at std / sqrt(2 N)                               (GPT-2; ModernBERT, 2412.13663)
    fan_in   cut normal of variance 1 / fan-in                                          (LeCun et al., 1998)
    xavier   normal of variance 2 / (fan-in + fan-out)                                  (Glorot and Bengio, 2010)
    small    normal of variance 2 / (5 D), and exits of standard deviation 2 / (N sqrt(D))
                                                                    (1910.05895; GPT-NeoX, 2204.06745)

DeepNorm (`model.residual=deepnorm`, 2203.00555) then makes branches and exits smaller by (8 N)^(1/4). Embedding tables
start from the cut normal of `init_std` in all schemes, biases from zero.
"""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
from flax import linen as nn

from bertjax.layers.config import EncoderConfig
from bertjax.layers.einsum import Einsum, kernel_init

Role = Literal["score", "branch", "exit", "head"]
Initializer = Callable[..., jax.Array]


def dense(
    config: EncoderConfig,
    subscripts: str,
    shape: tuple[int, ...],
    axes: tuple[str, ...],
    role: Role,
    *,
    name: str | None = None,
    bias: bool | None = None,
) -> Einsum:
    """A dense layer with the config's dtype and initial weights; `bias` overrides the config's."""
    operands, result = subscripts.split("->")
    left, right = operands.split(",")
    inputs = [i for i, letter in enumerate(right) if letter in left]
    assert all(letter in result for letter in right if letter not in left), subscripts
    bias = config.bias if bias is None else bias
    start = initial(config, role, inputs)
    # Without a name, as in `setup`, the layer is called what it is assigned to.
    extra: dict[str, Any] = {} if name is None else {"name": name}
    return Einsum(subscripts, shape, axes, config.compute, start, bias, **extra)


def initial(config: EncoderConfig, role: Role, inputs: list[int]) -> Initializer:
    """What a kernel in that role starts from; `inputs` are the dimensions that a product sums over."""
    gain = 1.0
    if config.residual == "deepnorm" and role in ("branch", "exit"):
        gain = (8 * config.layers) ** -0.25
    last = role == "exit"
    match config.init_scheme:
        case "bert":
            return kernel_init(gain * config.init_std)
        case "depth":
            return kernel_init(gain * config.init_std / (math.sqrt(2 * config.layers) if last else 1.0))
        case "fan_in":
            return _fans(gain, "fan_in", "truncated_normal", inputs)
        case "xavier":
            return _fans(gain, "fan_avg", "normal", inputs)
        case "small":
            if last:
                return nn.initializers.normal(gain * 2 / (config.layers * math.sqrt(config.width)))
            return nn.initializers.normal(gain * math.sqrt(2 / (5 * config.width)))


def _fans(gain: float, mode: Any, distribution: Any, inputs: list[int]) -> Initializer:
    def start(key: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        outputs = [i for i in range(len(shape)) if i not in inputs]
        scaling = nn.initializers.variance_scaling
        return scaling(gain**2, mode, distribution, in_axis=inputs, out_axis=outputs)(key, shape, dtype)

    return start
