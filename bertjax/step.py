"""A step of training, and one of evaluation: jitted functions over the whole mesh.

    train   (state, batch) -> (state, metrics)      corrupt, forward, backward, update
    eval    (params, batch) -> metrics              without dropout; what is hidden depends on the example alone

The randomness of a step follows from the seed and the step, and nothing random is stored. Microbatches run one after
the other and their gradients are added: a task's normaliser is taken over the whole batch, so the sum is the gradient
of the big batch. How often a batch is read, `train.adversarial` says (adversarial.py).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bertjax import adversarial, sharding, tasks
from bertjax.adversarial import Problem
from bertjax.config import Config
from bertjax.layers.embed import Noise
from bertjax.layers.mask import AttentionMask
from bertjax.optim import learning_rate
from bertjax.program import Program
from bertjax.types import Batch, Metrics, TrainState, Tree


def make_train_step(program: Program) -> Any:
    """The jitted update, (state, batch) -> (state, metrics); it takes the state's memory over."""
    config = program.config
    parts = config.train.microbatches
    rate = learning_rate(config.optim, config.train.steps)

    def gradient(params: Tree, batch: Batch, step: jax.Array, whole: jax.Array) -> tuple[Tree, Metrics]:
        counts = tasks.normalisers(config.tasks, batch)

        def differentiate(params: Tree, batch: Batch, key: jax.Array) -> tuple[Tree, Metrics]:
            def forward(params: Tree, noise: Noise | None) -> Mapping[str, Any]:
                return program.apply(params, batch, train=True, step=step, rngs={"dropout": key}, noise=noise)

            def loss(outputs: Mapping[str, Any]) -> tuple[jax.Array, Metrics]:
                with jax.named_scope("loss"):
                    return tasks.total_loss(config.tasks, outputs, batch, counts)

            width = config.model.table_width
            problem = Problem(forward, loss, config.tasks, batch, counts, whole, width)
            return adversarial.gradient(config.train.adversarial, problem, params)

        if parts == 1:
            return differentiate(params, batch, whole)

        def add(
            total: tuple[Tree, Metrics], part: tuple[Batch, jax.Array]
        ) -> tuple[tuple[Tree, Metrics], None]:
            microbatch, index = part
            more = differentiate(params, microbatch, jax.random.fold_in(whole, index))
            return jax.tree.map(jnp.add, total, more), None

        microbatches = jax.tree.map(lambda x: _split(x, parts, config.train.batch_size), batch)
        shapes = jax.eval_shape(differentiate, params, jax.tree.map(lambda x: x[0], microbatches), whole)
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zero, (microbatches, jnp.arange(parts)))[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        # The names of scopes are what a profile tells operations apart by.
        with jax.named_scope("corrupt"):
            batch = tasks.corrupt(config.tasks, batch, program.vocabulary, config.train.seed, state.step)
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        grads, metrics = gradient(state.params, batch, state.step, key)
        idle = program.idle(batch)
        with jax.named_scope("optimizer"):
            updates, opt_state = program.optimizer.update(grads, state.opt_state, state.params, idle=idle)
            params = optax.apply_updates(state.params, updates)
        one = jnp.ones(())
        metrics = {
            **metrics,
            **_workload(config, batch),
            "gradient_norm": (optax.tree.norm(grads), one),
            "parameter_norm": (optax.tree.norm(params), one),
            "learning_rate": (rate(state.step), one),
        }
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    shardings = jax.tree.map(lambda x: x.sharding, program.state)
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, sharding.replicated(program.mesh)))


def _split(x: jax.Array, parts: int, examples: int) -> jax.Array:
    """[B ...] -> [parts B/parts ...], taking every parts-th example, so that they stay on the device they are on.

    An example is a row, or several, one below the other.
    """
    each = x.shape[0] // examples
    apart = x.reshape(examples // parts, parts, each, *x.shape[1:]).swapaxes(0, 1)
    return apart.reshape(parts, examples // parts * each, *x.shape[1:])


def _workload(config: Config, batch: Batch) -> Metrics:
    """Real tokens of a step, tokens that each of them may attend to, and the share that is predicted."""
    mask = AttentionMask(batch.mask, batch.segments, causal=config.model.direction != "both")
    start, end = mask.intervals(*reversed(batch.tokens.shape))
    number = batch.mask.sum().astype(jnp.float32)
    predicted = sum(task.normaliser(batch) for task in config.tasks if task.predicts_tokens)
    return {
        "tokens": (number, jnp.ones(())),
        "attended": (jnp.where(batch.mask, end - start, 0).sum().astype(jnp.float32), number),
        "predicted": (jnp.asarray(predicted, jnp.float32), number),
    }


def make_eval_step(program: Program) -> Callable[[Tree, Batch], Metrics]:
    """The jitted metrics of a batch, without dropout; what is hidden depends on the example alone."""
    config = program.config

    def step(params: Tree, batch: Batch) -> Metrics:
        batch = tasks.corrupt(config.tasks, batch, program.vocabulary, seed=0, step=config.train.steps)
        outputs = program.apply(params, batch, train=False)
        return tasks.total_loss(config.tasks, outputs, batch, tasks.normalisers(config.tasks, batch))[1]

    return jax.jit(step, out_shardings=sharding.replicated(program.mesh))
