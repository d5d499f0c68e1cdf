"""Unsupervised SimCSE: a sentence is told from all others of its batch by two readings with other dropout.

Paper: Gao et al., 2104.08821, Section 3. The corpus has a sentence in each document: a million of them, prepared from a
text with one a line (`prepare --documents=line --sentences=lines`).
Command: python -m experiments.pretrain.simcse --workdir=runs/simcse --set model.init=runs/bert_base \
    --set data.corpus=corpora/sentences
Cost: 15,625 steps of 64 x 32 slots, one epoch; minutes on one GPU.
Expected: average of seven STS tasks 76.25 (Table 5, from BERT-base). Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.singles import Padded
from bertjax.models.presets import PRESETS
from bertjax.optim import OptimConfig
from bertjax.tasks.contrastive import Contrastive


def config() -> Config:
    """From the weights of a BERT; the embedding is the pooled token with its layer."""
    return Config(
        model=dataclasses.replace(PRESETS["base"], init="runs/bert_base"),
        data=DataConfig(corpus="corpora/sentences", length=32, format=Padded()),
        tasks=(Contrastive(temperature=0.05),),
        optim=OptimConfig(learning_rate=3e-5, warmup_steps=0, weight_decay=0.0),
        train=TrainConfig(steps=15_625, batch_size=64),
    )


if __name__ == "__main__":
    experiment.main(config())
