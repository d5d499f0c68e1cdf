"""`python -m bertjax bench NAME`: prices of a model and its parts, and races.

A bench is a module `bertjax/bench/NAME.py` with its `USAGE`, its `OPTIONS` and `run(options)`, and a line here.
"""

import importlib

from bertjax import settings

BENCHES = {
    "attention": "time and memory of one block around every attention, over lengths",
    "compile": "how long a step takes to compile, over depth and over machines",
    "data": "real tokens a second that the loader makes, over threads and processes",
    "goals": "training and inference beside transformers: the rows that a CPU or a GPU is held to",
    "infer": "the encoder alone beside that of transformers",
    "laws": "all laws of growth: those of compile and of scale, as one table",
    "scale": "how the price of a step grows: padding, documents, windows, predictions, memory",
    "start": "how long a run takes to its first step, at its first start and at its second",
    "train": "a training step beside that of transformers",
}


def main(arguments: list[str]) -> int:
    """Runs one bench."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print(
            "usage: python -m bertjax bench NAME [--option=value ...]\n\nBenches (bench NAME --help explains one):"
        )
        for name, purpose in BENCHES.items():
            print(f"  {name:12}{purpose}")
        return 0
    if arguments[0] not in BENCHES:
        raise ValueError(f"unknown bench {arguments[0]!r}: {settings.suggest(arguments[0], list(BENCHES))}")
    from bertjax.config import CHOICES

    bench = importlib.import_module(f"bertjax.bench.{arguments[0]}")
    bench.run(settings.from_arguments(bench.OPTIONS, arguments[1:], CHOICES, bench.USAGE))
    return 0
