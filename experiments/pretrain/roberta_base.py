"""RoBERTa-base: masked words alone, hidden anew each time, in large batches of full sentences.

Paper: Liu et al., 1907.11692, Section 4, Table 3 (8K sequences, 31K steps). Its final model trains 500K steps on 160 GB
of text with a peak of 6e-4: --set train.steps=500000 --set optim.learning_rate=6e-4 --set optim.warmup_steps=24000.
Command: python -m experiments.pretrain.roberta_base --workdir=runs/roberta --set data.corpus=corpora/wiki_books_bpe
Cost: 31,000 steps of 8192 x 512 slots, 130 billion slots.
Expected: held-out perplexity 3.77, MNLI-m 84.6, SST-2 92.8 (Table 3). Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.singles import FullSentences
from bertjax.models.presets import PRESETS
from bertjax.optim import AdamW, OptimConfig
from bertjax.tasks.mlm import Mlm


def config() -> Config:
    """A byte-level vocabulary (`tokenizer --kind=byte_bpe --vocab=50265 --lowercase=false`), no kinds of segment."""
    return Config(
        model=dataclasses.replace(PRESETS["base"], vocab=50265, types=None),
        data=DataConfig(corpus="corpora/wiki_books_bpe", length=512, format=FullSentences()),
        tasks=(Mlm(),),
        optim=OptimConfig(
            optimizer=AdamW(b2=0.98), learning_rate=1e-3, warmup_steps=1500, weight_decay=0.01, clip_norm=None
        ),
        train=TrainConfig(steps=31_000, batch_size=8192),
    )


if __name__ == "__main__":
    experiment.main(config())
