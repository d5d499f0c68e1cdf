"""What a kernel is held against the reference on, in this process, on whatever device it has.

`python -m tests.attention.kernel_cases cudnn` goes through all cases and prints, as a line of JSON, how far the kernel
is from the reference in each: the tests run on CPUs, and start such a process where there is a GPU.
"""

import dataclasses
import json
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.attention import make_attention
from bertjax.attention.base import Context
from bertjax.layers.config import AttentionOptions, EncoderConfig, Full
from bertjax.layers.mask import AttentionMask
from tests.attention.battery import draw_parameters

CONFIG = EncoderConfig(layers=1, width=256, heads=4, attention_dropout=0.0)


@dataclasses.dataclass(frozen=True)
class Case:
    """Rows, and what their tokens may see."""

    length: int
    packed: bool = False
    causal: bool = False
    empty: bool = False  # the second row is padding alone
    heads: int = 4  # of 256


CASES = {
    "64": Case(64),  # both of these lengths were wrong in some version of some wrapper
    "192": Case(192),
    "512": Case(512),
    "64 packed": Case(64, packed=True),
    "192 packed": Case(192, packed=True),
    "512 packed": Case(512, packed=True),
    "causal": Case(128, causal=True),
    "packed and causal": Case(128, packed=True, causal=True),
    "empty row": Case(64, empty=True),
    "packed, empty row": Case(64, packed=True, empty=True),
    "heads of 128": Case(64, heads=2),
    "heads of 32": Case(64, packed=True, heads=8),
}


def example(
    length: int, packed: bool, width: int = CONFIG.width, empty: bool = False
) -> tuple[jax.Array, AttentionMask]:
    """Two rows of inputs, the second ends in padding; two documents in each if packed."""
    x = np.random.default_rng(length).standard_normal((2, length, width))
    index = np.arange(length)
    valid = np.stack([index < length, index < (0 if empty else length - 37)])
    segments = np.stack([1 + (index > length // 3), 1 + (index > length // 4)]).astype(np.int32)
    segments = np.where(valid, segments, 0)
    mask = AttentionMask(valid=jnp.asarray(valid), segments=jnp.asarray(segments) if packed else None)
    return jnp.asarray(x, jnp.float32), mask


def run(
    options: AttentionOptions,
    x: jax.Array,
    mask: AttentionMask,
    dtype: Any = "float32",
    *,
    config: EncoderConfig = CONFIG,
    compiler_options: dict[str, Any] | None = None,
) -> tuple[Any, Any]:
    """The layer's output at real tokens, and its gradients."""
    config = dataclasses.replace(config, attention=options, dtype=dtype)
    layer = make_attention(config, options, "attention")
    context = Context(mask, jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape[:2]))
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, context, train=False))["params"]
    parameters = draw_parameters(nn.unbox(shapes))

    def loss(parameters: Any, x: Any) -> Any:
        y = layer.apply({"params": parameters}, x.astype(dtype), context, train=True).astype(jnp.float32)
        assert mask.valid is not None
        y = jnp.where(jnp.asarray(mask.valid)[:, :, None], y, 0.0)
        return (y * jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)).sum() / 100, y

    step = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=compiler_options)
    gradients, y = step(parameters, x)
    return y, gradients


def errors(kernel: Any, case: Case, compiler_options: dict[str, Any] | None = None) -> dict[str, float]:
    """How far a kernel is from the reference, in bfloat16, and what the first documents hear of the second."""
    config = dataclasses.replace(CONFIG, heads=case.heads)
    x, mask = example(case.length, case.packed, empty=case.empty)
    mask = mask & AttentionMask(causal=case.causal)
    both = []
    for backend in (kernel, "reference"):
        found = run(Full(backend), x, mask, "bfloat16", config=config, compiler_options=compiler_options)
        both.append(jax.tree.leaves(found))
    result = {"error": max(distance(one, other) for one, other in zip(*both, strict=True))}
    if case.packed:
        first = np.asarray(mask.segments) == 1
        other = jnp.where(first[:, :, None], x, x + 1)
        y, _ = run(Full(kernel), other, mask, "bfloat16", config=config, compiler_options=compiler_options)
        before, after = (np.asarray(one)[first] for one in (both[0][0], y))
        result["heard"] = float(np.abs(before - after).max())
    return result


def distance(ours: Any, theirs: Any) -> float:
    """The largest difference, of the largest value; a number that is none is as far as can be."""
    one, other = np.asarray(ours, np.float32), np.asarray(theirs, np.float32)
    worst = np.abs(one - other).max() / max(1.0, float(np.abs(other).max()))
    return float(worst) if np.isfinite(worst) else 1e30


if __name__ == "__main__":
    print(json.dumps({name: errors(sys.argv[1], case) for name, case in CASES.items()}))
