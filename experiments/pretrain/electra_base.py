"""ELECTRA-base: replaced tokens found by an encoder of BERT-base's size, beside a generator of a third of it.

Paper: Clark et al., 2003.10555, Section 3 and Appendix A.
Command: python -m experiments.pretrain.electra_base --workdir=runs/electra_base --set data.corpus=corpora/wiki_books
Cost: 766,000 steps of 256 x 512 slots, 100 billion slots.
Expected: GLUE 85.0, against 82.2 for BERT-base trained alike (Table 5). Not run here.
"""

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.pairs import SegmentPair
from bertjax.models.presets import PRESETS
from bertjax.optim import OptimConfig
from bertjax.tasks.generator import Generator
from bertjax.tasks.rtd import Rtd


def config() -> Config:
    """Four of twelve heads for the generator."""
    return Config(
        model=PRESETS["base"],
        data=DataConfig(corpus="corpora/wiki_books", length=512, format=SegmentPair(negatives="none")),
        tasks=(Generator(size=1 / 3), Rtd(weight=50.0)),
        optim=OptimConfig(learning_rate=2e-4, warmup_steps=10_000, weight_decay=0.01),
        train=TrainConfig(steps=766_000, batch_size=256),
    )


if __name__ == "__main__":
    experiment.main(config())
