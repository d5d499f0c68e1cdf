"""What the last line of every experiment file calls: flags, modes, exit codes.

    python -m experiments.NAME --workdir=DIR [--mode=train|evaluate|plan|profile|show] [--set path=value ...] [--smoke]
    python -m experiments.NAME --mode=plan --topology=v5e:16x16 [--search] [--set path=value ...]

A file that reproduces a table has several configs, of which `--row=NAME` takes one.

Its exit codes are those of `bertjax/exit_codes.py`: 0 done, 1 failed, 2 wrong input, 3 diverged, 75 start me again.
Several processes end as one: process 0 says why, and all exit with the same code.
"""

import dataclasses
import math
import os
import pathlib
import sys
import textwrap
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags, logging

from bertjax import cluster, heap, settings
from bertjax.attention import shrink
from bertjax.config import CHOICES, Config, Phase, adopt, check, to_dict
from bertjax.data.open import SYNTHETIC, corpus_names
from bertjax.exit_codes import DIVERGED, DONE, FAILED, REQUEUE, WRONG_INPUT
from bertjax.sharding import MeshConfig
from bertjax.tasks import LabelledTask, labelled

MODES = {
    "train": "run, or resume the run that --workdir holds (default)",
    "evaluate": "held-out metrics of the newest checkpoint in --workdir",
    "plan": "compile the real step and print what it needs, here or on --topology; runs nothing",
    "profile": "record a few steps and tell where their time goes, by block and operation",
    "show": "print the resolved config",
}
SMOKE_ROWS = 64  # which any mesh divides that has up to so many devices

Prepare = Callable[[Config, str], Config]
Finish = Callable[[Config, str, dict[str, float]], dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a paper's table: what to run, and what was published for it by the name of the metric."""

    config: Config
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return (
            ", ".join(f"{metric} {value}" for metric, value in self.published.items())
            or "no number published"
        )


def main(
    config: Config | Mapping[str, Row], *, prepare: Prepare | None = None, finish: Finish | None = None
) -> None:
    """Runs an experiment, or one of the rows of a table, from the command line, and exits.

    `prepare` may make what the config needs (a corpus) before anything else; `finish` turns the last evaluation of a
    run into its result.
    """
    rows = {} if isinstance(config, Config) else config
    if {"--help", "-h", "--helpshort"} & set(sys.argv[1:]):
        print(help_text(config, sys.modules["__main__"].__doc__ or ""))
        return
    values = _flags(rows)
    try:
        rest = values(sys.argv)[1:]
    except flags.Error as error:
        sys.exit(_fail(WRONG_INPUT, f"error: {' '.join(str(error).split())}; --help lists all flags"))
    # Of Orbax, which tells all that it does, and what went wrong once more than it raises it.
    logging.set_verbosity(logging.INFO if values.debug else logging.FATAL)
    sys.exit(_guarded(lambda: _run(_row(config, values), rest, values, prepare, finish), debug=values.debug))


def _row(config: Config | Mapping[str, Row], values: Any) -> Config:
    """The config, or that of the row that was asked for."""
    if isinstance(config, Config):
        return config
    if values.mode == "evaluate":  # where the workdir knows
        return next(iter(config.values())).config
    if values.row is None:
        raise ValueError(f"--row is missing: choose from {', '.join(config)}")
    if values.mode == "train":
        print(f"published   {values.row}: {config[values.row]}", file=sys.stderr, flush=True)
    return config[values.row].config


def _flags(rows: Mapping[str, Row]) -> flags.FlagValues:
    """The flags of every experiment, in a set of their own: importing an experiment defines none."""
    values = flags.FlagValues()
    if rows:
        flags.DEFINE_enum("row", None, list(rows), "Row of the table.", flag_values=values)
    flags.DEFINE_string("workdir", None, "Folder of the run.", flag_values=values)
    flags.DEFINE_enum("mode", "train", list(MODES), "What to do.", flag_values=values)
    flags.DEFINE_multi_string("set", [], "path=value: changes a setting.", flag_values=values)
    flags.DEFINE_bool("smoke", False, "Shrink everything to seconds on one CPU.", flag_values=values)
    flags.DEFINE_string("topology", None, "Machine to plan for, as v5e:16x16.", flag_values=values)
    flags.DEFINE_bool("search", False, "Plan: find the mesh.", flag_values=values)
    flags.DEFINE_string("coordinator", None, "host:port of process 0.", flag_values=values)
    flags.DEFINE_integer("processes", None, "How many processes take part.", flag_values=values)
    flags.DEFINE_integer("process", None, "Which of them this is.", flag_values=values)
    flags.DEFINE_bool("distributed", False, "Find the other processes by the cluster.", flag_values=values)
    flags.DEFINE_list("hosts", [], "Names of the machines, one a process, for messages.", flag_values=values)
    flags.DEFINE_float("wait", cluster.WAIT, "Seconds for all processes to come.", flag_values=values)
    flags.DEFINE_bool("debug", False, "Show where an error came from.", flag_values=values)
    return values


def _guarded(run: Callable[[], int], *, debug: bool) -> int:
    """The exit code of a run; whatever a user can mend is one line on standard error, or all of it."""
    from bertjax.train import Diverged, Interrupted

    try:
        return run()
    except cluster.ToldError as error:  # by process 0
        return _end(error.code, "")
    except cluster.LeftError as error:
        return _end(error.code, error.text)
    except cluster.MissingError as error:
        return _end(REQUEUE, f"error: {error}")
    except ValueError as error:
        if debug:
            raise
        return _end(WRONG_INPUT, f"error: {error} (--debug shows where)")
    except OSError as error:  # a full disk, a folder that cannot be written, a file that is gone
        if debug:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _end(WRONG_INPUT, f"error: {where}{error.strerror or error} (--debug shows where)")
    except Diverged as error:
        return _end(DIVERGED, f"error: {error}")
    except Interrupted as error:
        return _fail(REQUEUE, str(error))  # all at the same step: JAX ends as it should
    except Exception as error:
        if cluster.notes() is None:
            raise
        traceback.print_exc()
        return _end(FAILED, f"error: {type(error).__name__}: {error}")


def _end(code: int, text: str) -> int:
    """The exit code of a run that cannot go on; of several processes, process 0 says why."""
    if cluster.notes() is not None:
        cluster.leave(code, text)
    return _fail(code, text) if text else code


def _fail(code: int, text: str) -> int:
    print(" ".join(text.splitlines()), file=sys.stderr, flush=True)
    return code


def _run(config: Config, rest: list[str], values: Any, prepare: Prepare | None, finish: Finish | None) -> int:
    if rest:
        raise ValueError(f"unexpected argument {rest[0]!r}: settings are written --set path=value")
    if values.smoke:
        config = smoke(config)
    config = settings.override(config, values.set, CHOICES)
    if labelled(config.tasks) and config.model.init is not None:
        # The encoder is that of the run it starts from; what the command line says about it still holds.
        config = settings.override(adopt(config), values.set, CHOICES)
    if values.mode == "show":
        for path, value, _ in settings.describe(config, CHOICES):
            print(f"{path}={value}")
        return DONE
    if values.mode != "plan" and (values.topology or values.search):
        raise ValueError("--topology and --search belong to --mode=plan")
    if values.mode == "plan" and (values.topology or values.search):
        return _plan(config, values)
    if values.workdir is None:
        raise ValueError("--workdir is missing: name a folder for the run, as --workdir=runs/NAME")
    check_folder(values.workdir)
    from bertjax import preflight

    seat = _seat(values)
    if seat is not None:
        cluster.meet(
            seat,
            preflight.facts(to_dict(config), values.workdir, values.mode),
            preflight.disagreement,
            values.wait,
        )
        cluster.join(seat)

    # What follows needs jax to know about the other processes already.
    from bertjax import evaluate, finetune, journal, plan, profile, train
    from bertjax.data.open import open_vocabulary

    if values.mode == "evaluate":
        evaluate.run(values.workdir, config.mesh, values.set)
        return DONE
    check(config)  # before minutes go into a corpus
    if prepare is not None and not values.smoke:
        config = brought(_prepared(prepare, config, values.workdir), values.set)
    if values.mode == "train":
        heap.keep()
    if values.mode == "plan":
        if labelled(config.tasks):
            sets = finetune.open_sets(config)
            plan.run(sets.config, sets.tokenizer.vocabulary, values.workdir)
        else:
            plan.run(config, open_vocabulary(config.data.corpus, config.model.vocab), values.workdir)
    elif values.mode == "profile":
        profile.run(config, values.workdir)
    else:

        def result(metrics: dict[str, float]) -> dict[str, float]:
            return metrics if finish is None or values.smoke else finish(config, values.workdir, metrics)

        if not train.train(config, values.workdir, result):
            print(f"finished before, at step {config.train.steps}:\n{journal.inventory(values.workdir)}")
    return DONE


def _plan(config: Config, values: Any) -> int:
    """A plan for a machine that is not here: needs no workdir, no corpus and no other process."""
    from bertjax import plan
    from bertjax.data.open import open_vocabulary

    topology = None if values.topology is None else plan.find(values.topology)
    check(config)
    name = getattr(sys.modules["__main__"].__spec__, "name", "experiments.plan")
    workdir = values.workdir or str(pathlib.Path("runs", *name.split(".")[1:]))
    check_folder(workdir)
    corpus, notes = config.data.corpus, []
    missing = [name for name in corpus_names(corpus) if not pathlib.Path(name).exists()]
    if missing and not corpus.startswith(SYNTHETIC):
        notes = [f"{missing[0]} is not here: planned with a made-up vocabulary of the model's size"]
        corpus = SYNTHETIC
    vocabulary = open_vocabulary(corpus, config.model.vocab)
    result = plan.run(
        config, vocabulary, workdir, topology=topology, search=values.search, notes=tuple(notes)
    )
    return DONE if result["fits"] else WRONG_INPUT


def _prepared(prepare: Prepare, config: Config, workdir: str) -> Config:
    """What `prepare` makes of the config: process 0 makes it, however long it takes, and the others find it made."""
    notes = cluster.notes()
    if notes is None:
        return prepare(config, workdir)
    if notes.process == 0:
        config = prepare(config, workdir)
        notes.write("prepared", True)
        return config
    notes.wait("prepared", 1, math.inf)
    return prepare(config, workdir)


def brought(config: Config, assignments: Sequence[str]) -> Config:
    """What was prepared, whose encoder may be another one; what the command line says of the encoder still holds."""
    if config.model.init is None:
        return config
    return settings.override(config, [one for one in assignments if one.startswith("model.")], CHOICES)


def _seat(values: Any) -> cluster.Seat | None:
    """Which process of which run this is; None for a run of one."""
    count, index = values.processes, values.process
    if values.coordinator is None:
        if count is not None or index is not None:
            raise ValueError(
                "--processes and --process need --coordinator=HOST:PORT, the address of process 0"
            )
        return cluster.detect(values.wait) if values.distributed else None
    if count is None or index is None:
        raise ValueError("--coordinator needs --processes (how many) and --process (which one this is)")
    if not 0 <= index < count:
        raise ValueError(f"--process={index} of --processes={count}: the first is 0, the last {count - 1}")
    host, _, port = values.coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(f"--coordinator={values.coordinator} is no address: write it as HOST:PORT")
    return cluster.Seat(values.coordinator, count, index, cluster.local_devices(), tuple(values.hosts))


def check_folder(workdir: str) -> None:
    """An error for a workdir that cannot be one."""
    path = pathlib.Path(workdir).absolute()
    parent = next(p for p in (path, *path.parents) if p.exists())
    if not parent.is_dir():
        raise ValueError(f"--workdir={workdir} cannot be a folder: {parent} is a file")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise ValueError(f"--workdir={workdir} cannot be written: choose a folder below one of your own")


def smoke(config: Config) -> Config:
    """The same experiment in seconds on one CPU: a tiny model, a few steps, made-up text."""
    attention = shrink(config.model.attention)
    model = dataclasses.replace(
        config.model,
        attention=attention,
        layers=2 * len(attention.period()),
        width=32,
        heads=2,
        head_size=None,
        feedforward=None,
        vocab=256,
        max_length=32,
        dtype="float32",
        init=None,
    )
    corpora = range(len(corpus_names(config.data.corpus)))
    made_up = ",".join(f"{SYNTHETIC}:{number}" for number in corpora) if len(corpora) > 1 else SYNTHETIC
    data = dataclasses.replace(config.data, corpus=made_up, length=32)
    optim = dataclasses.replace(config.optim, warmup_steps=2, warmup_share=None)
    ends = range(2, 2 * len(config.train.phases) + 1, 2)
    phases = tuple(Phase(until=end, length=16, batch_size=SMOKE_ROWS) for end in ends)
    train = dataclasses.replace(
        config.train,
        steps=6 + 2 * len(phases),
        batch_size=SMOKE_ROWS,
        microbatches=1,
        phases=phases,
        log_every=2,
        epochs=None,
        eval_every=None,
        evals_per_epoch=None,
        eval_batches=2,
        patience=None,
    )
    chosen = tuple(
        task.on_made_up_records() if isinstance(task, LabelledTask) else task for task in config.tasks
    )
    return dataclasses.replace(
        config, model=model, data=data, tasks=chosen, optim=optim, train=train, mesh=MeshConfig()
    )


def help_text(config: Config | Mapping[str, Row], about: str) -> str:
    """The experiment, the modes and every setting with its value and its meaning; of a table those of its first row."""
    lines = [about.strip(), "", "Flags:", "  --workdir=DIR        folder of the run"]
    if not isinstance(config, Config):
        lines.append("  --row=ROW            one of these, with what was published")
        lines += [f"      {name:20} {row}" for name, row in config.items()]
        config = next(iter(config.values())).config
    lines.append("  --mode=MODE")
    lines += [f"      {name:10} {purpose}" for name, purpose in MODES.items()]
    lines += [
        "  --set path=value     changes a setting (may be repeated)",
        "  --smoke              shrinks everything to seconds on one CPU",
        "  --debug              shows where an error came from",
        "  --topology=MACHINE   with --mode=plan: a machine that is not here, as v5e:16x16, v5p:4x4x4, gpu:8, cpu:8",
        "  --search             with --topology: try meshes, rules, remat and microbatches, and rank those that fit",
        "  --coordinator=HOST:PORT --processes=N --process=I    one of several processes",
        "  --distributed        the same, found through the cluster's environment",
        "  --wait=SECONDS       for all processes to come (300); --hosts=A,B names their machines in messages",
        "",
        "Settings, with this experiment's values:",
    ]
    for path, value, doc in settings.describe(config, CHOICES):
        lines.append(f"  {path}={value}")
        lines += textwrap.wrap(doc, 100, initial_indent=" " * 8, subsequent_indent=" " * 8)
    return "\n".join(lines)
