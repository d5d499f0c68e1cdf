"""BERT-base as published: masked words and next sentences, 128 tokens for 90 % of a million steps, then 512.

Paper: Devlin et al., 1810.04805, Appendix A.2.
Command: python -m experiments.pretrain.bert_base --workdir=runs/bert_base --set data.corpus=corpora/wiki_books
Cost: 1e6 steps of 256 rows, 43 billion token slots; 4 days on the paper's 16 TPU chips.
Expected: masked-LM perplexity 3.99 (Table 6), MNLI-m 84.4 (Table 5), SQuAD 1.1 dev F1 88.5 (Table 2). Not run here.
"""

from bertjax import experiment
from bertjax.config import Config, DataConfig, Phase, TrainConfig
from bertjax.models.presets import PRESETS
from bertjax.optim import OptimConfig
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp


def config() -> Config:
    """The paper's recipe; its data were written ten times, each time with other words hidden."""
    return Config(
        model=PRESETS["base"],
        data=DataConfig(corpus="corpora/wiki_books", length=512),
        tasks=(Mlm(duplicates=10), Nsp()),
        optim=OptimConfig(learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01),
        train=TrainConfig(
            steps=1_000_000, batch_size=256, phases=(Phase(until=900_000, length=128, batch_size=256),)
        ),
    )


if __name__ == "__main__":
    experiment.main(config())
