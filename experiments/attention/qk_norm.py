"""Queries and keys of unit length, with a learned temperature.

Paper: Henry et al., 2010.04245.
Command: python -m experiments.attention.qk_norm --workdir=runs/attention/qk_norm
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Not run here.
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
