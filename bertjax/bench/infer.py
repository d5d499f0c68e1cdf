"""The encoder alone beside that of `transformers`: `python -m bertjax bench infer`."""

from bertjax.bench.race import Race, race

USAGE = """usage: python -m bertjax bench infer [--option=value ...]

Measures the hidden states of a batch, without dropout and heads, beside transformers on PyTorch doing the identical
work, turn by turn, and writes infer.md, infer.json and infer.png.

    python -m bertjax bench infer --model=base --batch=16 --length=128
    python -m bertjax bench infer --model.dtype=bfloat16 --rows=natural"""

OPTIONS = Race()


def run(options: Race) -> None:
    """Measures one row."""
    race("infer", options)
