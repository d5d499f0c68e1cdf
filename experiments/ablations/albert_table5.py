"""A second objective beside masked words: none, next sentences, or the order of sentences.

Paper: Lan et al., 1909.11942, Section 4.6, Table 5.
Command: python -m experiments.ablations.albert_table5 --row=sop --workdir=runs/albert_table5/sop
Cost: 125,000 steps of 4096 x 512 slots for each row, 262 billion slots.
Expected: average of five tasks, accuracy on MNLI and RACE, F1 on SQuAD 2.0, and accuracy on the order of sentences, for
which the other rows get a head afterwards, as in the rows. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.pairs import Negatives, SegmentPair
from bertjax.experiment import Row
from bertjax.tasks.base import Task
from bertjax.tasks.nsp import Nsp
from bertjax.tasks.sop import Sop
from experiments.pretrain import albert_base

ROWS: dict[str, tuple[Negatives, tuple[Task, ...], tuple[float, ...]]] = {
    "none": ("none", (), (79.0, 81.5, 61.7, 78.1, 53.3)),
    "nsp": ("random", (Nsp(),), (79.2, 81.6, 62.3, 77.2, 52.0)),
    "sop": ("swapped", (Sop(),), (80.1, 82.0, 64.0, 80.0, 86.5)),
}


def config() -> Config:
    """ALBERT-base, with the order of sentences."""
    return albert_base.config()


def rows() -> dict[str, Row]:
    """The second objective, and the pairs that it needs."""
    base, metrics, table = config(), ("average", "MNLI", "RACE", "SQuAD 2.0", "order"), {}
    for name, (negatives, more, found) in ROWS.items():
        data = dataclasses.replace(base.data, format=SegmentPair(negatives=negatives))
        changed = dataclasses.replace(base, data=data, tasks=(base.tasks[0], *more))
        table[name] = Row(changed, dict(zip(metrics, found, strict=True)))
    return table


if __name__ == "__main__":
    experiment.main(rows())
