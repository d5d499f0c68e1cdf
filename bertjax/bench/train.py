"""A training step of ours beside that of `transformers`: `python -m bertjax bench train`."""

from bertjax.bench.race import Race, race

USAGE = """usage: python -m bertjax bench train [--option=value ...]

Measures a whole pretraining step (masking, loss, gradients, clipping, AdamW) beside transformers on PyTorch doing the
identical work, turn by turn, and writes train.md, train.json and train.png.

    python -m bertjax bench train --model=base --batch=16 --length=128
    python -m bertjax bench train --model.dtype=bfloat16 --peer=transformers,transformers-compiled
    python -m bertjax bench train --rows=natural              packed beside padded
    python -m bertjax bench train --peer=none --dropout=false"""

OPTIONS = Race()


def run(options: Race) -> None:
    """Measures one row."""
    race("train", options)
