"""The parts of a run: consecutive steps with rows of one shape, each with a program, batches and an evaluation.

A run is one part, or one for each of `train.phases`; over labelled records (`finetune.py`) it is one, in batches of
several shapes. All are opened before the first begins, so that what cannot be run is told at once.
"""

import dataclasses
from collections.abc import Callable, Mapping

from bertjax import metrics as metrics_lib
from bertjax import tasks
from bertjax.config import Config, open_rows, stages
from bertjax.data.labelled.buckets import LabelledLoader
from bertjax.data.loader import Batches, Loader
from bertjax.data.prefetch import Prefetch, prefetch
from bertjax.finetune import Exam, Sets, open_sets
from bertjax.program import Program, build
from bertjax.step import make_eval_step
from bertjax.types import Batch, Metrics, Tree


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive steps with rows of one shape: all of a run, or one of its phases."""

    first: int
    last: int
    program: Program
    loader: Loader | LabelledLoader  # its batches are counted from the first step of the part
    evaluate: Callable[[Tree], dict[str, float]]
    before: Mapping[str, float]  # tokens that earlier parts took from each source of a mixture
    exam: Exam | None = None  # over labelled records, whose predictions are written at the end

    def seen(self, step: int) -> dict[str, float]:
        """Tokens that the run has taken from each source of a mixture up to a step of this part."""
        own = self.loader.seen(step - self.first)
        return {name: self.before.get(name, 0.0) + source["tokens"] for name, source in own.items()}

    def results(self, step: int, values: Mapping[str, float]) -> dict[str, float]:
        """What an evaluation has found, and how much of each source had been read by then."""
        heldout = {f"heldout_{name}": value for name, value in values.items()}
        return heldout | {f"tokens_seen/{name}": tokens for name, tokens in self.seen(step).items()}


def open_run(config: Config, workdir: str | None = None) -> tuple[list[Part], Sets | None]:
    """The parts of a run; of one over labelled records these, too."""
    if not tasks.labelled(config.tasks):
        return open_parts(config), None
    sets = open_sets(config, workdir=workdir)
    return [open_labelled(sets)], sets


def open_parts(config: Config) -> list[Part]:
    """All of them before the first begins, so that what cannot be run is told at once."""
    parts: list[Part] = []
    for stage in stages(config):
        try:
            rows, heldout = open_rows(stage.config, "train"), open_rows(stage.config, "heldout")
            program = build(stage.config, rows.vocabulary, segmented=rows.segmented)
        except ValueError as error:
            if not config.train.phases:
                raise
            raise ValueError(f"train.phases, steps {stage.first} to {stage.last}: {error}") from error
        size, seed = stage.config.train.batch_size, config.train.seed
        loaders = Loader(rows, size, seed), Loader(heldout, size, seed=0, shuffle=False)
        before = parts[-1].seen(stage.first) if parts else {}
        parts.append(
            Part(stage.first, stage.last, program, loaders[0], evaluation(program, loaders[1]), before)
        )
    return parts


def evaluation(program: Program, heldout: Loader) -> Callable[[Tree], dict[str, float]]:
    """The evaluation of parameters on held-out text."""
    step = make_eval_step(program)
    return lambda params: evaluate(program, step, params, heldout)


def open_labelled(sets: Sets) -> Part:
    """A run over labelled records."""
    config = sets.config
    program = build(config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    exam = Exam(program, sets)
    return Part(0, config.train.steps, program, sets.loader("train"), exam.evaluate, {}, exam)


def evaluate(
    program: Program, step: Callable[[Tree, Batch], Metrics], params: Tree, loader: Loader
) -> dict[str, float]:
    """Means over held-out text, the same rows and the same hidden words every time."""
    config = program.config
    with batches(program, loader, range(min(loader.steps, config.train.eval_batches))) as stream:
        total = metrics_lib.add(step(params, batch) for _, batch in stream)
    return tasks.summarise(config.tasks, metrics_lib.means(total))


def batches(program: Program, loader: Batches, steps: range) -> Prefetch:
    """Batches of a loader, made ahead."""
    data, where = program.config.data, (program.mesh, program.config.mesh.rules)
    return prefetch(loader, steps.start, steps.stop, *where, data.threads, data.ahead)
