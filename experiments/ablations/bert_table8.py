"""What stands where a word is hidden: shares of [MASK], of the word itself, and of random words.

Paper: Devlin et al., 1810.04805, Appendix C.2, Table 8.
Command: python -m experiments.ablations.bert_table8 --row=mask_80_same_10_random_10 --workdir=runs/bert_table8/80_10_10
Cost: that of BERT-base for each row, 43 billion token slots.
Expected: dev accuracy on MNLI, dev F1 on named entities, fine-tuned and feature-based, as in the rows. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.experiment import Row
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from experiments.pretrain import bert_base

PUBLISHED = {  # percent of [MASK], same, random
    (80, 10, 10): (84.2, 95.4, 94.9),
    (100, 0, 0): (84.3, 94.9, 94.0),
    (80, 0, 20): (84.1, 95.2, 94.6),
    (80, 20, 0): (84.4, 95.2, 94.7),
    (0, 20, 80): (83.7, 94.8, 94.6),
    (0, 0, 100): (83.6, 94.9, 94.6),
}


def config() -> Config:
    """BERT's own shares."""
    return bert_base.config()


def rows() -> dict[str, Row]:
    """Only the shares differ."""
    metrics, table = ("MNLI", "NER", "NER as features"), {}
    for (mask, same, random), found in PUBLISHED.items():
        tasks = (Mlm(mask=mask / 100, random=random / 100, duplicates=10), Nsp())
        name = f"mask_{mask}_same_{same}_random_{random}"
        changed = dataclasses.replace(config(), tasks=tasks)
        table[name] = Row(changed, dict(zip(metrics, found, strict=True)))
    return table


if __name__ == "__main__":
    experiment.main(rows())
