"""What makes ELECTRA learn faster: a loss over all tokens, or no [MASK] in the input?

Paper: Clark et al., 2003.10555, Section 3.5, Table 5.
Command: python -m experiments.ablations.electra_table5 --row=all_tokens_mlm --workdir=runs/electra_table5/all_tokens
Cost: 766,000 steps of 256 x 512 slots for each row, 100 billion slots; all_tokens_mlm needs logits for each of them.
Expected: GLUE as in the rows. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.experiment import Row
from bertjax.tasks.base import Task
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.restore import Restore
from bertjax.tasks.rtd import Rtd
from experiments.pretrain import electra_base

GENERATOR = electra_base.config().tasks[0]
ROWS: dict[str, tuple[tuple[Task, ...], float]] = {
    "electra": ((GENERATOR, Rtd(weight=50.0)), 85.0),
    "all_tokens_mlm": ((GENERATOR, Restore(over="all")), 84.3),
    "replace_mlm": ((GENERATOR, Restore(over="hidden")), 82.4),
    "electra_15": ((GENERATOR, Rtd(weight=50.0, over="hidden")), 82.4),
    "bert": ((Mlm(),), 82.2),
}


def config() -> Config:
    """ELECTRA-base."""
    return electra_base.config()


def rows() -> dict[str, Row]:
    """Only the objective differs."""
    return {
        name: Row(dataclasses.replace(config(), tasks=tasks), {"GLUE": score})
        for name, (tasks, score) in ROWS.items()
    }


if __name__ == "__main__":
    experiment.main(rows())
