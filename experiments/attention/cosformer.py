"""Attention without a softmax, weighted by a cosine of the distance.

Paper: Qin et al., 2202.08791.
Command: python -m experiments.attention.cosformer --workdir=runs/attention/cosformer
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 11.3% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.cosformer import Cosformer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """ReLU features that prefer what is near."""
    return around(Cosformer())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
