"""`python -m bertjax bench NAME`: prices of the parts of a model.

A bench is a module `bertjax/bench/NAME.py` with its `USAGE`, its `OPTIONS` and `run(options)`, and a line here.
"""

import importlib

from bertjax import settings

BENCHES = {
    "attention": "time and memory of one block around every attention, over lengths",
    "data": "real tokens a second that the loader makes, over threads and processes",
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
