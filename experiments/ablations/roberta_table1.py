"""Static against dynamic masking: ten fixed choices for every row, or another one each time it is seen.

Paper: Liu et al., 1907.11692, Section 4.1, Table 1. Its reference row is the published BERT-base.
Command: python -m experiments.ablations.roberta_table1 --row=dynamic --workdir=runs/roberta_table1/dynamic
Cost: 1e6 steps of 256 x 512 slots for each row, 131 billion slots.
Expected: F1 on SQuAD 2.0, accuracy on MNLI-m and SST-2, medians of five runs, as in the rows. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.experiment import Row
from bertjax.optim import AdamW
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from experiments.pretrain import bert_base


def config() -> Config:
    """BERT-base as the paper trains it again: 512 tokens throughout."""
    base = bert_base.config()
    return dataclasses.replace(
        base,
        optim=dataclasses.replace(base.optim, optimizer=AdamW(b2=0.98)),
        train=dataclasses.replace(base.train, phases=()),
    )


def rows() -> dict[str, Row]:
    """Only the number of choices differs."""
    static, dynamic = (
        dataclasses.replace(config(), tasks=(Mlm(duplicates=duplicates), Nsp())) for duplicates in (10, None)
    )
    return {
        "static": Row(static, {"SQuAD 2.0": 78.3, "MNLI-m": 84.3, "SST-2": 92.5}),
        "dynamic": Row(dynamic, {"SQuAD 2.0": 78.7, "MNLI-m": 84.0, "SST-2": 92.9}),
    }


if __name__ == "__main__":
    experiment.main(rows())
