"""How many words to hide: 15 to 80 %, all by [MASK], and two rates with BERT's shares of random and kept words.

Paper: Wettig et al., 2202.08005 (numbers: README of its repository, models efficient_mlm_m0.15 ... m0.80), with the
recipe of Izsak et al., 2104.07705: BERT-large with the norm first, 128 tokens, batches of 4096.
Command: python -m experiments.ablations.mask_rates --row=rate_40 --workdir=runs/mask_rates/40
Cost: 23,000 steps of 4096 x 128 slots for each row, 12 billion slots; a day on 8 GPUs.
Expected: dev accuracy on MNLI, QNLI, QQP and SST-2 as in the rows: best at 40 %. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.singles import FullSentences
from bertjax.experiment import Row
from bertjax.models.presets import PRESETS
from bertjax.optim import OptimConfig
from bertjax.tasks.mlm import Mlm

PUBLISHED = {
    "rate_15": (84.2, 90.9, 87.8, 93.3),
    "rate_20": (84.1, 91.3, 87.9, 92.7),
    "rate_30": (84.2, 91.6, 88.0, 93.0),
    "rate_40": (84.5, 91.6, 88.1, 92.8),
    "rate_50": (84.1, 91.1, 88.1, 92.7),
    "rate_60": (83.2, 90.7, 87.8, 92.6),
    "rate_70": (82.3, 89.4, 87.5, 91.9),
    "rate_80": (80.8, 87.9, 87.1, 90.5),
    "rate_15_80_10_10": (83.7, 90.4, 87.8, 93.2),
    "rate_40_80_10_10": (84.3, 91.2, 87.9, 93.0),
}


def config() -> Config:
    """15 %, all of them [MASK]."""
    return Config(
        model=dataclasses.replace(PRESETS["large"], block="pre"),
        data=DataConfig(corpus="corpora/wiki_books", length=128, format=FullSentences()),
        tasks=(Mlm(rate=0.15, mask=1.0, random=0.0),),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=1380, weight_decay=0.01),
        train=TrainConfig(steps=23_000, batch_size=4096),
    )


def rows() -> dict[str, Row]:
    """The rate is in the name, and where words are not all masked, so are the shares."""
    metrics, table = ("MNLI", "QNLI", "QQP", "SST-2"), {}
    for name, found in PUBLISHED.items():
        rate, mixed = int(name.split("_")[1]) / 100, name.endswith("80_10_10")
        task = Mlm(rate=rate) if mixed else Mlm(rate=rate, mask=1.0, random=0.0)
        changed = dataclasses.replace(config(), tasks=(task,))
        table[name] = Row(changed, dict(zip(metrics, found, strict=True)))
    return table


if __name__ == "__main__":
    experiment.main(rows())
