"""An encoder of 1.5 billion parameters, past what was published of BERT, for meshes that split parameters.

Source: sizes in the way of BERT (1810.04805), chosen for meshes: 28 layers of 2048, since a power of two divides over
    every `fsdp` and `tensor`, and heads of 128, the width of a TPU's matrix unit. Norms before the branches, since
    post-norm stacks of that size do not train without a long warm-up (2002.04745). No dropout: it would read its text
    once, and the fused attention kernels have none. Masked words alone, 30 % of them (2202.08005), in full rows.
Command: python -m experiments.pretrain.bert_1b5 --workdir=runs/bert_1b5 --set data.corpus=corpora/wiki_books
Cost: 1e5 steps x 2048 x 512 slots, 1e21 operations; README says what a step needs on TPU pods.
Expected: nothing published. Not run here.
"""

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.packing import BestFit
from bertjax.layers.config import EncoderConfig
from bertjax.optim import Cosine, OptimConfig
from bertjax.sharding import MeshConfig
from bertjax.tasks.mlm import Mlm


def config() -> Config:
    """Split over 16 devices by default; every layer is computed again in the backward pass."""
    return Config(
        model=EncoderConfig(
            layers=28,
            width=2048,
            heads=16,
            block="pre",
            dropout=0.0,
            attention_dropout=0.0,
            init_scheme="depth",
            dtype="bfloat16",
            scan=True,
            remat="block",
        ),
        data=DataConfig(corpus="corpora/wiki_books", format=BestFit(), length=512),
        tasks=(Mlm(rate=0.3),),
        optim=OptimConfig(
            learning_rate=2e-4, warmup_steps=4_000, weight_decay=0.1, schedule=Cosine(final=0.1)
        ),
        mesh=MeshConfig(fsdp=16, rules="fsdp"),
        train=TrainConfig(steps=100_000, batch_size=2048),
    )


if __name__ == "__main__":
    experiment.main(config())
