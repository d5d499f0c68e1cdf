"""Runs over labelled records: from the config to records, examples and batches, and from parameters to scores.

    open_sets   tokenizer, records, and the config with all that only those tell: classes, steps, warm-up
    Exam        predictions of all held-out records, and what they are worth; at the end of a run the same written
                down: predictions.jsonl, and those of the split `test`

The tokenizer is that of `model.init`, of `data.corpus` where that is a folder, or the one for made-up records.
"""

import dataclasses
import functools
import json
import math
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bertjax import metrics as metrics_lib
from bertjax import settings, sharding, tasks
from bertjax.checkpoint import Checkpoints
from bertjax.config import IN_WORKDIR, Config, check, read_workdir
from bertjax.data.labelled import made_up
from bertjax.data.labelled.buckets import Buckets, LabelledLoader
from bertjax.data.labelled.examples import LabelledExamples, shapes_for
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.data.open import SYNTHETIC
from bertjax.data.prefetch import prefetch
from bertjax.data.subword import Tokenizer
from bertjax.history import History
from bertjax.inherit import open_tokenizer
from bertjax.program import Program, build
from bertjax.sharding import MeshConfig
from bertjax.tasks.labelled import LabelledTask, Prediction
from bertjax.types import Batch, Metrics, Tree

PredictStep = Callable[[Tree, Batch], tuple[Metrics, Mapping[str, jax.Array]]]


@dataclasses.dataclass(frozen=True)
class Sets:
    """The records of a run, and the config that they complete."""

    config: Config
    tokenizer: Tokenizer
    splits: Mapping[str, Mapping[str, Split]]  # by task, then by train, heldout, test
    examples: Mapping[str, Mapping[str, LabelledExamples]]
    lengths: Mapping[str, tuple[int, ...]]  # of the batches of each task

    @property
    def tasks(self) -> tuple[LabelledTask, ...]:
        """What is learned."""
        return tasks.labelled(self.config.tasks)

    def buckets(self, task: str, which: str) -> Buckets:
        """The batches of one task."""
        config, shuffle = self.config, which == "train"
        return Buckets(
            self.examples[task][which],
            config.train.batch_size,
            self.lengths[task],
            seed=config.train.seed,
            window=config.data.window,
            shuffle=shuffle,
        )

    def loader(self, which: str) -> LabelledLoader:
        """The batches of all tasks."""
        streams = {task.name: self.buckets(task.name, which) for task in self.tasks}
        power = 1.0 / self.config.data.temperature
        shares = {
            task.name: streams[task.name].steps ** power if task.share is None else task.share
            for task in self.tasks
        }
        return LabelledLoader(streams, shares, self.config.train.steps, self.config.train.seed, self.digest)

    @functools.cached_property
    def digest(self) -> str:
        """Of the records that are learned and of the tokenizer."""
        return settings.digest(
            [self.tokenizer.digest, *(splits["train"].digest for splits in self.splits.values())]
        )

    def keep_tokenizer(self, workdir: str) -> None:
        """Puts it into the workdir, where it was not copied from a folder."""
        folder = pathlib.Path(workdir) / "tokenizer"
        if jax.process_index() == 0 and not folder.is_dir():
            self.tokenizer.save(str(folder))


def open_sets(
    config: Config, which: Sequence[str] = ("train", "heldout", "test"), workdir: str | None = None
) -> Sets:
    """Reads and tokenises the records of all tasks; without `train` those of a config that was completed before.

    What was tokenised in this workdir before is not tokenised again.
    """
    check(config)
    tokenizer, length, cache = find_tokenizer(config), config.data.length, cache_folder(config, workdir)
    resolved, splits, examples, lengths = [], {}, {}, {}
    for task in tasks.labelled(config.tasks):
        wanted = [name for name in which if name != "test" or task.records.test is not None]
        mine = {name: task.read(name) for name in wanted}
        if "train" in mine:
            task = resolve(task, mine["train"], config.model.init)
        made = {name: task.examples(split, tokenizer, length, cache) for name, split in mine.items()}
        if "heldout" in made and not made["heldout"].values["weight"].any():
            raise ValueError(
                f"{mine['heldout'].name} has no labels that {task.name} could be judged by, its columns are "
                f"{', '.join(mine['heldout'].columns)}: name that of the labels, or another records.heldout"
            )
        longest = np.concatenate([some.lengths for some in made.values()])
        lengths[task.name] = shapes_for(longest, config.data.shapes, length)
        resolved.append(task)
        splits[task.name], examples[task.name] = mine, made
    config = dataclasses.replace(config, tasks=tuple(resolved))
    if "train" in which:
        config = _complete(config, examples)
    return Sets(config, tokenizer, splits, examples, lengths)


def cache_folder(config: Config, workdir: str | None) -> str | None:
    """Where encoded records are kept; None for nowhere."""
    if config.data.cache != IN_WORKDIR:
        return config.data.cache
    return None if workdir is None else os.path.join(workdir, "cache")


def resolve(asked: LabelledTask, train: Split, init: str | None) -> LabelledTask:
    """The task completed by its records, its classes in the order that a head of this name in `model.init` has them."""
    resolved = asked.resolve(train)
    mine = getattr(resolved, "labels", ())
    if init is None or not mine:
        return resolved
    config = read_workdir(init)[0]
    heads: list[Any] = [*config.heads, *config.tasks]
    labels = next((getattr(head, "labels", ()) for head in heads if head.name == resolved.name), ())
    if len(labels) != len(mine) or labels == mine or all(re.fullmatch(r"LABEL_\d+", name) for name in labels):
        return resolved  # a head of another size starts afresh
    if set(labels) == set(mine) and not getattr(asked, "labels", ()):
        return dataclasses.replace(asked, labels=labels).resolve(train)  # type: ignore[call-arg]
    raise ValueError(
        f"model.init={init} has a head {resolved.name!r} for {', '.join(labels)} and the data has {', '.join(mine)}: "
        f"give the task another name for a fresh head, as {asked.at('called')}=mine, or those classes in that order"
    )


def find_tokenizer(config: Config) -> Tokenizer:
    """The tokenizer of a run over labelled records."""
    if config.model.init is None and config.data.corpus == SYNTHETIC:
        return made_up.tokenizer()
    folder = config.data.corpus if config.data.corpus != SYNTHETIC else str(config.model.init)
    found: Tokenizer | None = open_tokenizer(folder)
    if found is None:
        raise ValueError(
            f"{folder} holds no tokenizer: name the workdir of a run on real text, or a prepared corpus"
        )
    return found


def _complete(config: Config, examples: Mapping[str, Mapping[str, LabelledExamples]]) -> Config:
    """Epochs as steps."""
    train = config.train
    epoch = sum(-(-len(made["train"]) // train.batch_size) for made in examples.values())
    if train.epochs is not None:
        train = dataclasses.replace(train, steps=max(math.ceil(train.epochs * epoch), 1))
    if train.evals_per_epoch is not None:
        train = dataclasses.replace(train, eval_every=max(epoch // train.evals_per_epoch, 1))
    return dataclasses.replace(config, train=train)


# ---------------------------------------------------------------------------------------------- evaluation


def make_predict_step(program: Program) -> PredictStep:
    """The jitted metrics of a batch without dropout, and what its predictions are made of."""
    config = program.config

    def step(params: Tree, batch: Batch) -> tuple[Metrics, Mapping[str, Any]]:
        apply = program.bind(params)
        outputs = apply(batch, train=False)
        (task,) = (task for task in tasks.labelled(config.tasks) if task.serves(batch))
        outputs = {**outputs, **task.decode(apply, outputs, batch, program.vocabulary)}
        counts = tasks.normalisers(config.tasks, batch)
        return tasks.total_loss(config.tasks, outputs, batch, counts)[1], task.outcomes(outputs, batch)

    return jax.jit(step, out_shardings=sharding.replicated(program.mesh))


def predict(
    program: Program, step: PredictStep, params: Tree, task: LabelledTask, buckets: Buckets, split: Split
) -> tuple[list[Prediction], Metrics]:
    """The predictions of all records of a split, in their order, and the metrics of the batches."""
    assert not buckets.shuffle
    data, where = program.config.data, (program.mesh, program.config.mesh.rules)
    loader = LabelledLoader({task.name: buckets}, {task.name: 1.0}, buckets.steps, seed=0, digest="")
    found: dict[str, list[Any]] = {}
    total: list[Metrics] = []
    with prefetch(loader, 0, buckets.steps, *where, data.threads, data.ahead) as stream:
        for number, batch in stream:
            metrics, outcomes = jax.device_get(step(params, batch))
            total.append(metrics)
            chosen = buckets.indices(number)[1]
            for name, values in outcomes.items():
                rows = found.setdefault(name, [None] * len(buckets.examples))
                for place, index in enumerate(chosen.tolist()):
                    if index >= 0:
                        rows[index] = np.asarray(values[place])
    return task.predictions(buckets.examples, found, split), metrics_lib.add(total)


class Exam:
    """What parameters are worth on the held-out records of a run.

    The predictions of the evaluation that counts are remembered until the end, where they are written: making them
    again would cost an evaluation, and the compilation of its step.
    """

    def __init__(self, program: Program, sets: Sets) -> None:
        """Evaluates nothing yet."""
        self.program, self.sets, self.step = program, sets, make_predict_step(program)
        self._last: dict[str, list[Prediction]] = {}
        self._kept: tuple[int | None, Mapping[str, list[Prediction]]] = None, {}

    def evaluate(self, params: Tree) -> dict[str, float]:
        """Losses and scores; `score` stands for all tasks."""
        values: dict[str, float] = {}
        stands = []
        several = len(self.sets.tasks) > 1
        for task in self.sets.tasks:
            predictions, metrics = self._predict(task, "heldout", params)
            scores = task.score(predictions, self.sets.splits[task.name]["heldout"])
            loss = metrics_lib.means(metrics)[f"{task.name}_loss"]
            prefix = f"{task.name}_" if several else ""
            values.update({f"{prefix}{name}": value for name, value in {"loss": loss, **scores}.items()})
            stands.append(task.stands(scores))
            self._last[task.name] = predictions
        return {"score": float(np.mean(stands)), **values}

    def keep(self, step: int) -> None:
        """Remembers the predictions of the last evaluation, which was after that step, in place of others."""
        self._kept = step, dict(self._last)

    def conclude(self, params: Tree, workdir: str, step: int | None = None) -> None:
        """Writes the predictions for the held-out records, and for those of the split `test`, a line each.

        `params` are those after `step`, whose predictions need not be made again if they are remembered.
        """
        known = self._kept[1] if step is not None and self._kept[0] == step else {}
        for task in self.sets.tasks:
            for which in self.sets.splits[task.name]:
                if which == "train":
                    continue
                if which == "heldout" and task.name in known:
                    predictions = known[task.name]
                else:
                    predictions, _ = self._predict(task, which, params)
                parts = [
                    "predictions",
                    *([task.name] if len(self.sets.tasks) > 1 else []),
                    *(["test"] if which == "test" else []),
                ]
                if jax.process_index() == 0:
                    write_predictions(pathlib.Path(workdir) / f"{'_'.join(parts)}.jsonl", predictions)

    def _predict(self, task: LabelledTask, which: str, params: Tree) -> tuple[list[Prediction], Metrics]:
        buckets, split = self.sets.buckets(task.name, which), self.sets.splits[task.name][which]
        return predict(self.program, self.step, params, task, buckets, split)


@dataclasses.dataclass(frozen=True)
class Predicted:
    """What a run says of some records."""

    task: LabelledTask
    split: Split
    predictions: list[Prediction]

    def scores(self) -> dict[str, float]:
        """What that is worth; an error where the records have no labels."""
        return self.task.score(self.predictions, self.split)


def predict_records(
    workdir: str,
    sets: Mapping[str, Records],
    which: str = "test",
    task: str | None = None,
    columns: Mapping[str, Any] | None = None,
) -> dict[str, Predicted]:
    """Predictions for other sets of records than those of the run, by the parameters that count.

    `which` is their split, `task` the name of one of several tasks of the run; `columns` are those of its options that
    name columns, where these records have others.
    """
    config = read_workdir(workdir)[0]
    chosen = _task_of(workdir, config, task)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, corpus=workdir), mesh=MeshConfig()
    )
    tokenizer, length, cache = find_tokenizer(config), config.data.length, cache_folder(config, workdir)
    tasks_of = {
        name: dataclasses.replace(chosen, records=records, **columns or {}) for name, records in sets.items()
    }
    splits = {name: one.read(which) for name, one in tasks_of.items()}
    examples = {name: one.examples(splits[name], tokenizer, length, cache) for name, one in tasks_of.items()}
    every = np.concatenate([some.lengths for some in examples.values()])
    lengths = shapes_for(every, config.data.shapes, length)
    program = build(config, tokenizer.vocabulary, lengths={chosen.name: lengths})
    checkpoints = Checkpoints(workdir)
    newest = checkpoints.latest()
    if newest is None:
        raise ValueError(f"{workdir} holds no whole checkpoint to predict with: train there first")
    number = History(workdir, config.train, newest).best or newest
    found = {}
    with program.active():
        params, step = checkpoints.restore_params(number, program.state.params), make_predict_step(program)
        for name, one in tasks_of.items():
            buckets = Buckets(examples[name], config.train.batch_size, lengths, shuffle=False)
            predictions, _ = predict(program, step, params, one, buckets, splits[name])
            found[name] = Predicted(one, splits[name], predictions)
    return found


def _task_of(workdir: str, config: Config, name: str | None) -> LabelledTask:
    """The labelled task of that name, or the only one, of a run."""
    known = {task.name: task for task in tasks.labelled(config.tasks)}
    if not known:
        has = ", ".join(task.name for task in config.tasks) or "no task"
        raise ValueError(f"{workdir} has learned {has} and nothing from labelled records: fine-tune it first")
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name not in known:
        what = "several tasks" if name is None else f"no task {name!r}"
        raise ValueError(f"{workdir} has {what}: {settings.suggest(name or '', list(known))}")
    return known[name]


def write_predictions(path: pathlib.Path, predictions: Sequence[Prediction]) -> None:
    """One object a line, in the order of the records; what begins with an underscore is for scores only."""
    partial = path.with_suffix(".partial")
    with partial.open("w", encoding="utf-8") as file:
        for number, prediction in enumerate(predictions, 1):
            shown = {name: value for name, value in prediction.items() if not name.startswith("_")}
            file.write(json.dumps({"record": number, **shown}, ensure_ascii=False) + "\n")
    os.replace(partial, path)
