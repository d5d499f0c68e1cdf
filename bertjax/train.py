"""Training: the loop over the parts of a run: batches in, log lines, evaluations and checkpoints out.

    program   everything that is fixed: network, optimizer, where arrays live       (program.py)
    step      (state, batch) -> (state, metrics), jitted over the whole mesh        (step.py)
    part      a program, its batches and its evaluation                             (parts.py)

A run is a pure function of its config: the batch of a step follows from the step, the randomness in it from the seed
and the step. So the step is all that a resumed run needs to know. Where the rows change on the way (`train.phases`),
each part has a program of its own over the same state.
"""

import contextlib
import math
import pathlib
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from bertjax import cluster, heap, preflight, tasks
from bertjax import metrics as metrics_lib
from bertjax.adversarial import passes
from bertjax.attention import explain
from bertjax.checkpoint import Checkpoints
from bertjax.compiled import kept
from bertjax.config import IN_WORKDIR, Config, check, claim
from bertjax.exit_codes import REQUEUE as REQUEUE
from bertjax.history import History
from bertjax.journal import Journal, is_finished
from bertjax.parts import Part, batches, open_run
from bertjax.program import Program, begin
from bertjax.step import make_train_step
from bertjax.tune import trained_number
from bertjax.types import Batch, Metrics, TrainState
from bertjax.watchdog import Watchdog


class Diverged(RuntimeError):
    """The loss is no longer a number."""


class Interrupted(RuntimeError):
    """The run was told to stop, and has written a checkpoint."""


Finish = Callable[[dict[str, float]], dict[str, float]]


def train(config: Config, workdir: str, finish: Finish = lambda values: values) -> bool:
    """Runs or resumes; False if the run was finished before. `finish` turns the last evaluation into the result."""
    check(config)
    parts, sets = open_run(config, workdir)
    if sets is not None:
        config = sets.config  # with all that only the records tell
    ready = preflight.check(
        parts[0].program.mesh, parts[0].program.state, [part.loader.examples for part in parts], workdir
    )
    claim(workdir, config, parts[0].loader.examples.digest)
    if sets is not None:
        sets.keep_tokenizer(workdir)
    last, checkpoints = config.train.steps, Checkpoints(workdir, keep=config.train.keep)
    newest, faults = checkpoints.survey()
    first = newest or 0
    if is_finished(workdir) and (first == last or History(workdir, config.train, first).exhausted):
        return False
    left = [part for part in parts if part.last > first or part.last == last]
    with (
        kept(compiled_folder(config, workdir)),
        Journal(workdir, last, resume=first) as journal,
        contextlib.closing(checkpoints),  # whatever ends the run, what is being written is written to its end
        _stop_signal() as stop,
        Watchdog(config.train.watchdog, workdir, notes=cluster.notes()) as watchdog,
    ):
        journal.banner(ready)
        journal.banner(describe_run(left[0].program, workdir, first, faults))
        with left[0].program.active():
            if first:
                state = checkpoints.restore(first, left[0].program.state)
            else:
                state, origin = begin(left[0].program)
                journal.banner(f"start       {origin}")
        history = History(workdir, config.train, first)
        checkpoints.protected = history.best
        for part in left:
            with part.program.active():
                state = run(part, state, journal, checkpoints, history, stop, watchdog)
        watchdog.enter("finishing")
        checkpoints.wait()
        step, values = history.chosen
        exam = left[-1].exam
        if exam is not None:
            with left[-1].program.active():
                params = state.params
                if step != int(state.step):
                    params = checkpoints.restore_params(step, left[-1].program.state.params)
                exam.conclude(params, workdir, step)
        journal.finish(finish(values), step=step)
    return True


def run(
    part: Part,
    state: TrainState,
    journal: Journal,
    checkpoints: Checkpoints,
    history: History,
    stop: Callable[[int], bool],
    watchdog: Watchdog,
) -> TrainState:
    """The steps of a part that are left, to an evaluation at its end."""
    program, settings = part.program, part.program.config.train
    journal.banner(describe_part(part))
    steps = range(int(state.step) - part.first, 0 if history.exhausted else part.last - part.first)
    with watchdog.pause("compiling"):
        compiled = compile_steps(program, state, journal) if steps else {}

    def assess(done: int) -> None:
        with watchdog.pause("evaluating"):
            values = part.results(done, part.evaluate(state.params))
        history.add(done, values)
        if part.exam is not None and history.chosen[0] == done:
            part.exam.keep(done)
        journal.log(done, values)

    pending: list[Metrics] = []
    with batches(program, part.loader, steps) as stream:
        journal.start_clock()
        for index, batch in stream:
            state, metrics = compiled[kind(batch)](state, batch)
            done = part.first + index + 1
            watchdog.step(done, metrics["tokens"][0])
            # The device is busy with this step while the host reads what the steps before it gave.
            if pending and (done - 1) % settings.log_every == 0:
                log(program, journal, done - 1, pending, stream.waited)
                pending = []
            pending.append(metrics)

            stopping = stop(done)
            evaluating = due(done, settings.eval_every, part.last)
            saving = due(done, settings.checkpoint_every, part.last) or stopping
            if evaluating or saving:
                log(program, journal, done, pending, stream.waited)  # nothing diverged is ever saved
                pending = []
            if evaluating:
                with journal.pause():
                    assess(done)
            if saving or (evaluating and history.best == done) or history.exhausted:
                with journal.pause(), watchdog.pause("writing a checkpoint"):
                    checkpoints.wait()
                    checkpoints.protected = history.best  # the one before goes when this one is on disk
                    checkpoints.save(state)
            if history.exhausted:
                journal.banner(f"ended       no better {settings.best} in {settings.patience} evaluations")
                break
            if stopping and done < settings.steps:
                checkpoints.wait()
                raise Interrupted(
                    f"stopped at step {done} of {settings.steps}: the same command goes on from there"
                )
    if not history.evaluations or history.evaluations[-1][0] != int(state.step):
        # It was stopped between its last step and its result.
        assess(int(state.step))
    return state


def compiled_folder(config: Config, workdir: str) -> pathlib.Path | None:
    """Where the run keeps what it compiles; None for nowhere."""
    named = config.train.compiled
    if named is None:
        return None
    return pathlib.Path(workdir, "compiled") if named == IN_WORKDIR else pathlib.Path(named)


def compile_steps(program: Program, state: TrainState, journal: Journal) -> dict[Any, Any]:
    """The train step for every kind of batch."""
    began, step = time.perf_counter(), make_train_step(program)
    number = len(program.batches)
    journal.status("compiling the train step" + (f" for {number} kinds of batches" if number > 1 else ""))
    compiled = {kind(batch): step.lower(state, batch).compile() for batch in program.batches}
    heap.reserve(compiled.values())
    journal.banner(f"compiled in {time.perf_counter() - began:.1f} s")
    return compiled


def kind(batch: Batch) -> tuple[Any, ...]:
    """What tells batches apart that a step is compiled for."""
    return tuple(batch.targets), batch.tokens.shape


def describe_run(program: Program, workdir: str, first: int, faults: Sequence[str]) -> str:
    """What runs where, and what becomes of it; `faults` are of checkpoints passed over."""
    config, mesh = program.config, program.mesh
    axes = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "one device"
    trained = trained_number(program.state.params, config.tune, config.model)
    moving = (
        "" if config.tune.plain else f"; {trained:,} of them are trained, {trained / program.parameters:.2%}"
    )
    return "\n".join(
        (
            f"devices     {mesh.size} of {jax.device_count()} x {mesh.devices.flat[0].device_kind}, mesh {axes}, "
            f"rules {config.mesh.rules}, {jax.process_count()} process(es)",
            f"model       {program.parameters:,} parameters, {config.model.layers} x {config.model.width}, "
            f"{config.model.dtype}{moving}",
            f"output      {workdir}: config.json, metrics.jsonl, checkpoints/, tensorboard/, result.json",
            *([f"start       resumes at step {first}"] if first else []),
            *(f"not used    checkpoint {fault}" for fault in faults),
        )
    )


def describe_part(part: Part) -> str:
    """On what the next steps are run, and on how much of it."""
    config, mesh, loader = part.program.config, part.program.mesh, part.loader
    settings, length = config.train, max(batch.tokens.shape[1] for batch in part.program.batches)
    shapes = sorted({batch.tokens.shape for batch in part.program.batches})
    sizes = " or ".join(f"{rows} x {width}" for rows, width in shapes)
    microbatches = f" in {settings.microbatches} microbatches" if settings.microbatches > 1 else ""
    share = settings.batch_size // settings.microbatches // (mesh.shape["data"] * mesh.shape["fsdp"])
    whole = part.last - part.first == settings.steps
    steps = f"{settings.steps:,} steps" if whole else f"steps {part.first:,} to {part.last:,}"
    epochs = (part.last - part.first) / loader.steps_per_epoch
    sources = loader.seen(part.last - part.first)
    total = sum(source["rows"] for source in sources.values())
    shares = (
        f"{n} {s['rows'] / total:.1%} of the rows, {s['epochs']:.2f} epochs" for n, s in sources.items()
    )
    return "\n".join(
        (
            f"attention   {explain(config.model, mesh.devices.flat[0].platform, length=length)}",
            f"batch       {settings.batch_size} examples, rows x length {sizes}{microbatches}, "
            f"{share} examples a device at a time",
            f"data        {len(loader.examples):,} rows an epoch, {loader.examples.efficiency:.1%} full; "
            f"{steps} are {epochs:.2f} epochs",
            *([f"mixture     {'; '.join(shares)}"] if sources else []),
        )
    )


def log(program: Program, journal: Journal, step: int, pending: list[Metrics], waited: float) -> None:
    """Fetches the metrics of the steps since the last line and writes them."""
    if not pending:
        return
    config = program.config
    values = tasks.summarise(config.tasks, metrics_lib.means(metrics_lib.add(jax.device_get(pending))))
    watched = {name: values[name] for name in ("loss", "gradient_norm", "parameter_norm")}
    if not all(map(math.isfinite, watched.values())):
        raise Diverged(
            f"{', '.join(f'{name} {value:.4g}' for name, value in watched.items())} at step {step}: "
            f"lower optim.learning_rate={config.optim.learning_rate}, or raise optim.warmup_steps"
        )
    attended, predicted = values.pop("attended"), values.pop("predicted")
    cost = tasks.flops_per_token(config.tasks, config.model, attended=attended, predicted=predicted)
    cost *= passes(config.train.adversarial)
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
