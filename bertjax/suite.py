"""Several fine-tuning runs as one experiment: every task over seeds, and one table beside the published numbers.

    python -m experiments.finetune.NAME --set model.init=DIR [--seeds=5] [--only=cola,rte] [--data=DIR] [--workdir=DIR]

Each run lies below the workdir, WORKDIR/TASK/SEED, and is a run like any other: it can be evaluated, predicted with and
exported. Run again, what is finished is skipped and what is not resumes. A task that fails for its data is a line of
the table, and the others go on.

The table has, for every task, the published numbers, best, mean and standard deviation over the seeds, the time of a
run, and the cost of all of them in accelerator hours (seconds times devices). A suite may add lines for what the runs
of a task are worth on other records, as those of AX.
"""

import dataclasses
import json
import pathlib
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from absl import flags, logging

from bertjax import experiment, settings
from bertjax.config import CHOICES, IN_WORKDIR, Config, adopt

HEAD = ("task", "metric", "published", "best", "mean", "sd", "minutes a run", "accelerator hours")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A task of a suite: what to run, which number counts, and what was published for it."""

    config: Config
    metric: str
    """Of the result, as accuracy."""
    published: Mapping[str, float] = dataclasses.field(default_factory=dict)
    """By what it is: best, mean, sd, or the name of the model."""
    scale: float = 100.0
    """What the metric is multiplied by, so that it compares."""


class Extra(NamedTuple):
    """A line of the table besides that of a task: what its runs are worth on other records."""

    name: str
    metric: str
    published: Mapping[str, float]
    found: Sequence[float]  # of every run, as the table shows it


# A task, and the folders of its runs, the best first; more lines for the table.
Finish = Callable[[str, Entry, Sequence[pathlib.Path]], Sequence[Extra]]


def main(
    entries: Callable[[str | None], Mapping[str, Entry]], *, workdir: str, finish: Finish | None = None
) -> None:
    """Runs a suite from the command line, and exits. `entries` takes the folder of the data, none for the hub."""
    about = (sys.modules["__main__"].__doc__ or "").strip()
    if {"--help", "-h", "--helpshort"} & set(sys.argv[1:]):
        print(f"{about}\n\n{__doc__}")
        return
    values = _flags(workdir)
    try:
        rest = values(sys.argv)[1:]
    except flags.Error as error:
        print(f"error: {' '.join(str(error).split())}; --help tells more", file=sys.stderr)
        sys.exit(2)
    logging.set_verbosity(logging.FATAL)
    sys.exit(experiment._guarded(lambda: _run(entries, rest, values, finish), debug=values.debug))


def _flags(workdir: str) -> flags.FlagValues:
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", workdir, "Folder of all runs.", flag_values=values)
    flags.DEFINE_string("data", None, "Folder of the data in its published layout.", flag_values=values)
    flags.DEFINE_list("only", [], "Names of tasks; all without it.", flag_values=values)
    flags.DEFINE_integer("seeds", 1, "Runs of each task.", lower_bound=1, flag_values=values)
    flags.DEFINE_multi_string("set", [], "path=value: changes a setting of all runs.", flag_values=values)
    flags.DEFINE_bool("smoke", False, "Shrink every run to seconds, on made-up records.", flag_values=values)
    flags.DEFINE_bool("debug", False, "Show where an error came from.", flag_values=values)
    return values


def _run(
    entries: Callable[[str | None], Mapping[str, Entry]], rest: list[str], values: Any, finish: Finish | None
) -> int:
    if rest:
        raise ValueError(f"unexpected argument {rest[0]!r}: settings are written --set path=value")
    found = entries(values.data)
    for name in values.only:
        if name not in found:
            raise ValueError(f"unknown task {name!r}: {settings.suggest(name, list(found))}")
    experiment.check_folder(values.workdir)
    chosen = {name: found[name] for name in values.only} or dict(found)
    # All settings are asked for before the first run begins.
    configs = {name: resolved(entry.config, values.set, smoke=values.smoke) for name, entry in chosen.items()}
    # Records are encoded once for all seeds.
    configs = {name: _sharing(config, f"{values.workdir}/cache") for name, config in configs.items()}
    root, lines, failed = pathlib.Path(values.workdir), [], 0
    for name, entry in chosen.items():
        try:
            folders = [_one(configs[name], root / name / str(seed), seed) for seed in range(values.seeds)]
            lines.append(line(name, entry, folders))
            if finish is not None and not values.smoke:
                more = finish(name, entry, best_first(entry, folders))
                lines += [[*numbers(one.name, one.metric, one.published, one.found), "", ""] for one in more]
        except ValueError as error:
            failed += 1
            lines.append([name, f"failed: {error}"])
        print(f"\n{table(lines)}\n", flush=True)
        (root / "table.md").write_text(table(lines) + "\n")
    print(f"written to {root / 'table.md'}")
    return int(failed > 0)


def resolved(config: Config, assignments: Sequence[str], *, smoke: bool) -> Config:
    """The config with what the command line says, and with the encoder of `model.init`."""
    config = settings.override(experiment.smoke(config) if smoke else config, assignments, CHOICES)
    if config.model.init is not None:
        config = settings.override(adopt(config), assignments, CHOICES)
    return config


def _sharing(config: Config, folder: str) -> Config:
    if config.data.cache != IN_WORKDIR:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, cache=folder))


def _one(config: Config, folder: pathlib.Path, seed: int) -> pathlib.Path:
    """Trains one run, unless that is done."""
    from bertjax.train import train

    train(dataclasses.replace(config, train=dataclasses.replace(config.train, seed=seed)), str(folder))
    return folder


def value_of(entry: Entry, folder: pathlib.Path) -> float:
    """What a run is worth."""
    metrics = json.loads((folder / "result.json").read_text())["metrics"]
    name = f"heldout_{entry.metric}"
    if name not in metrics:
        # A smoke run has made-up records, of which other scores are told.
        return float(metrics["heldout_score"]) * entry.scale
    return float("nan") if metrics[name] is None else float(metrics[name]) * entry.scale


def best_first(entry: Entry, folders: Sequence[pathlib.Path]) -> list[pathlib.Path]:
    """The runs of a task by their worth."""
    return sorted(folders, key=lambda folder: -value_of(entry, folder))


def predictions_of(folder: pathlib.Path, task: str | None = None) -> list[dict[str, Any]]:
    """What a run has predicted for its split `test`; `task` is one of several that it has."""
    name = "_".join(["predictions", *([] if task is None else [task]), "test"])
    lines = (folder / f"{name}.jsonl").read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line]


def line(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> list[str]:
    """A task's line of the table."""
    found = [value_of(entry, folder) for folder in folders]
    results = [json.loads((folder / "result.json").read_text()) for folder in folders]
    hours = sum(result["seconds"] * int(result["devices"].split(" x ")[0]) for result in results) / 3600
    return [
        *numbers(name, entry.metric, entry.published, found),
        f"{statistics.mean(result['seconds'] for result in results) / 60:.1f}",
        f"{hours:.3f}",
    ]


def numbers(name: str, metric: str, published: Mapping[str, float], found: Sequence[float]) -> list[str]:
    """What a line says of the runs' worth, beside what was published."""
    return [
        name,
        metric,
        ", ".join(f"{what} {value:g}" for what, value in published.items()) or "-",
        f"{max(found):.2f}",
        f"{statistics.mean(found):.2f}",
        f"{statistics.stdev(found):.2f}" if len(found) > 1 else "-",
    ]


def table(lines: Sequence[Sequence[str]]) -> str:
    """All lines, in Markdown."""
    rows = [HEAD, *(tuple(some) + ("",) * (len(HEAD) - len(some)) for some in lines)]
    wide = [max(len(row[place]) for row in rows) for place in range(len(HEAD))]
    shown = [
        "| " + " | ".join(cell.ljust(size) for cell, size in zip(row, wide, strict=True)) + " |"
        for row in rows
    ]
    return "\n".join([shown[0], "|" + "|".join("-" * (size + 2) for size in wide) + "|", *shown[1:]])
