"""Fused softmax attention: cuDNN on NVIDIA GPUs, Pallas splash attention on TPUs, and which of them is used when.

A kernel computes what the reference einsum computes without ever holding the scores: O(L) memory, and O(L²) time, or
O(L size) where splash skips the blocks outside a window. What a kernel cannot do is an *obstacle*. With
`backend=auto` an obstacle means the reference, and `explain` says so in the start banner; a kernel that was asked for
by name and meets an obstacle is an error.

    cudnn    bfloat16 or float16; heads of a multiple of 8, at most 128; even lengths; no attention dropout, no position
             bias, no two-sided window, no attention maps. A mask goes in as a bias of the width of the queries, since
             cuDNN does not broadcast one over them; without packed rows the lengths of the rows do instead.
    splash   lengths of a multiple of 128; no attention dropout, no position bias, no attention maps. Padding is a
             segment of its own. It has no batch axis, so it is mapped over the rows.

Under a mesh each device runs the kernel on its rows, its heads and its queries against all keys. Where the mesh asks
for a ring (`ring.py`), that is the implementation; what it cannot do is an error.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bertjax import sharding
from bertjax.layers.config import Backend
from bertjax.layers.mask import AttentionMask
from bertjax.types import Array, Float

PLATFORMS = {"cudnn": "gpu", "splash": "tpu"}
LANES = 128  # what splash cuts keys into
QUERY = ("batch", "length", "act_heads", "act_head_size")
KEY = ("batch", "key_length", "act_heads", "act_head_size")


@dataclasses.dataclass(frozen=True)
class Request:
    """What is asked of a kernel."""

    platform: str
    dtype: str
    length: int
    head_size: int
    dropout: float = 0.0
    bias: bool = False
    maps: bool = False
    window: bool = False
    globals: bool = False
    ring: bool = False


def obstacle(kernel: str, request: Request) -> str | None:
    """Why the kernel cannot do this, and what would let it; None if it can."""
    r = request
    if kernel in PLATFORMS and r.platform != PLATFORMS[kernel]:
        return f"{kernel} runs on {PLATFORMS[kernel]}, not on {r.platform}"
    if r.dropout:
        return f"{kernel} has no attention dropout: set model.attention_dropout=0"
    if r.bias:
        return f"{kernel} takes no position bias: choose positions that are embedded or rotated"
    if r.maps:
        return f"{kernel} gives no attention maps"
    if r.globals:
        return f"{kernel} knows no global tokens"
    if kernel == "ring":
        return None
    if kernel == "splash":
        if r.length % LANES:
            return f"splash takes rows of a multiple of {LANES} tokens, not {r.length}"
        return None
    if r.dtype not in ("bfloat16", "float16"):
        return f"cudnn computes in bfloat16, not in {r.dtype}: set model.dtype=bfloat16"
    if r.head_size % 8 or r.head_size > 128:
        return f"cudnn takes heads of a multiple of 8 up to 128, not {r.head_size}"
    if r.length % 2:
        return f"cudnn takes rows of an even number of tokens, not {r.length}"
    if r.window:
        return "cudnn has no two-sided window"
    return None


def choose(backend: Backend, request: Request) -> tuple[str, str]:
    """The implementation, and the reason in a few words."""
    if request.ring:
        against = obstacle("ring", request)
        if backend in PLATFORMS:
            against = f"model.attention.backend={backend} would need all keys in one place"
        if against:
            raise ValueError(
                f"mesh.sequence_attention=ring: {against}; or use mesh.sequence_attention=gather"
            )
        return "ring", "as mesh.sequence_attention says"
    if backend == "reference":
        return "reference", "asked for"
    if backend != "auto":
        against = obstacle(backend, request)
        if against:
            raise ValueError(f"model.attention.backend={backend}: {against}; or use backend=auto")
        return backend, "asked for"
    kernel = next((name for name, place in PLATFORMS.items() if place == request.platform), None)
    if kernel is None:
        return "reference", f"no kernel for {request.platform}"
    against = obstacle(kernel, request)
    return ("reference", against) if against else (kernel, f"best on {request.platform}")


def cudnn(
    q: Float[Array, "B L H K"], k: Float[Array, "B M H K"], v: Float[Array, "B M H K"], mask: AttentionMask
) -> Float[Array, "B L H K"]:
    """Attention by cuDNN."""
    rows, length, key_length = q.shape[0], q.shape[1], k.shape[1]
    attend = functools.partial(jax.nn.dot_product_attention, implementation="cudnn")
    if mask.segments is None and mask.window is None and not mask.causal:
        valid = jnp.ones((rows, key_length), bool) if mask.valid is None else jnp.asarray(mask.valid)
        # Padding stands at the end of a row. A row of nothing else gets one key, so that its softmax is finite.
        lengths = jnp.maximum(valid.sum(1, dtype=jnp.int32), 1)

        def by_length(q: Array, k: Array, v: Array, lengths: Array) -> Array:
            return attend(q, k, v, key_value_seq_lengths=lengths)

        run = sharding.on_each_device(by_length, (QUERY, KEY, KEY, ("batch",)), QUERY)
        return run(q, k, v, lengths)
    matrix = jnp.broadcast_to(mask.matrix(length, key_length), (rows, 1, length, key_length))

    def by_matrix(q: Array, k: Array, v: Array, matrix: Array) -> Array:
        return attend(q, k, v, mask=matrix)

    run = sharding.on_each_device(
        by_matrix, (QUERY, KEY, KEY, ("batch", None, "length", "key_length")), QUERY
    )
    return run(q, k, v, matrix)


def splash(
    q: Float[Array, "B L H K"],
    k: Float[Array, "B M H K"],
    v: Float[Array, "B M H K"],
    mask: AttentionMask,
    *,
    interpret: bool = False,
) -> Float[Array, "B L H K"]:
    """Attention by the Pallas kernel; `interpret` runs it without a TPU, slowly."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels

    rows, length, heads, size = q.shape
    shards = sharding.parts("length")
    kernel, kernel_spec = _splash_kernel(
        length, heads // sharding.parts("act_heads"), shards, mask.causal, mask.window, interpret
    )
    segments = jnp.ones((rows, length), jnp.int32) if mask.segments is None else jnp.asarray(mask.segments)
    if mask.valid is not None:
        segments = jnp.where(mask.valid, segments, 0)
    scaled = (q / math.sqrt(size)).astype(q.dtype)

    def attend(kernel: Any, q: Array, k: Array, v: Array, own: Array, all_: Array) -> Array:
        def row(q: jax.Array, k: jax.Array, v: jax.Array, own: jax.Array, all_: jax.Array) -> jax.Array:
            return kernel(q, k, v, segment_ids=kernels.SegmentIds(own, all_))

        heads = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
        return heads(jax.vmap(row)(heads(q), heads(k), heads(v), jnp.asarray(own), jnp.asarray(all_)))

    names = (kernel_spec, QUERY, KEY, KEY, ("batch", "length"), ("batch", "key_length"))
    run = sharding.on_each_device(attend, names, QUERY)
    return run(kernel, scaled, k, v, segments, segments)


def _splash_kernel(
    length: int, heads: int, shards: int, causal: bool, window: tuple[int, int] | None, interpret: bool
) -> tuple[Any, Any]:
    """The kernel for rows of this length, and how its tables are split over the devices that share the queries."""
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    shape = (length, length)
    allowed: Any = masks.FullMask((length // shards, length))  # the same for every device
    if window is not None:
        allowed = masks.LocalMask(
            shape, (window[0], 0 if causal else window[1]), offset=0, shard_count=shards
        )
    elif causal:
        allowed = masks.CausalMask(shape, shard_count=shards)
    # The largest block up to 512 that divides; a window skips more with smaller ones.
    widest = 512 if window is None else max(LANES, min(512, sum(window) // 2))
    query_block = next(
        b for b in (512, 256, 128, 64, 32, 16, 8, 1) if b <= widest and length // shards % b == 0
    )
    key_block = next(b for b in (512, 256, 128) if b <= widest and length % b == 0)
    sizes = kernels.BlockSizes(
        block_q=query_block,
        block_kv=key_block,
        block_kv_compute=key_block,
        block_q_dkv=query_block,
        block_kv_dkv=key_block,
        block_kv_dkv_compute=key_block,
        block_q_dq=query_block,
        block_kv_dq=key_block,
    )
    kernel = kernels.make_splash_mha(
        masks.MultiHeadMask([allowed] * heads),
        block_sizes=sizes,
        head_shards=1,
        q_seq_shards=1 if isinstance(allowed, masks.FullMask) else shards,
        interpret=interpret,
    )
    place = sharding.placement((None, "length"), (heads, length))
    if place is None or isinstance(allowed, masks.FullMask):
        return kernel, jax.tree.map(lambda _: jax.P(), kernel)
    return kernel, kernel.manual_sharding_spec(place)


KERNELS: dict[str, Callable[..., Any]] = {"cudnn": cudnn, "splash": splash}
