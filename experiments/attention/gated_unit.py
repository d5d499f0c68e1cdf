"""A gated attention unit in place of attention and feed-forward part.

Paper: Hua et al., 2202.10447 (FLASH).
Command: python -m experiments.attention.gated_unit --workdir=runs/attention/gated_unit
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 15.1% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.gated_unit import GatedUnit
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Every pair of tokens, by one head."""
    return around(GatedUnit(size=32))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
