"""What rows cost: real tokens a second that a loader makes on the host alone, and how that grows with its workers.

    python -m bertjax bench data --corpus=corpora/wiki --format=best_fit --length=512 --threads=1,2,4 --processes=1,2,4

A worker reads and lays out whole batches. Threads are what a training process has (`data.threads`); they share Python's
lock, so they hide waiting for the disk more than they add up. Processes are what several hosts, or a process for each
device, have. `a core` is tokens over the processors' time, which other work on the machine disturbs little; `growth` is
tokens a second over those of one worker of the kind. With `--text` preparing is measured, too, beside the tokenizer
alone (`bare`). Writes data.json into a folder.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any

from bertjax.bench.bare import compare
from bertjax.config import DataConfig, check_mixture
from bertjax.data.examples import Format
from bertjax.data.files import replace_file
from bertjax.data.loader import Loader, Speed, measure
from bertjax.data.open import open_examples
from bertjax.data.pairs import SegmentPair
from bertjax.data.workers import Pool, available_cores
from bertjax.journal import scaled

USAGE = """usage: python -m bertjax bench data [--option=value ...]

Measures the loader alone: real tokens a second, and how that grows with its threads and with processes.

    python -m bertjax bench data --corpus=corpora/wiki --format=best_fit --length=512
    python -m bertjax bench data --threads=1,2,4,8 --processes=1,2,4,8 --need=250000
    python -m bertjax bench data --corpus=corpora/wiki --text=wiki/a.txt      preparing, beside the tokenizer alone"""


@dataclasses.dataclass(frozen=True)
class DataBench:
    """What is measured, and how."""

    corpus: str = "synthetic"
    """Folder written by `python -m bertjax prepare`, or several with commas; `synthetic` is made up."""
    vocab: int = 30522
    """Tokens of a corpus that is made up."""
    format: Format = SegmentPair()
    """How text becomes rows."""
    length: int = 128
    """Tokens in a row."""
    batch_size: int = 256
    """Rows in a batch."""
    threads: tuple[int, ...] = (1, 2, 4)
    """Numbers of threads of one process; one is always measured, and first."""
    processes: tuple[int, ...] = (1, 2, 4)
    """Numbers of processes of one thread; one is always measured, and first."""
    seconds: float = 3.0
    """How long each is measured."""
    need: float | None = None
    """Tokens a second that training reads, to hold the loader's against; none leaves that out."""
    text: str | None = None
    """A text file to prepare with the corpus's tokenizer, beside that alone; none leaves that out."""
    rounds: int = 3
    """Turns of both sides of that; the fastest of each counts."""
    out: str = "runs/bench"
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        for name in ("threads", "processes"):
            numbers = getattr(self, name)
            if min(numbers, default=1) < 1:
                raise ValueError(f"{name}={','.join(map(str, numbers))}: each at least 1")
        check_mixture(DataConfig(corpus=self.corpus))
        if self.rounds < 1:
            raise ValueError(f"rounds={self.rounds} must be at least 1")
        if self.text is not None and not os.path.isdir(self.corpus):
            raise ValueError(
                f"text={self.text} needs a tokenizer, that of the corpus, and corpus={self.corpus} has none"
            )
        if self.seconds <= 0 or (self.need is not None and self.need <= 0):
            raise ValueError(f"seconds={self.seconds} and need={self.need} must be above 0")


OPTIONS = DataBench()


class Worker:
    """Makes batches in a process of its own."""

    def __init__(self, options: DataBench) -> None:
        self.loader = make_loader(options)

    def __call__(self, seconds: float) -> Speed:
        """What one thread does in that time."""
        return measure(self.loader, seconds, threads=1)


def make_loader(options: DataBench) -> Loader:
    """The loader of a run with these rows."""
    examples = open_examples(
        options.corpus,
        "train",
        format=options.format,
        length=options.length,
        seed=0,
        vocab=options.vocab,
    )
    return Loader(examples, options.batch_size, seed=0)


def by_threads(options: DataBench, number: int) -> list[Speed]:
    """One process."""
    return [measure(make_loader(options), options.seconds, number)]


def by_processes(options: DataBench, number: int) -> list[Speed]:
    """So many processes at once, each on batches of its own."""
    with Pool(number, f"{__name__}:Worker", options) as pool:
        list(pool.map([0.01] * number))  # they start, and map their files
        return list(pool.map([options.seconds] * number))


def run(options: DataBench) -> dict[str, Any]:
    """Measures, prints, and writes data.json."""
    examples = make_loader(options).examples
    print(
        f"{len(examples):,} rows of {options.length}, {examples.efficiency:.1%} full, in batches of "
        f"{options.batch_size}, on {available_cores()} cores"
    )
    print(
        f"{'workers':>14}{'tokens/s':>12}{'a core':>12}{'growth':>9}"
        + ("  of the need" if options.need else "")
    )
    lines: list[dict[str, Any]] = []
    for kind, take in (("threads", by_threads), ("processes", by_processes)):
        numbers = getattr(options, kind)
        one = 0.0
        for number in sorted({1, *numbers}) if numbers else ():
            speeds = take(options, number)
            rate = sum(speed.tokens / speed.seconds for speed in speeds)
            one = one or rate
            line = {
                "kind": kind,
                "workers": number,
                "tokens_per_second": rate,
                "tokens_per_core_second": sum(s.tokens for s in speeds) / sum(s.core_seconds for s in speeds),
                "growth": rate / one,
            }
            lines.append(line)
            core, of_need = scaled(line["tokens_per_core_second"]), rate / options.need if options.need else 0
            shown = f"{number:4d} {kind:9}{scaled(rate):>12}{core:>12}{line['growth']:9.2f}"
            print(shown + (f"{of_need:11.1f} x" if options.need else ""), flush=True)
    result = {
        "corpus": options.corpus,
        "format": type(options.format).__name__,
        "length": options.length,
        "batch_size": options.batch_size,
        "cores": available_cores(),
        "efficiency": examples.efficiency,
        "workers": lines,
    }
    if options.text is not None:
        prepared = compare(options.text, os.path.join(options.corpus, "tokenizer"), options.rounds)
        result["prepare"] = {**dataclasses.asdict(prepared), "ratio": prepared.ratio}
        print(
            f"{prepared.megabytes:.1f} MB of text are prepared in {min(prepared.prepare):.1f} s, "
            f"the tokenizer alone takes {min(prepared.bare):.1f} s: {prepared.ratio:.2f} times"
        )
    path = pathlib.Path(options.out) / "data.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_file(str(path), (json.dumps(result, indent=1) + "\n").encode())
    print(f"written to {path}")
    return result
