"""ALBERT-base: one layer's parameters used twelve times, small embeddings, n-grams, and the order of sentences.

Paper: Lan et al., 1909.11942, Section 4.1.
Command: python -m experiments.pretrain.albert_base --workdir=runs/albert_base --set data.corpus=corpora/wiki_books_spm
Cost: 125,000 steps of 4096 x 512 slots, 262 billion slots.
Expected: average of five tasks 80.1 (Tables 3 to 5), MNLI 82.0, sentence-order accuracy 86.5 (Table 5). Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.pairs import SegmentPair
from bertjax.models.presets import PRESETS
from bertjax.optim import Lamb, OptimConfig
from bertjax.tasks.masking import Ngram
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.sop import Sop


def config() -> Config:
    """With a SentencePiece vocabulary of 30,000 (`tokenizer --kind=sentencepiece --vocab=30000`)."""
    model = dataclasses.replace(PRESETS["base"], vocab=30000, embedding_width=128, sharing="all")
    return Config(
        model=model,
        data=DataConfig(corpus="corpora/wiki_books_spm", length=512, format=SegmentPair(negatives="swapped")),
        tasks=(Mlm(masking=Ngram()), Sop()),
        optim=OptimConfig(optimizer=Lamb(), learning_rate=1.76e-3, warmup_steps=3125, weight_decay=0.01),
        train=TrainConfig(steps=125_000, batch_size=4096),
    )


if __name__ == "__main__":
    experiment.main(config())
