"""Queries and keys of unit length, with a learned temperature.

Paper: Henry et al., 2010.04245.
Command: python -m experiments.attention.qk_norm --workdir=runs/attention/qk_norm
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 16.7% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.qk_norm import QkNorm
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Scores that cannot grow."""
    return around(QkNorm())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
