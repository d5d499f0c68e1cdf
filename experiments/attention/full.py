"""The base of these experiments: softmax attention in a small encoder, on the text of the quickstart.

Four layers of pre-norm blocks read whole rows of 128 tokens of the interpreter's documentation and learn masked words.
The other files put another attention into it with `around`, and leave everything else as it is; `sweep` compares.

Paper: Vaswani et al., 1706.03762.
Command: python -m experiments.attention.full --workdir=runs/attention/full
Cost: 3.6 GFLOP a step, 1500 steps: some three minutes on two CPU cores that do nothing else.
Expected: above 12.2% of held-out masked words right, which is where 600 steps ended here. Not run to its end here.
"""

import dataclasses
import pathlib
from typing import Any

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.singles import FullSentences
from bertjax.layers.config import AttentionOptions, EncoderConfig, Full
from bertjax.optim import OptimConfig
from bertjax.tasks.mlm import Mlm
from experiments import quickstart


def around(attention: AttentionOptions, **model: Any) -> Config:
    """The base with another attention, and what that attention asks of the rest of the model."""
    base = EncoderConfig(
        layers=4,
        width=64,
        heads=4,
        block="pre",
        vocab=8192,
        max_length=128,
        init_std=0.1,
        dropout=0.0,
        attention_dropout=0.0,
        scan=True,
        attention=attention,
    )
    return Config(
        model=dataclasses.replace(base, **model),
        data=DataConfig(format=FullSentences(), length=128),
        tasks=(Mlm(),),
        optim=OptimConfig(learning_rate=2e-3, warmup_steps=100),
        train=TrainConfig(steps=1500, batch_size=16, log_every=50, eval_every=None, checkpoint_every=500),
    )


def config() -> Config:
    """Every token attends to every other."""
    return around(Full())


def prepare(config: Config, workdir: str) -> Config:
    """The quickstart's tokenizer and corpus, made once beside the workdir, unless --set data.corpus names another."""
    if config.data.corpus != DataConfig().corpus:
        return config
    return quickstart.prepare(config, str(pathlib.Path(workdir).parent))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
