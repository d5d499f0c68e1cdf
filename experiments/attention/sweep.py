"""Pretrains every attention of this folder on one corpus, and prints one table.

    python -m experiments.attention.sweep --workdir=runs/attention
    python -m experiments.attention.sweep --variants=full,window,linear --equal=parameters --set=train.steps=500

Each variant is a run of its own, in a process of its own, below the workdir: it can be looked at, evaluated and used
like any other. Run again, the sweep skips what is finished and resumes what is not. A variant that fails is a line of
the table, and the sweep goes on.

Columns: positions, as `full.positions_for` chose them; parameters; the median time of a step; the memory that the
compiled step needs on one device; accuracy on held-out masked words, above that of always naming the most frequent one.

Cost: 33 to 92 s a variant on two CPU cores that do nothing else, full attention 45 s; and some seconds for its plan.
"""

import dataclasses
import json
import pathlib
import pkgutil
import signal
import statistics
import subprocess
import sys
from importlib import import_module
from typing import Any

import jax

import experiments.attention as here
from bertjax import experiment, settings
from bertjax.bench.equal import Equal, match
from bertjax.bench.table import number, table
from bertjax.config import CHOICES, Config, fingerprint, read_workdir
from bertjax.data.files import replace_file
from bertjax.evaluate import baselines
from bertjax.report import read_metrics
from bertjax.train import REQUEUE
from experiments.attention import full

ROOT = pathlib.Path(__file__).resolve().parents[2]
VARIANTS = sorted(module.name for module in pkgutil.iter_modules(here.__path__) if module.name != "sweep")
HEAD = ("variant", "positions", "parameters", "step (ms)", "memory (MB)", "held-out MLM accuracy")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What is compared, and how."""

    workdir: str = "runs/attention"
    """Folder of the runs and of the corpus that they share."""
    variants: tuple[str, ...] = ()
    """Names of files beside this one; none means all."""
    equal: Equal = "none"
    """What all models have in common with the base: nothing, the parameters or the operations of a block."""
    set: tuple[str, ...] = ()
    """Settings of all runs, as in --set=train.steps=500,train.batch_size=32."""
    smoke: bool = False
    """With --smoke=true every run is shrunk to seconds, on made-up text."""

    def __post_init__(self) -> None:
        """Refuses what does not exist."""
        for name in self.variants:
            if name not in VARIANTS:
                raise ValueError(f"unknown variant {name!r}: {settings.suggest(name, VARIANTS)}")


class Stopped(Exception):
    """Asked to stop; the run that was going on has saved itself."""


def main(arguments: list[str]) -> int:
    """0 if all runs succeeded, 1 if some failed, 2 for wrong input, 75 if it was stopped."""
    try:
        return sweep(settings.from_arguments(Sweep(), arguments, {}, (__doc__ or "").strip()))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Stopped:
        print("stopped: the same command goes on from there", file=sys.stderr)
        return REQUEUE


def sweep(options: Sweep) -> int:
    """Runs what is not finished, and prints the table."""
    jax.config.update("jax_platforms", "cpu")  # this process only counts; its runs need the accelerator
    root, assignments = pathlib.Path(options.workdir).resolve(), list(options.set)
    experiment.check_folder(str(root))
    check(options)
    if not options.smoke:
        assignments.append(f"data.corpus={full.prepare_text(full.config(), str(root)).data.corpus}")
    root = root if options.equal == "none" else root / f"equal_{options.equal}"
    names, lines = options.variants or VARIANTS, []
    for index, name in enumerate(names, 1):
        print(f"{index}/{len(names)} {name}", end=" ", flush=True)
        try:
            lines.append(run(name, root / name, options, assignments))
        except ValueError as error:
            lines.append([name, f"failed: {error}"])
        print(*lines[-1][1:], sep="  ", flush=True)
        write(root, lines)
    note = floor(options, assignments) if any(len(line) == len(HEAD) for line in lines) else ""
    print(f"\n{write(root, lines, note)}\n\nwritten to {root / 'table.md'}")
    return int(any(len(line) < len(HEAD) for line in lines))


def floor(options: Sweep, assignments: list[str]) -> str:
    """What the accuracies are to be held against."""
    share = baselines(base(options, assignments)).token_share
    return f"Always the most frequent token: {share:.1%} of the same hidden words."


def check(options: Sweep) -> None:
    """Refuses settings that no variant has, before minutes go into a corpus."""
    refused = []
    for name in options.variants or VARIANTS:
        try:
            settings.override(of(name, smoke=options.smoke), options.set, CHOICES)
            return
        except ValueError as error:
            refused.append(error)
    raise refused[0]


def run(name: str, folder: pathlib.Path, options: Sweep, assignments: list[str]) -> list[str]:
    """The line of a variant, which is trained unless it is already; a ValueError says why there is none."""
    wanted = resolve(name, options, assignments)
    if options.equal != "none":
        assignments = [*assignments, f"model.feedforward={wanted.model.feedforward}"]
    flags = [*(f"--set={assignment}" for assignment in assignments), *(["--smoke"] if options.smoke else [])]
    for mode, made in (("train", "result"), ("plan", "plan")):
        if not finished(folder, wanted, made):
            start(name, folder, mode, flags)
    result, plan = (json.loads((folder / f"{what}.json").read_text()) for what in ("result", "plan"))
    rates = [line["steps_per_second"] for line in read_metrics(str(folder)) if "steps_per_second" in line]
    return [
        name,
        settings.kind_of(wanted.model.position, CHOICES) or "",
        f"{plan['parameters']:,}",
        number(1e3 / statistics.median(rates)),
        number(plan["bytes_per_device"]["total"] / 1e6),
        f"{result['metrics']['heldout_mlm_accuracy']:.1%}",
    ]


def resolve(name: str, options: Sweep, assignments: list[str]) -> Config:
    """The config that the variant will be run with."""
    config = settings.override(of(name, smoke=options.smoke), assignments, CHOICES)
    if options.equal == "none":
        return config
    model = match(config.model, base(options, assignments).model, options.equal, config.model.max_length)
    return dataclasses.replace(config, model=model)


def base(options: Sweep, assignments: list[str]) -> Config:
    """The config of full attention, whether that is among the variants or not."""
    # What is set for one attention the base may lack; it is equal in everything else.
    shared = [one for one in assignments if not one.startswith("model.attention.")]
    return settings.override(of("full", smoke=options.smoke), shared, CHOICES)


def of(name: str, *, smoke: bool) -> Config:
    """The config of a variant."""
    config = import_module(f"experiments.attention.{name}").config()
    return experiment.smoke(config) if smoke else config


def finished(folder: pathlib.Path, wanted: Config, made: str) -> bool:
    """Whether the folder holds this file of just this run; what it holds of another is that run's own error."""
    if not all((folder / f"{what}.json").exists() for what in ("config", made)):
        return False
    theirs = read_workdir(str(folder))[1]
    return fingerprint(wanted, theirs["data"]["corpus"]) == theirs


def start(name: str, folder: pathlib.Path, mode: str, flags: list[str]) -> None:
    """Runs one mode of an experiment to its end; what it says goes to a log beside its folder."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    log = folder.with_suffix(".log")
    command = [sys.executable, "-m", f"experiments.attention.{name}", f"--workdir={folder}", f"--mode={mode}"]
    with log.open("w") as file:
        child = subprocess.Popen([*command, *flags], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)

        asked = []

        def stop(*_: Any) -> None:
            asked.append(True)
            child.terminate()

        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            code = child.wait()
        finally:
            for which, handler in before.items():
                signal.signal(which, handler)
    if asked or code == REQUEUE:  # a child that was still starting knew no better than to die
        raise Stopped
    if code:
        said = log.read_text().split("\n")
        last = next((line for line in reversed(said) if line.strip()), "it said nothing")
        raise ValueError(f"{last.removeprefix('error: ')} (exit code {code}, {log})")


def write(root: pathlib.Path, lines: list[list[str]], note: str = "") -> str:
    """The table, best first, those that failed last, and a note below it; also as table.md."""

    def order(line: list[str]) -> float:
        return -float(line[-1].rstrip("%")) if len(line) == len(HEAD) else 1.0

    body = [[*line, *[""] * (len(HEAD) - len(line))] for line in sorted(lines, key=order)]
    text = "\n\n".join([table(HEAD, body), *([note] if note else [])])
    root.mkdir(parents=True, exist_ok=True)
    replace_file(str(root / "table.md"), f"{text}\n".encode())
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
