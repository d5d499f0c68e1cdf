"""How large the generator of ELECTRA should be, from a sixth of the discriminator to all of it.

Paper: Clark et al., 2003.10555, Section 3.2, Figure 3 (left).
Command: python -m experiments.ablations.electra_generator --row=size_4_of_12 --workdir=runs/electra_generator/4
Cost: 500,000 steps of 256 x 512 slots for each row, 66 billion slots.
Expected: the figure has no numbers in print; GLUE is best at a quarter to a half of the discriminator. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.experiment import Row
from bertjax.tasks.generator import Generator
from bertjax.tasks.rtd import Rtd
from experiments.pretrain import electra_base


def config() -> Config:
    """ELECTRA-base for half a million steps."""
    base = electra_base.config()
    return dataclasses.replace(base, train=dataclasses.replace(base.train, steps=500_000))


def rows() -> dict[str, Row]:
    """Sizes in heads of the generator, of the twelve of the discriminator."""
    heads = config().model.heads
    return {
        f"size_{size}_of_{heads}": Row(
            dataclasses.replace(config(), tasks=(Generator(size=size / heads), Rtd(weight=50.0)))
        )
        for size in (2, 3, 4, 6, 9, 12)
    }


if __name__ == "__main__":
    experiment.main(rows())
