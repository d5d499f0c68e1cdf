"""What every attention variant must do, as functions of its name in the registry.

`CHECKS` is the battery. Each check builds the smallest encoder around the variant, with parameters drawn by numpy
(so that no bias is zero and nothing is compiled to make them), and shares what was compiled for the others: three
programs a variant are all, a plain one, one that is scanned, rematerialised and sharded, and one in half precision.
All sizes differ, so a transposed axis cannot hide, and those that a 2x2x2 mesh splits are even.
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax import sharding
from bertjax.attention import (
    ATTENTIONS,
    AttentionOptions,
    check_attention,
    make_attention,
    name_of,
    variant_of,
)
from bertjax.attention.base import Context
from bertjax.layers.config import EncoderConfig, Full, Learned
from bertjax.layers.mask import AttentionMask
from bertjax.layers.position.relative import Relative
from bertjax.models.encoder import Encoder
from bertjax.models.stacking import stack_layers
from bertjax.types import Batch, Tree

LENGTH = 10
FAST = {"xla_backend_optimization_level": 0}  # three times faster to compile; what is computed is the same
if "xla_cpu_parallel_codegen_split_count" in os.environ.get("XLA_FLAGS", ""):
    # XLA's own number. In one piece, as other tests have it, more is inlined, and one of the 1152 numbers in a gradient
    # through the iterated inverse of `nystroem` is 1.02e-5 of the largest off what it is without a mesh.
    FAST["xla_cpu_parallel_codegen_split_count"] = 32
CAUSAL = AttentionMask(causal=True)
# A bias of all keys moves every score of a query alike, which softmax does not see: its gradient is rounding.
NO_GRADIENT = ("key/bias",)


def small_config(options: AttentionOptions, **changes: Any) -> EncoderConfig:
    """Two periods of layers, one after the other; B2 L10 D24 H4 K6 F40 V53."""
    sizes: dict[str, Any] = dict(width=24, heads=4, feedforward=40, vocab=53, max_length=LENGTH)
    position = Relative(buckets=4, max_distance=9) if needs_distances(options) else Learned()
    sizes["position"] = position
    parts: dict[str, Any] = dict(layers=2 * len(options.period()), vocab_multiple=8, attention=options)
    return EncoderConfig(**{**sizes, **parts, "dropout": 0.0, "attention_dropout": 0.0, **changes})


def needs_distances(options: AttentionOptions) -> bool:
    return any(variant_of(kind).relative for kind in options.period())


def small_batch(config: EncoderConfig, rows: int = 2, length: int = LENGTH, packed: bool = False) -> Batch:
    """Rows of random tokens: the first is full, the others end in two tokens of padding."""
    draw = np.random.default_rng(0)
    index = np.broadcast_to(np.arange(length), (rows, length))
    mask = np.ones((rows, length), bool)
    mask[1:, -2:] = False
    second = (index >= 3) if packed else np.zeros_like(mask)
    return Batch(
        tokens=jnp.asarray(draw.integers(0, config.vocab, (rows, length), np.int32)),
        mask=jnp.asarray(mask),
        types=jnp.asarray((index > length // 2).astype(np.int32)),
        positions=jnp.asarray(np.where(second, index - 3, index).astype(np.int32)),
        segments=jnp.asarray(np.where(mask, 1 + second, 0).astype(np.int32)),
        targets={},
        example_id=jnp.arange(rows),
        epoch=jnp.zeros(rows, jnp.int32),
    )


def draw_parameters(shapes: Tree, seed: int = 0) -> Tree:
    """Random values for every parameter: scales about 1, everything else about 0."""
    draw = np.random.default_rng(seed)

    def one(path: Any, leaf: Any) -> jax.Array:
        values = 0.2 * draw.standard_normal(leaf.shape)
        return jnp.asarray(values + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(one, shapes)


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """One encoder around one variant, and what was compiled for it."""

    config: EncoderConfig

    @functools.cached_property
    def encoder(self) -> Encoder:
        return Encoder(self.config)

    @functools.cached_property
    def declared(self) -> Tree:
        batch = small_batch(self.config)
        return jax.eval_shape(lambda: self.encoder.init(jax.random.key(0), batch, train=False))["params"]

    @functools.cached_property
    def parameters(self) -> Tree:
        return draw_parameters(nn.unbox(self.declared))

    def hidden(self, parameters: Tree, batch: Batch, mask: AttentionMask | None = None) -> jax.Array:
        return self.encoder.apply({"params": parameters}, batch, train=False, mask=mask).hidden

    def loss(self, parameters: Tree, batch: Batch) -> tuple[jax.Array, jax.Array]:
        """A number that every real token has a different part in, and the hidden states."""
        rngs = {"dropout": jax.random.key(1)}
        output = self.encoder.apply({"params": parameters}, batch, train=True, rngs=rngs)
        parts = jnp.sin(jnp.arange(output.hidden.size, dtype=jnp.float32))
        real = jnp.where(batch.mask[:, :, None], output.hidden.astype(jnp.float32), 0.0)
        loss = (real * parts.reshape(real.shape)).sum() + output.pooled.astype(jnp.float32).sum()
        return loss, output.hidden

    @functools.cached_property
    def both(self) -> Callable[..., tuple[Tree, jax.Array]]:
        """Gradient and hidden states: one program, since compiling is all that these tests wait for."""
        return jax.jit(jax.grad(self.loss, has_aux=True), compiler_options=FAST)

    def forward(self, parameters: Tree, batch: Batch) -> jax.Array:
        return self.both(parameters, batch)[1]

    def gradient(self, parameters: Tree, batch: Batch) -> Tree:
        return self.both(parameters, batch)[0]


@functools.cache
def one_layer(config: EncoderConfig, options: AttentionOptions) -> Callable[..., jax.Array]:
    """The attention alone."""
    module = make_attention(config, options, "attention")
    run = lambda parameters, x, context: module.apply({"params": parameters}, x, context, train=False)  # noqa: E731
    return jax.jit(run, compiler_options=FAST)


def layer_shapes(config: EncoderConfig, options: AttentionOptions, x: jax.Array, context: Context) -> Tree:
    """The parameters of the attention alone."""
    layer = make_attention(config, options, "attention")
    init = functools.partial(layer.init, train=False)
    return nn.unbox(jax.eval_shape(init, jax.random.key(0), x, context).get("params", {}))


def draw_inputs(config: EncoderConfig) -> jax.Array:
    """What a layer gets from the one below."""
    return jnp.asarray(np.random.default_rng(2).standard_normal((2, LENGTH, config.width)), jnp.float32)


@functools.cache
def case_of(options: AttentionOptions, **changes: Any) -> Case:
    return Case(small_config(options, **changes))


def options_of(name: str) -> AttentionOptions:
    """The variant's options for short rows."""
    return ATTENTIONS[name].small or ATTENTIONS[name].options


def close(ours: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Equal up to `tolerance` of the largest value, leaf by leaf."""
    ours_paths = jax.tree_util.tree_leaves_with_path(ours)
    for (path, one), other in zip(ours_paths, jax.tree.leaves(theirs), strict=True):
        one, other = np.asarray(one, np.float32), np.asarray(other, np.float32)
        scale = max(1.0, float(np.abs(other).max()))
        what = jax.tree_util.keystr(path)
        np.testing.assert_allclose(one, other, atol=tolerance * scale, rtol=0, err_msg=what)


# ---------------------------------------------------------------------------------------------- the checks


def padding_cannot_influence_real_tokens(name: str) -> None:
    case = case_of(options_of(name))
    batch = small_batch(case.config)
    changed = batch.replace(tokens=jnp.where(batch.mask, batch.tokens, (batch.tokens + 1) % 53))
    assert (changed.tokens != batch.tokens).any()
    keep = np.asarray(batch.mask)
    before, after = (np.asarray(case.forward(case.parameters, b)) for b in (batch, changed))
    np.testing.assert_array_equal(before[keep], after[keep])
    assert (before[~keep] != after[~keep]).any()  # the change did reach the encoder


def segments_cannot_see_each_other(name: str) -> None:
    case = case_of(options_of(name))
    if not ATTENTIONS[name].segments:
        message = refusal(lambda: check_attention(case.config, packed=True))
        assert any(name_of(kind) in message for kind in case.config.kinds)
        return
    check_attention(case.config, packed=True)
    batch = small_batch(case.config, packed=True)
    first = np.asarray(batch.segments) == 1
    changed = batch.replace(tokens=jnp.where(first, batch.tokens, (batch.tokens + 1) % 53))
    before, after = (np.asarray(case.forward(case.parameters, b)) for b in (batch, changed))
    np.testing.assert_array_equal(before[first], after[first])
    changed = batch.replace(tokens=jnp.where(first, (batch.tokens + 1) % 53, batch.tokens))
    after, second = np.asarray(case.forward(case.parameters, changed)), np.asarray(batch.segments) == 2
    np.testing.assert_array_equal(before[second], after[second])
    assert (before[first] != after[first]).any()


def causal_masks_are_obeyed_or_refused(name: str) -> None:
    case = case_of(options_of(name))
    batch = small_batch(case.config)
    if not ATTENTIONS[name].causal:
        assert "causal" in refusal(lambda: case.hidden(case.parameters, batch, CAUSAL))
        return
    x, distances = draw_inputs(case.config), 2 * LENGTH - 1
    context = Context(AttentionMask(valid=batch.mask, causal=True), batch.positions)
    context = dataclasses.replace(context, relative=jnp.ones((distances, case.config.width)))
    for options in case.config.kinds:
        own = draw_parameters(layer_shapes(case.config, options, x, context))
        before, after = (
            np.asarray(one_layer(case.config, options)(own, one, context)) for one in (x, x.at[:, 4].add(1.0))
        )
        np.testing.assert_array_equal(before[:, :4], after[:, :4])
        # Fourier mixing and the like aside, what a token holds reaches its own result.
        assert (before[:, 4] != after[:, 4]).any() or not jax.tree.leaves(own)


def rows_do_not_mix(name: str) -> None:
    case = case_of(options_of(name))
    batch = small_batch(case.config)
    turned = jax.tree.map(lambda x: x[::-1], batch)
    close(case.forward(case.parameters, turned), case.forward(case.parameters, batch)[::-1], 1e-6)
    changed = batch.replace(tokens=batch.tokens.at[0].set(3))
    close(case.forward(case.parameters, changed)[1], case.forward(case.parameters, batch)[1], 1e-6)


def jit_equals_eager(name: str) -> None:
    case = case_of(options_of(name))
    batch = small_batch(case.config)
    close(case.forward(case.parameters, batch), case.hidden(case.parameters, batch))


def gradients_are_finite_with_an_empty_row(name: str) -> None:
    case = case_of(options_of(name))
    batch = small_batch(case.config)
    empty = jnp.asarray([[True], [False]])
    batch = batch.replace(mask=batch.mask & empty, segments=jnp.where(empty, batch.segments, 0))
    for path, leaf in jax.tree_util.tree_leaves_with_path(case.gradient(case.parameters, batch)):
        assert np.isfinite(leaf).all(), jax.tree_util.keystr(path)
    assert np.isfinite(case.forward(case.parameters, batch)).all()


def every_parameter_gets_a_gradient(name: str) -> None:
    case = case_of(options_of(name))
    gradients = case.gradient(case.parameters, small_batch(case.config))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        where = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.abs(leaf).max() > 1e-4 or where.endswith(NO_GRADIENT), f"{where} gets no gradient"


def bfloat16_is_close_to_float32(name: str) -> None:
    case, half = case_of(options_of(name)), case_of(options_of(name), dtype="bfloat16", scan=True)
    batch = small_batch(case.config)
    gradient, ours = half.both(stack_layers(case.parameters), batch)
    assert ours.dtype == jnp.bfloat16
    theirs = np.asarray(case.forward(case.parameters, batch))
    error = np.asarray(ours, np.float32) - theirs
    assert np.sqrt(np.square(error).mean() / np.square(theirs).mean()) < 0.03
    # The CPU's compiler lacks some half-precision products, and says so only when they run: backward ones, too.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def scanned_rematerialised_and_sharded_equals_plain(name: str) -> None:
    """Three equalities by one program, as runs have it: no scan, no remat and no mesh changes a number.

    Which of them does not hold, tests/models/test_block.py tells, where each is tested for one attention.
    """
    case, whole = case_of(options_of(name)), case_of(options_of(name), scan=True, remat="block")
    batch, rules = small_batch(case.config), "fsdp_tensor_sequence"
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2, sequence=2, rules=rules))
    places = sharding.parameter_shardings(whole.declared, mesh, rules)
    with sharding.activate(mesh, rules):
        step = jax.jit(
            jax.grad(whole.loss, has_aux=True), out_shardings=(places, None), compiler_options=FAST
        )
        gradient, hidden = step(jax.device_put(stack_layers(case.parameters), places), batch)
    close(gradient, stack_layers(case.gradient(case.parameters, batch)))
    close(hidden, case.forward(case.parameters, batch))


def longer_rows_run_or_are_refused(name: str) -> None:
    """Four times the length that the parameters were made for: what has none of it in them takes any."""
    case = case_of(options_of(name))
    batch = small_batch(case.config, length=4 * LENGTH)
    x = np.random.default_rng(3).standard_normal((2, 4 * LENGTH, case.config.width))
    relative = jnp.ones((8 * LENGTH - 1, case.config.width))
    refused = []
    for options in case.config.kinds:
        short = Context(
            AttentionMask(), small_batch(case.config).positions, relative=relative[: 2 * LENGTH - 1]
        )
        own = draw_parameters(layer_shapes(case.config, options, draw_inputs(case.config), short))
        context = Context(AttentionMask(valid=batch.mask), batch.positions, relative=relative)
        run = functools.partial(one_layer(case.config, options), own, jnp.asarray(x, jnp.float32), context)
        if ATTENTIONS[name].any_length:
            y = np.asarray(run())
            assert y.shape == x.shape and np.isfinite(y).all()
        else:
            refused.append(refusal(run))
    assert ATTENTIONS[name].any_length or f"set model.max_length={4 * LENGTH}" in " ".join(refused)


def exact_limit_equals_full(name: str) -> None:
    variant = ATTENTIONS[name]
    if variant.exact is None:
        return
    base = case_of(Full())
    config = dataclasses.replace(base.config, attention=variant.exact(base.config))
    batch = small_batch(config, packed=variant.segments)
    context = Context(AttentionMask(valid=batch.mask, segments=batch.segments), batch.positions)
    x = draw_inputs(config)
    full = base.parameters["stack"]["group_0"]["layers_0"]["block_0"]["attention"]
    expected = one_layer(base.config, Full())(full, x, context)[batch.mask]
    for options in config.kinds:
        own = draw_parameters(layer_shapes(config, options, x, context))
        ours = one_layer(config, options)(variant.adapt(own, full), x, context)
        close(ours[batch.mask], expected)


def parameter_count_is_pinned(name: str) -> None:
    variant = ATTENTIONS[name]
    config = EncoderConfig(attention=variant.options)
    total, kinds = 0, config.kinds
    batch = small_batch(config, rows=1, length=512)
    context = Context(AttentionMask(valid=batch.mask, segments=batch.segments), batch.positions)
    context = dataclasses.replace(context, relative=jnp.zeros((1023, config.width)))
    for options in kinds:
        x = jnp.zeros((1, 512, config.width))
        total += sharding.count(layer_shapes(config, options, x, context))
    found = total // len(kinds)
    assert found == variant.parameters, (
        f"registry line of {name!r}: {found} parameters, not {variant.parameters}"
    )


def refusal(call: Callable[[], Any]) -> str:
    """The message with which a call is refused; it must be one line."""
    try:
        call()
    except ValueError as error:
        assert "\n" not in str(error), str(error)
        return str(error)
    raise AssertionError("nothing was refused")


CHECKS: tuple[Callable[[str], None], ...] = (
    padding_cannot_influence_real_tokens,
    segments_cannot_see_each_other,
    causal_masks_are_obeyed_or_refused,
    rows_do_not_mix,
    jit_equals_eager,
    gradients_are_finite_with_an_empty_row,
    every_parameter_gets_a_gradient,
    bfloat16_is_close_to_float32,
    scanned_rematerialised_and_sharded_equals_plain,
    longer_rows_run_or_are_refused,
    exact_limit_equals_full,
    parameter_count_is_pinned,
)
