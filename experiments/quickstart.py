"""A small BERT, pretrained in minutes on text that every machine already has.

Trains a WordPiece vocabulary and prepares a corpus from the interpreter's documentation and the docstrings of
installed packages, pretrains on masked words and next sentences (BERT, 1810.04805), compares held-out accuracy with
printed baselines, draws the loss, and fills the gaps of five sentences. No download, no accelerator.

    python -m experiments.quickstart --workdir=runs/quickstart
"""

import dataclasses
import math
import pathlib
import statistics
from typing import Any

import numpy as np

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig

SENTENCES = (
    "Return True if the object is an [MASK] of the class.",
    "If the file does not exist, an exception is [MASK].",
    "The function takes two arguments and returns a [MASK].",
    "This method is called when the [MASK] is closed.",
    "A list of strings is converted to a [MASK].",
)


def config() -> Config:
    """Four layers of 256, ten thousand words."""
    return Config(
        model=EncoderConfig(
            layers=4, width=256, heads=4, vocab=8192, max_length=128, dropout=0.0, attention_dropout=0.0
        ),
        data=DataConfig(length=128),
        optim=OptimConfig(learning_rate=1e-3, warmup_steps=100),
        train=TrainConfig(steps=1000, batch_size=32, eval_every=250, eval_batches=30, checkpoint_every=250, log_every=20),
    )


def prepare(config: Config, workdir: str) -> Config:
    """A tokenizer and a corpus in the workdir, made once."""
    from bertjax.data.prepare import PrepareOptions, prepare
    from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer

    tokenizer, corpus = pathlib.Path(workdir) / "tokenizer", pathlib.Path(workdir) / "corpus"
    train_tokenizer(TokenizerOptions(input=("python-docs",), out=str(tokenizer), vocab=config.model.vocab))
    prepare(PrepareOptions(input=("python-docs",), tokenizer=str(tokenizer), out=str(corpus), heldout=0.05))
    return dataclasses.replace(config, data=dataclasses.replace(config.data, corpus=str(corpus)))


def finish(config: Config, workdir: str, values: dict[str, float]) -> dict[str, Any]:
    """Baselines, a picture, and five filled gaps."""
    from bertjax.bundle import load
    from bertjax.predict import fill_mask
    from bertjax.report import plot_losses
    from bertjax.tools.predict import print_filled

    print("\nHeld out, against baselines")
    return {}


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare, finish=finish)
