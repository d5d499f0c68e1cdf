"""`python -m bertjax bench NAME`: prices of the parts of a model."""

from bertjax import settings

USAGE = """usage: python -m bertjax bench attention [--option=value ...]

Measures one block around every attention, forward and backward, over lengths of rows: time, memory, operations, and the
exponents with which they grow. Writes tables, numbers and a plot.

    python -m bertjax bench attention --model=base --model.dtype=bfloat16 --rows=8
    python -m bertjax bench attention --variants=full,window,linear --equal=parameters
    python -m bertjax bench attention --variants=full,linformer --model.attention=linformer --model.attention.rank=64"""

BENCHES = ("attention",)


def main(arguments: list[str]) -> int:
    """Runs the tool."""
    asks = not arguments or arguments[0] in ("--help", "-h")
    name, rest = ("attention", ["--help"]) if asks else (arguments[0], arguments[1:])
    if name not in BENCHES:
        raise ValueError(f"unknown bench {name!r}: {settings.suggest(name, BENCHES)}")

    from bertjax.bench.attention import AttentionBench, run
    from bertjax.config import CHOICES

    run(settings.from_arguments(AttentionBench(), rest, CHOICES, USAGE))
    return 0
