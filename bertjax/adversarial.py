"""Training against noise in the embeddings that is made to hurt, so that predictions do not hang on it.

FreeLB (1909.11764, Algorithm 1). The loss is averaged over K noises, each a step up the loss from the one before, and
the gradients of the parameters come for free with those of the noise:

    δ_0 = U(-ε, ε) / sqrt(n E)
    g   = (1/K) Σ_t ∇_θ L(x + δ_t),      δ_{t+1} = Π(δ_t + α ∇_δ L / ‖∇_δ L‖),      Π: ‖δ‖ ≤ ε,      t = 0 .. K - 1

SiFT (DeBERTa, 2006.03654, Section 4; the divergence is SMART's, 1911.03437). Predictions under noise are drawn to those
without, whatever the labels say, and the noise is found by climbing that divergence D of theirs (`tasks/scored.py`):

    δ_0 = s N(0, 1),      δ_{t+1} = δ_t + α ∇_δ D / max|∇_δ D|,      loss = L(x) + w D(f(x), f(x + δ_K))

It is scale-invariant as it stands behind the norm of the embeddings, whose size so does not depend on word or model;
FreeLB's is added to the embeddings of words themselves, before that norm. Norms and maxima are of each row on its own,
over its n real tokens of width E: padding is never touched. All passes of a step draw the same dropout, so that they
differ by the noise alone. Where a noise starts follows from seed, step and example, not from mesh or microbatch.

Deviation: SiFT normalises word vectors before positions are added to them; BERT's norm is behind their sum.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from bertjax import sharding
from bertjax.layers.config import EncoderConfig
from bertjax.layers.embed import Noise
from bertjax.tasks.base import Task, row_keys
from bertjax.tasks.scored import ScoredTask, distance
from bertjax.types import Array, Batch, Float, Key, Metrics, Tree

TINY = 1e-30  # keeps a gradient of zero, of an example that does not count, from becoming nan


@dataclasses.dataclass(frozen=True)
class AdversarialOptions:
    """Base of the ways to train against noise."""


@dataclasses.dataclass(frozen=True)
class FreeLb(AdversarialOptions):
    """The mean loss over noises that climb it (1909.11764)."""

    steps: int = 3
    """Noises of a training step, each a pass forward and backward."""
    radius: float = 0.3
    """Largest norm of the noise of a row."""
    rate: float = 0.1
    """Length of a step up."""


@dataclasses.dataclass(frozen=True)
class Sift(AdversarialOptions):
    """The loss, and how far noise takes predictions from those without (2006.03654)."""

    weight: float = 1.0
    """Of the divergence in the loss."""
    steps: int = 1
    """Steps up the divergence, each a pass forward and backward."""
    start: float = 1e-2
    """Standard deviation of the noise before the first."""
    rate: float = 1e-2
    """Largest change of a coordinate in a step."""


ADVERSARIES: dict[str, AdversarialOptions] = {"free_lb": FreeLb(), "sift": Sift()}


def check_adversarial(
    options: AdversarialOptions | None, tasks: Sequence[Task], model: EncoderConfig
) -> None:
    """Refuses sizes that are none, and tasks or models that the method does not fit."""
    if options is None:
        return
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        least = 1 if field.name == "steps" else 0
        if value < least:
            raise ValueError(f"train.adversarial.{field.name}={value} must be at least {least}")
    if isinstance(options, Sift):
        odd = [task.name for task in tasks if not isinstance(task, ScoredTask)]
        if odd:
            raise ValueError(
                f"train.adversarial=sift compares scores, and the task {odd[0]} gives none: use free_lb, or none"
            )
        if not model.embedding_norm:
            raise ValueError(
                "train.adversarial=sift adds noise behind model.embedding_norm, which is off: use free_lb"
            )


def passes(options: AdversarialOptions | None) -> int:
    """Passes forward and backward in a training step."""
    match options:
        case FreeLb(steps=steps):
            return steps
        case Sift(steps=steps):
            return steps + 2
    return 1


@dataclasses.dataclass(frozen=True)
class Problem:
    """A step without noise: what is differentiated, over which rows, for which tasks."""

    forward: Callable[[Tree, Noise | None], Mapping[str, Any]]  # parameters and noise to outputs
    loss: Callable[[Mapping[str, Any]], tuple[jax.Array, Metrics]]  # of outputs
    tasks: Sequence[Task]
    batch: Batch
    counts: Mapping[str, Array]
    key: Key  # of the step, the same for all of its microbatches
    width: int  # of the embeddings

    def noise(self, draw: Callable[[Key, tuple[int, int]], Array]) -> Float[Array, "B L E"]:
        """A draw for every row by its own key, nothing on padding."""
        keys = row_keys(self.key, self.batch.example_id, self.batch.epoch)
        shape = (self.batch.tokens.shape[1], self.width)
        return self.masked(jax.vmap(lambda key: draw(key, shape))(keys))

    def masked(self, x: Float[Array, "B L E"]) -> Float[Array, "B L E"]:
        """The same, zero on padding, and where the embeddings are."""
        x = jnp.where(self.batch.mask[:, :, None], x, 0.0)
        return sharding.shard(x, "batch", "length", "act_width")


def gradient(options: AdversarialOptions | None, problem: Problem, params: Tree) -> tuple[Tree, Metrics]:
    """The gradient of a training step, and its metrics."""
    match options:
        case FreeLb():
            return _free_lb(options, problem, params)
        case Sift():
            return _sift(options, problem, params)
    return jax.grad(lambda p: problem.loss(problem.forward(p, None)), has_aux=True)(params)


def _free_lb(options: FreeLb, problem: Problem, params: Tree) -> tuple[Tree, Metrics]:
    def loss(params: Tree, delta: Array) -> tuple[jax.Array, Metrics]:
        return problem.loss(problem.forward(params, Noise(words=delta)))

    differentiate = jax.grad(loss, argnums=(0, 1), has_aux=True)
    size = problem.batch.mask.sum(1, dtype=jnp.float32) * problem.width
    unit = problem.noise(lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
    delta = options.radius * unit / jnp.sqrt(jnp.maximum(size, 1.0))[:, None, None]

    def climb(before: tuple[Any, Array], _: None) -> tuple[tuple[Any, Array], None]:
        total, delta = before
        (grads, uphill), metrics = differentiate(params, delta)
        delta = delta + options.rate * uphill / jnp.maximum(norms(uphill), TINY)
        delta = delta * jnp.minimum(1.0, options.radius / jnp.maximum(norms(delta), TINY))
        return (jax.tree.map(jnp.add, total, (grads, metrics)), problem.masked(delta)), None

    (grads, _), metrics = jax.eval_shape(differentiate, params, delta)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (grads, metrics))
    total, _ = jax.lax.scan(climb, (zero, delta), length=options.steps)[0]
    mean: tuple[Tree, Metrics] = jax.tree.map(lambda x: x / options.steps, total)
    return mean


def _sift(options: Sift, problem: Problem, params: Tree) -> tuple[Tree, Metrics]:
    def apart(clean: Mapping[str, Any], params: Tree, delta: Array) -> tuple[Array, Metrics]:
        moved = problem.forward(params, Noise(normalised=delta))
        return distance(problem.tasks, clean, moved, problem.batch, problem.counts)

    def loss(params: Tree) -> tuple[jax.Array, Metrics]:
        clean = problem.forward(params, None)
        value, metrics = problem.loss(clean)
        fixed, still = jax.lax.stop_gradient((clean, params))
        delta = problem.noise(lambda key, shape: options.start * jax.random.normal(key, shape))
        for _ in range(options.steps):
            uphill = jax.grad(lambda delta: apart(fixed, still, delta)[0])(delta)
            largest = jnp.abs(uphill).max((1, 2), keepdims=True)
            delta = problem.masked(delta + options.rate * uphill / jnp.maximum(largest, TINY))
        added, more = apart(clean, params, jax.lax.stop_gradient(delta))
        return value + options.weight * added, {**metrics, **more}

    return jax.grad(loss, has_aux=True)(params)


def norms(x: Float[Array, "B L E"]) -> Float[Array, "B 1 1"]:
    """The norm of each row."""
    return jnp.sqrt(jnp.square(x).sum((1, 2), keepdims=True))
