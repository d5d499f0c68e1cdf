"""BERT-large as published: the recipe of BERT-base at 24 layers of width 1024.

Paper: Devlin et al., 1810.04805, Section 3 and Appendix A.2.
Command: python -m experiments.pretrain.bert_large --workdir=runs/bert_large --set data.corpus=corpora/wiki_books
Cost: 1e6 steps of 256 rows, 43 billion token slots; 4 days on the paper's 64 TPU chips.
Expected: masked-LM perplexity 3.23, MNLI-m 86.6 (Table 6), SQuAD 1.1 dev F1 90.9 (Table 2). Not run here; README
says what it needs on TPU pods.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.models.presets import PRESETS
from experiments.pretrain import bert_base


def config() -> Config:
    """Another size, nothing else."""
    return dataclasses.replace(bert_base.config(), model=PRESETS["large"])


if __name__ == "__main__":
    experiment.main(config())
