"""BERT-large as published: 24 layers of 1024, masked words and next sentences, 256 rows, a million steps.

Paper: Devlin et al., 1810.04805, Section 3 and Appendix A.2.
Command: python -m experiments.pretrain.bert_large --workdir=runs/bert_large --set data.corpus=corpora/wiki_books
Cost: 1e6 steps x 256 x 512 slots, 4 days on the paper's 64 TPU chips at 128 tokens for most of them.
Expected: masked-LM perplexity 3.23, MNLI-m 86.6 (Table 6). Not run here; README says what it needs on TPU pods.
"""

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.models.presets import PRESETS
from bertjax.optim import OptimConfig


def config() -> Config:
    """The paper's recipe at 512 tokens."""
    return Config(
        model=PRESETS["large"],
        data=DataConfig(corpus="corpora/wiki_books", length=512),
        optim=OptimConfig(learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.01),
        train=TrainConfig(steps=1_000_000, batch_size=256),
    )


if __name__ == "__main__":
    experiment.main(config())
