"""SpanBERT: hidden spans, each token of them predicted from its place and from the two ends of the span.

Paper: Joshi et al., 1907.10529, Section 4. The published numbers are of BERT-large's size: --set model=large.
Command: python -m experiments.pretrain.spanbert_base --workdir=runs/spanbert --set data.corpus=corpora/wiki_books_cased
Cost: 2.4e6 steps of 256 x 512 slots, 315 billion slots; 15 days on the paper's 32 V100 GPUs for the large one.
Expected (large, 1.2e6 steps): SQuAD 2.0 F1 86.8, MNLI-m 87.6, QNLI 93.9 (Table 7). Not run here.
"""

from bertjax import experiment
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.singles import DocSentences
from bertjax.models.presets import PRESETS
from bertjax.optim import AdamW, OptimConfig
from bertjax.tasks.masking import Span
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.sbo import Sbo


def config() -> Config:
    """Rows of one document, no next sentences, no short rows."""
    return Config(
        model=PRESETS["base"],
        data=DataConfig(corpus="corpora/wiki_books_cased", length=512, format=DocSentences()),
        tasks=(Mlm(masking=Span()), Sbo()),
        optim=OptimConfig(
            optimizer=AdamW(epsilon=1e-8), learning_rate=1e-4, warmup_steps=10_000, weight_decay=0.1
        ),
        train=TrainConfig(steps=2_400_000, batch_size=256),
    )


if __name__ == "__main__":
    experiment.main(config())
