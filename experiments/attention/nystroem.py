"""Softmax attention through landmarks.

Paper: Xiong et al., 2102.03902.
Command: python -m experiments.attention.nystroem --workdir=runs/attention/nystroem
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 17.6% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.nystroem import Nystroem
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Sixteen landmarks a row, and a short convolution of the values."""
    return around(Nystroem(landmarks=16, convolution=17))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
