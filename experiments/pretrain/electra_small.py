"""ELECTRA-small: which tokens has a generator of a quarter of the size replaced?

Paper: Clark et al., 2003.10555, Sections 2 and 3.3, Table 6.
Command: python -m experiments.pretrain.electra_small --workdir=runs/electra_small --set data.corpus=corpora/wiki_books
Cost: 1e6 steps of 128 x 128 slots, 16 billion slots; 4 days on one of the paper's GPUs.
Expected: GLUE 79.9, against 75.1 for a BERT of this size (Table 1). Not run here.
"""

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.pairs import SegmentPair
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig
from bertjax.tasks.generator import Generator
from bertjax.tasks.rtd import Rtd


def config() -> Config:
    """Embeddings of 128, shared between generator and discriminator; pairs of segments without a label."""
    return Config(
        model=EncoderConfig(layers=12, width=256, heads=4, embedding_width=128),
        data=DataConfig(corpus="corpora/wiki_books", length=128, format=SegmentPair(negatives="none")),
        tasks=(Generator(size=0.25), Rtd(weight=50.0)),
        optim=OptimConfig(learning_rate=5e-4, warmup_steps=10_000, weight_decay=0.01),
        train=TrainConfig(steps=1_000_000, batch_size=128),
    )


if __name__ == "__main__":
    experiment.main(config())
