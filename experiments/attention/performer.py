"""Softmax attention estimated with random features.

Paper: Choromanski et al., 2009.14794.
Command: python -m experiments.attention.performer --workdir=runs/attention/performer
Cost: about that of the base, experiments/attention/full.py.
Expected: Long Range Arena average 51.41 against 54.39 for full attention (2011.04006). Here, in the sweep at
equal parameters, 12.5% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.performer import Performer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """K log K features, drawn anew every hundred steps."""
    return around(Performer(features=64, redraw=100))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
