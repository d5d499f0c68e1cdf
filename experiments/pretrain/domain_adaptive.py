"""Domain-adaptive pretraining: a trained BERT goes on with masked words over the text of a field.

Paper: Gururangan et al., 2004.10964, Section 3. New words of the field may join the vocabulary (README, "Continue from
other weights"); then --set model.vocab is their number, and the banner says how many start fresh.
Command: python -m experiments.pretrain.domain_adaptive --workdir=runs/papers --set model.init=runs/bert_base \
    --set data.corpus=corpora/papers
Cost: 12,500 steps of 2048 x 512 slots, 13 billion slots; a tenth of them already helps on small fields.
Expected: from RoBERTa-base over biomedical papers, ChemProt 81.9 becomes 84.2 (Table 3). Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.singles import FullSentences
from bertjax.models.presets import PRESETS
from bertjax.optim import AdamW, OptimConfig
from bertjax.tasks.mlm import Mlm


def config() -> Config:
    """The model settings are those of the run that it starts from."""
    return Config(
        model=dataclasses.replace(PRESETS["base"], init="runs/bert_base"),
        data=DataConfig(corpus="corpora/papers", length=512, format=FullSentences()),
        tasks=(Mlm(),),
        optim=OptimConfig(optimizer=AdamW(b2=0.98), learning_rate=5e-4, warmup_steps=750, weight_decay=0.01),
        train=TrainConfig(steps=12_500, batch_size=2048),
    )


if __name__ == "__main__":
    experiment.main(config())
