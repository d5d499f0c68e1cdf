"""Training: a state, a step, a loop.

    program   everything that is fixed for a run: network, optimizer, where arrays live
    step      (state, batch) -> (state, metrics), one jitted function over the whole mesh
    loop      batches in, log lines, evaluations and checkpoints out

A run is a pure function of its config: the batch of a step follows from the step, the randomness in it from the seed
and the step. So the step is all that a resumed run needs to know.
"""

import contextlib
import dataclasses
import math
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax.core import meta
from jax.sharding import Mesh

from bertjax import metrics as metrics_lib
from bertjax import sharding, tasks
from bertjax.attention import explain
from bertjax.checkpoint import Checkpoints
from bertjax.config import Config, TrainConfig, check, claim, open_rows
from bertjax.data.corpus import Vocabulary
from bertjax.data.loader import Loader, abstract_batch
from bertjax.data.prefetch import prefetch
from bertjax.journal import Journal, is_finished
from bertjax.layers.mask import AttentionMask
from bertjax.models.network import Network
from bertjax.optim import learning_rate, make_optimizer
from bertjax.types import Batch, Metrics, TrainState, Tree

REQUEUE = 75  # exit code of a run that was told to stop: start it again and it goes on


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class Interrupted(RuntimeError):
    """The run was told to stop, and has written a checkpoint."""


# ---------------------------------------------------------------------------------------------- program


@dataclasses.dataclass(frozen=True)
class Program:
    """What a run computes with."""

    config: Config
    mesh: Mesh
    vocabulary: Vocabulary
    network: Network
    optimizer: optax.GradientTransformation
    batch: Batch  # shapes and shardings
    state: TrainState  # shapes and shardings

    @property
    def parameters(self) -> int:
        """Their number."""
        return sharding.count(self.state.params)

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Mesh and rules in force: everything is traced and run inside."""
        return sharding.activate(self.mesh, self.config.mesh.rules)


def build(config: Config, vocabulary: Vocabulary, devices: Any = None) -> Program:
    """Resolves a config against a vocabulary and a machine, without computing anything."""
    check(config)
    if vocabulary.size > config.model.vocab:
        raise ValueError(
            f"the corpus has a vocabulary of {vocabulary.size}, more than model.vocab={config.model.vocab}: "
            f"set model.vocab={vocabulary.size}"
        )
    mesh, rules = sharding.make_mesh(config.mesh, devices), config.mesh.rules
    check_batch(config.train, mesh)
    network = tasks.make_network(config.tasks, config.model)
    with sharding.activate(mesh, rules):
        rows, length, format = config.train.batch_size, config.data.length, config.data.format
        batch = abstract_batch(rows, length, mesh, rules, packed=format.packed, labelled=format.labelled)
        key = jax.eval_shape(jax.random.key, 0)  # its shape only: the devices may be ones to compile for
        declared = jax.eval_shape(_init(network, config, vocabulary), key, batch)
        params = meta.unbox(declared)
        optimizer = make_optimizer(config.optim, config.train.steps, declared)
        opt_state = jax.eval_shape(optimizer.init, params)
        shardings = sharding.parameter_shardings(declared, mesh, rules)
        like = sharding.like_parameters(opt_state, params, shardings, mesh)
    place = lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)  # noqa: E731
    state = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.replicated(mesh)),
        params=jax.tree.map(place, params, shardings),
        opt_state=jax.tree.map(place, opt_state, like),
    )
    return Program(config, mesh, vocabulary, network, optimizer, batch, state)


def check_batch(train: TrainConfig, mesh: Mesh) -> None:
    """Refuses a batch that does not divide into equal parts."""
    replicas = mesh.shape["data"] * mesh.shape["fsdp"]
    unit = replicas * train.microbatches
    if train.batch_size % unit:
        below = train.batch_size // unit * unit
        fitting = " or ".join(str(size) for size in (below, below + unit) if size)
        raise ValueError(
            f"train.batch_size={train.batch_size} does not divide into train.microbatches={train.microbatches} "
            f"over the {replicas} replicas of the mesh (data*fsdp): set train.batch_size={fitting}"
        )


def _init(network: Network, config: Config, vocabulary: Vocabulary) -> Callable[..., Tree]:
    def init(key: jax.Array, batch: Batch) -> Tree:
        batch = tasks.corrupt(config.tasks, batch, vocabulary, seed=0, step=0)
        return network.init(key, batch, train=False)["params"]

    return init


def create_state(program: Program) -> TrainState:
    """The state before the first step, made where it will live."""
    init = _init(program.network, program.config, program.vocabulary)

    def create(seed: jax.Array) -> TrainState:
        batch = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), program.batch)
        params = meta.unbox(init(jax.random.key(seed), batch))
        return TrainState(
            step=jnp.zeros((), jnp.int32), params=params, opt_state=program.optimizer.init(params)
        )

    shardings = jax.tree.map(lambda x: x.sharding, program.state)
    with program.active():
        return jax.jit(create, out_shardings=shardings)(program.config.train.seed)


# ---------------------------------------------------------------------------------------------- step


def make_train_step(program: Program) -> Any:
    """The jitted update, (state, batch) -> (state, metrics); it takes the state's memory over."""
    config, network = program.config, program.network
    parts = config.train.microbatches
    rate = learning_rate(config.optim, config.train.steps)

    def loss(
        params: Tree, batch: Batch, counts: Any, step: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, Metrics]:
        outputs = network.apply({"params": params}, batch, train=True, step=step, rngs={"dropout": key})
        return tasks.total_loss(config.tasks, outputs, batch, counts)

    def gradient(params: Tree, batch: Batch, step: jax.Array, key: jax.Array) -> tuple[Tree, Metrics]:
        counts = tasks.normalisers(config.tasks, batch)
        differentiate = jax.grad(loss, has_aux=True)
        if parts == 1:
            return differentiate(params, batch, counts, step, key)

        def add(
            total: tuple[Tree, Metrics], part: tuple[Batch, jax.Array]
        ) -> tuple[tuple[Tree, Metrics], None]:
            microbatch, index = part
            more = differentiate(params, microbatch, counts, step, jax.random.fold_in(key, index))
            return jax.tree.map(jnp.add, total, more), None

        microbatches = jax.tree.map(lambda x: _split(x, parts), batch)
        shapes = jax.eval_shape(
            differentiate, params, jax.tree.map(lambda x: x[0], microbatches), counts, step, key
        )
        zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return jax.lax.scan(add, zero, (microbatches, jnp.arange(parts)))[0]

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        batch = tasks.corrupt(config.tasks, batch, program.vocabulary, config.train.seed, state.step)
        key = jax.random.fold_in(jax.random.key(config.train.seed), state.step)
        grads, metrics = gradient(state.params, batch, state.step, key)
        updates, opt_state = program.optimizer.update(grads, state.opt_state, state.params)
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


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B ...] -> [parts B/parts ...], taking every parts-th row, so that rows stay on the device they are on."""
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)


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
        outputs = program.network.apply({"params": params}, batch, train=False)
        return tasks.total_loss(config.tasks, outputs, batch, tasks.normalisers(config.tasks, batch))[1]

    return jax.jit(step, out_shardings=sharding.replicated(program.mesh))


def evaluate(
    program: Program, step: Callable[[Tree, Batch], Metrics], params: Tree, loader: Loader
) -> dict[str, float]:
    """Means over held-out text, the same rows and the same hidden words every time."""
    config = program.config
    batches = min(loader.steps, config.train.eval_batches)
    where = program.mesh, config.mesh.rules
    with prefetch(loader, 0, batches, *where, config.data.threads, config.data.ahead) as stream:
        total = metrics_lib.add(step(params, batch) for _, batch in stream)
    return tasks.summarise(config.tasks, metrics_lib.means(total))


# ---------------------------------------------------------------------------------------------- loop


Finish = Callable[[dict[str, float]], dict[str, float]]


def train(config: Config, workdir: str, finish: Finish = lambda values: values) -> bool:
    """Runs or resumes; False if the run was finished before. `finish` turns the last evaluation into the result."""
    check(config)
    examples, heldout = open_rows(config, "train"), open_rows(config, "heldout")
    program = build(config, examples.vocabulary)
    claim(workdir, config, examples.digest)
    last = config.train.steps
    loader = Loader(examples, config.train.batch_size, config.train.seed)
    eval_loader = Loader(heldout, config.train.batch_size, seed=0, shuffle=False)
    checkpoints = Checkpoints(workdir, keep=config.train.keep)
    newest, faults = checkpoints.survey()
    first = newest or 0
    if first == last and is_finished(workdir):
        return False

    with (
        Journal(workdir, last, resume=first) as journal,
        contextlib.closing(checkpoints),  # whatever ends the run, what is being written is written to its end
        program.active(),
        _stop_signal() as stop,
    ):
        journal.banner(describe(program, loader, workdir, first, faults))
        state = checkpoints.restore(first, program.state) if first else create_state(program)
        eval_step = make_eval_step(program)
        journal.status("compiling the train step")
        began = time.perf_counter()
        step = make_train_step(program).lower(state, program.batch).compile()
        journal.banner(f"compiled in {time.perf_counter() - began:.1f} s")

        values: dict[str, float] = {}
        pending: list[Metrics] = []
        where = program.mesh, config.mesh.rules
        with prefetch(loader, first, last, *where, config.data.threads, config.data.ahead) as stream:
            journal.start_clock()
            for index, batch in stream:
                state, metrics = step(state, batch)
                # The device is busy with this step while the host reads what the steps before it gave.
                if pending and index % config.train.log_every == 0:
                    log(program, journal, index, pending, stream.waited)
                    pending = []
                pending.append(metrics)

                done = index + 1
                stopping = stop(done)
                evaluating = due(done, config.train.eval_every, last)
                saving = due(done, config.train.checkpoint_every, last) or stopping
                if evaluating or saving:
                    log(program, journal, done, pending, stream.waited)  # nothing diverged is ever saved
                    pending = []
                if evaluating:
                    with journal.pause():
                        values = evaluate(program, eval_step, state.params, eval_loader)
                        journal.log(done, {f"heldout_{name}": value for name, value in values.items()})
                if saving:
                    with journal.pause():
                        checkpoints.save(state)
                if stopping and done < last:
                    checkpoints.wait()
                    raise Interrupted(
                        f"stopped at step {done} of {last}: the same command goes on from there"
                    )
        checkpoints.wait()
        if not values:  # it was stopped between its last step and its result
            values = evaluate(program, eval_step, state.params, eval_loader)
        journal.finish(finish({f"heldout_{name}": value for name, value in values.items()}), step=last)
    return True


def describe(program: Program, loader: Loader, workdir: str, first: int, faults: Sequence[str]) -> str:
    """The banner: what runs where, on how much, and what becomes of it; `faults` are of checkpoints passed over."""
    config, mesh = program.config, program.mesh
    train, device = config.train, mesh.devices.flat[0]
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    tokens = train.batch_size * config.data.length
    parts = f" in {train.microbatches} microbatches" if train.microbatches > 1 else ""
    rows = train.batch_size // train.microbatches
    replicas = mesh.shape["data"] * mesh.shape["fsdp"]
    epochs, full = train.steps / loader.steps_per_epoch, loader.examples.efficiency
    return "\n".join(
        (
            f"devices     {mesh.size} of {jax.device_count()} x {device.device_kind}, mesh {axes}, "
            f"rules {config.mesh.rules}, {jax.process_count()} process(es)",
            f"model       {program.parameters:,} parameters, {config.model.layers} x {config.model.width}, "
            f"{config.model.dtype}",
            f"attention   {explain(config.model, device.platform, length=config.data.length)}",
            f"batch       {train.batch_size} rows x {config.data.length} = {tokens:,} slots{parts}, "
            f"{rows // replicas} rows a device at a time",
            f"data        {len(loader.examples):,} rows an epoch, {full:.0%} full; "
            f"{train.steps:,} steps are {epochs:.2f} epochs",
            f"output      {workdir}: config.json, metrics.jsonl, checkpoints/, tensorboard/, result.json",
            f"start       {'from scratch' if first == 0 else f'resumes at step {first}'}",
            *(f"not used    checkpoint {fault}" for fault in faults),
        )
    )


def log(program: Program, journal: Journal, step: int, pending: list[Metrics], waited: float) -> None:
    """Fetches the metrics of the steps since the last line and writes them."""
    if not pending:
        return
    config = program.config
    values = tasks.summarise(config.tasks, metrics_lib.means(metrics_lib.add(pending)))
    watched = {name: values[name] for name in ("loss", "gradient_norm", "parameter_norm")}
    if not all(map(math.isfinite, watched.values())):
        raise Diverged(
            f"{', '.join(f'{name} {value:.4g}' for name, value in watched.items())} at step {step}: "
            f"lower optim.learning_rate={config.optim.learning_rate}, or raise optim.warmup_steps"
        )
    attended, predicted = values.pop("attended"), values.pop("predicted")
    cost = tasks.flops_per_token(config.tasks, config.model, attended=attended, predicted=predicted)
    journal.log_rates(
        step, values, tokens=values.pop("tokens") * len(pending), flops_per_token=cost, waited=waited
    )


def due(step: int, every: int | None, last: int) -> bool:
    """Whether something that happens every so often, and at the end, happens now."""
    return step == last or (every is not None and step % every == 0)


@contextlib.contextmanager
def _stop_signal() -> Iterator[Callable[[int], bool]]:
    """Asks, after every step, whether SIGTERM or Ctrl-C has come; all processes of a run give the same answer."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        yield multihost_utils.reached_preemption_sync_point
        return
    seen: list[int] = []

    def note(number: int, frame: Any) -> None:
        del frame
        if seen:  # asked twice: stop at once
            raise KeyboardInterrupt
        seen.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda step: bool(seen)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
