"""All laws of growth, of steps and of their compilation, as one table: `python -m bertjax bench laws`."""

from bertjax.bench import compile, scale
from bertjax.bench.law import CODE, Laws, measure

USAGE = """usage: python -m bertjax bench laws [--option=value ...]

Measures every law of `bench scale` and `bench compile`, and writes laws.md, the table, and laws.json after each.

    python -m bertjax bench laws
    python -m bertjax bench laws --only=padding,scanned"""

OPTIONS = Laws()
LAWS = {**scale.LAWS, **compile.LAWS}


def run(options: Laws) -> None:
    """Measures them all."""
    measure(LAWS, options, "laws", code=CODE)
