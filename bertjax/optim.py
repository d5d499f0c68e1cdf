"""Optimizers and learning-rate schedules, composed from optax.

    update = -lr(step) * (direction(clip(gradient)) + decay * parameter)

Every optimizer is only a direction; clipping, weight decay and the schedule are the same for all. Biases
and the scales of norms are not decayed (BERT). LAMB's trust ratio and Adafactor's clipping look at one
*layer* at a time, also where a scan has stacked the layers into one array, so that scanned and unrolled
stacks train alike.

Where batches are of one task of several, the heads of the others have no gradient, and are left as they are: they do
not decay, and their moments and their count of steps do not go on, as in PyTorch for parameters without a gradient.

Deviation from BERT's own AdamW: moments are bias-corrected, as everywhere today.
"""

import dataclasses
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from bertjax.sharding import Declared
from bertjax.types import Tree

# ---------------------------------------------------------------------------------------------- options


@dataclasses.dataclass(frozen=True)
class OptimizerOptions:
    """Base of every optimizer's options."""


@dataclasses.dataclass(frozen=True)
class AdamW(OptimizerOptions):
    """Adam with decoupled decay (1711.05101)."""

    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    epsilon: float = 1e-6
    """Added to the root of the second moment."""


@dataclasses.dataclass(frozen=True)
class Lamb(OptimizerOptions):
    """Adam's direction, scaled in every layer to the norm of the weights (1904.00962).

    Biases and norms are not scaled, as in the authors' code: a bias that starts at zero would hardly move.
    """

    b1: float = 0.9
    """Decay of the first moment."""
    b2: float = 0.999
    """Decay of the second moment."""
    epsilon: float = 1e-6
    """Added to the root of the second moment."""


@dataclasses.dataclass(frozen=True)
class Adafactor(OptimizerOptions):
    """Second moments kept as a row and a column (1804.04235); relative step sizes."""

    decay_rate: float = 0.8
    """Exponent of the decay of the second moment."""
    clipping: float | None = 1.0
    """Largest root mean square of an update."""
    relative: bool = True
    """Scale updates by the root mean square of the parameter."""
    min_dim_size_to_factor: int = 128
    """Matrices with a smaller side keep their whole second moment."""


@dataclasses.dataclass(frozen=True)
class Lion(OptimizerOptions):
    """The sign of a momentum (2302.06675)."""

    b1: float = 0.9
    """Weight of the momentum in the update."""
    b2: float = 0.99
    """Decay of the momentum."""


@dataclasses.dataclass(frozen=True)
class Muon(OptimizerOptions):
    """Orthogonalised momentum for the matrices of the stack (2502.16982), AdamW for all the rest.

    Updates are scaled to a root mean square of 0.2, so that AdamW's learning rates carry over.
    """

    momentum: float = 0.95
    """Decay of the momentum of matrices."""
    iterations: int = 5
    """Newton-Schulz iterations."""
    b1: float = 0.9
    """AdamW's first moment, for what is no matrix."""
    b2: float = 0.999
    """AdamW's second moment, for what is no matrix."""
    epsilon: float = 1e-6
    """AdamW's, for what is no matrix."""


OPTIMIZERS: dict[str, OptimizerOptions] = {
    "adamw": AdamW(),
    "lamb": Lamb(),
    "adafactor": Adafactor(),
    "lion": Lion(),
    "muon": Muon(),
}


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """Base of every schedule's options."""


@dataclasses.dataclass(frozen=True)
class Linear(ScheduleOptions):
    """Down to `final` in a straight line (BERT)."""

    final: float = 0.0
    """Share of the peak that is left at the last step."""


@dataclasses.dataclass(frozen=True)
class Cosine(ScheduleOptions):
    """Down to `final` along half a cosine (1608.03983)."""

    final: float = 0.0
    """Share of the peak that is left at the last step."""


@dataclasses.dataclass(frozen=True)
class Wsd(ScheduleOptions):
    """Warm-up, stable, decay: constant, then 1 - sqrt(progress) at the end (2405.18392; ModernBERT)."""

    decay: float = 0.1
    """Share of all steps in which the rate falls to zero."""


@dataclasses.dataclass(frozen=True)
class InverseSqrt(ScheduleOptions):
    """The peak times sqrt(warmup / step) (1706.03762)."""


@dataclasses.dataclass(frozen=True)
class Constant(ScheduleOptions):
    """The peak, to the end."""


SCHEDULES: dict[str, ScheduleOptions] = {
    "linear": Linear(),
    "cosine": Cosine(),
    "wsd": Wsd(),
    "inverse_sqrt": InverseSqrt(),
    "constant": Constant(),
}


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How parameters move."""

    optimizer: OptimizerOptions = AdamW()
    """The direction of an update."""
    schedule: ScheduleOptions = Linear()
    """The learning rate after the warm-up."""
    learning_rate: float = 1e-4
    """The peak."""
    warmup_steps: int = 10_000
    """Steps in which the rate rises from zero to the peak in a straight line."""
    warmup_share: float | None = None
    """Share of all steps in which it rises, in place of warmup_steps; none counts steps."""
    weight_decay: float = 0.01
    """Of everything but biases and norms."""
    clip_norm: float | None = 1.0
    """Largest global norm of the gradient; none leaves it as it is."""


# ---------------------------------------------------------------------------------------------- schedule


def learning_rate(config: OptimConfig, steps: int) -> Callable[[Any], jax.Array]:
    """The rate as a function of the number of updates made."""
    warmup = config.warmup_steps if config.warmup_share is None else round(config.warmup_share * steps)
    options, rest = config.schedule, max(steps - warmup, 1)

    def share(step: Any) -> jax.Array:
        done = jnp.clip((step - warmup) / rest, 0.0, 1.0)
        match options:
            case Linear():
                return 1 - (1 - options.final) * done
            case Cosine():
                return options.final + (1 - options.final) * 0.5 * (1 + jnp.cos(math.pi * done))
            case Wsd():
                falling = jnp.clip(
                    (step - steps * (1 - options.decay)) / max(steps * options.decay, 1.0), 0.0, 1.0
                )
                return 1 - jnp.sqrt(falling)
            case InverseSqrt():
                return jnp.sqrt(max(warmup, 1) / jnp.maximum(step, max(warmup, 1)))
            case Constant():
                return jnp.ones(())
        raise AssertionError(options)

    def rate(step: Any) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        # The first update is made at 1 / warmup of the peak: at zero it would be lost.
        rising = jnp.minimum((step + 1) / warmup, 1.0) if warmup else jnp.ones(())
        return config.learning_rate * rising * share(step)

    return rate


# ---------------------------------------------------------------------------------------------- optimizer


def make_optimizer(
    config: OptimConfig, steps: int, declared: Tree, heads: Sequence[str] = ()
) -> optax.GradientTransformationExtraArgs:
    """The whole update; `declared` are the parameters with the names of their axes.

    Each of `heads`, branches of the parameters, can be left out of an update: `update(..., idle=names)`.
    """
    clip = [] if config.clip_norm is None else [optax.clip_by_global_norm(config.clip_norm)]
    rate = optax.scale_by_learning_rate(learning_rate(config, steps))
    if not heads:
        return optax.with_extra_args_support(optax.chain(*clip, *_direction(config, declared), rate))
    parts = _branches(declared, heads)
    each = {name: optax.chain(*_direction(config, part)) for name, part in parts.items()}
    return optax.with_extra_args_support(optax.chain(*clip, _leaving_out(each), rate))


def _branches(tree: Tree, heads: Sequence[str]) -> dict[str, Tree]:
    """Every head on its own, and all the rest."""
    rest = {name: branch for name, branch in tree.items() if name not in heads}
    return {"rest": rest, **{name: {name: tree[name]} for name in heads}}


def _leaving_out(
    each: Mapping[str, optax.GradientTransformation],
) -> optax.GradientTransformationExtraArgs:
    """A transformation for every branch, of which those in `idle` stay as they are, and so do their states."""
    heads = [name for name in each if name != "rest"]

    def init(params: Tree) -> Tree:
        return {name: each[name].init(branch) for name, branch in _branches(params, heads).items()}

    def update(
        updates: Tree, state: Tree, params: Tree, *, idle: Collection[str] = (), **others: Any
    ) -> tuple[Tree, Tree]:
        del others
        moved: dict[str, Any] = {}
        after = dict(state)
        known = _branches(params, heads)
        for name, branch in _branches(updates, heads).items():
            if name in idle:
                moved |= jax.tree.map(jnp.zeros_like, branch)
            else:
                part, after[name] = each[name].update(branch, state[name], known[name])
                moved |= part
        return {name: moved[name] for name in updates}, after

    return optax.GradientTransformationExtraArgs(init, update)


def _direction(config: OptimConfig, declared: Tree) -> list[optax.GradientTransformation]:
    """What makes a direction of a gradient, and the decay."""
    decay = optax.add_decayed_weights(config.weight_decay, mask=decays)
    match config.optimizer:
        case AdamW(b1=b1, b2=b2, epsilon=epsilon):
            parts = [optax.scale_by_adam(b1, b2, epsilon), decay]
        case Lamb(b1=b1, b2=b2, epsilon=epsilon):
            trust = optax.masked(per_layer(optax.scale_by_trust_ratio()), decays)
            parts = [optax.scale_by_adam(b1, b2, epsilon), decay, trust]
        case Lion(b1=b1, b2=b2):
            parts = [optax.scale_by_lion(b1, b2), decay]
        case Adafactor() as options:
            size = options.min_dim_size_to_factor
            factored = optax.scale_by_factored_rms(decay_rate=options.decay_rate, min_dim_size_to_factor=size)
            parts = [per_layer(factored)]
            if options.clipping is not None:
                parts.append(per_layer(optax.clip_by_block_rms(options.clipping)))
            if options.relative:
                parts.append(per_layer(optax.scale_by_param_block_rms()))
            parts.append(decay)
        case Muon() as options:
            parts = [_muon(options, declared), decay]
        case _:
            raise AssertionError(config.optimizer)
    return parts


def decays(params: Tree) -> Tree:
    """True for every parameter that weight decay shrinks."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key not in ("bias", "scale"), params)


def per_layer(transform: optax.GradientTransformation) -> optax.GradientTransformation:
    """Applies a transformation to every array, and to every layer of a stacked array, on its own."""

    def each(one: Callable[..., Any], tree: Tree, *rest: Tree) -> Tree:
        def at(path: Any, *leaves: Any) -> Any:
            stacked = any(getattr(key, "key", None) == "layers" for key in path)
            return (jax.vmap(one) if stacked else one)(*leaves)

        return jax.tree_util.tree_map_with_path(at, tree, *rest)

    def update(updates: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        both = each(lambda u, p, s: transform.update(u, s, p), updates, params, state)
        split = lambda i: jax.tree.map(lambda _, pair: pair[i], updates, both)  # noqa: E731
        return split(0), split(1)

    return optax.GradientTransformation(lambda params: each(transform.init, params), update)


def _muon(options: Muon, declared: Tree) -> optax.GradientTransformation:
    """Muon's and AdamW's directions; Muon sees which axes of a kernel are its input and which its output."""

    def axes(path: Any, box: Declared) -> Any:
        inside = any(getattr(key, "key", None) == "stack" for key in path)
        if not inside or path[-1].key != "kernel":
            return None
        first = 1 if box.names[0] == "layers" else 0  # the axis of a scan is a batch of matrices
        last = len(box.names)
        split = first + 1 if box.names[first] == "width" else last - 1
        numbers = optax.contrib.MuonDimensionNumbers
        return numbers(reduction_axis=tuple(range(first, split)), output_axis=tuple(range(split, last)))

    def to_root_mean_square(updates: Tree, params: Tree) -> Tree:
        del params

        def scaled(dims: Any, update: jax.Array) -> jax.Array:
            sides = [math.prod(update.shape[i] for i in axes) for axes in dims]
            return 0.2 * math.sqrt(max(sides)) * update

        return jax.tree.map(scaled, matrices, updates, is_leaf=lambda x: x is not None and is_kind(x))

    is_box = lambda x: isinstance(x, Declared)  # noqa: E731
    is_kind = lambda x: x is None or isinstance(x, optax.contrib.MuonDimensionNumbers)  # noqa: E731
    numbers = jax.tree_util.tree_map_with_path(axes, declared, is_leaf=is_box)
    kinds = jax.tree.map(lambda x: "adam" if x is None else "muon", numbers, is_leaf=is_kind)
    # What goes to AdamW is masked for Muon, here as `partition` does it in the gradients.
    matrices = jax.tree.map(lambda x: optax.MaskedNode() if x is None else x, numbers, is_leaf=is_kind)
    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=options.momentum,
            ns_steps=options.iterations,
            weight_dimension_numbers=lambda params: matrices,
        ),
        optax.stateless(to_root_mean_square),
    )
    adam = optax.scale_by_adam(options.b1, options.b2, options.epsilon)
    return optax.partition({"muon": muon, "adam": adam}, kinds)
