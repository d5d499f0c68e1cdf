"""Attention without a softmax, with features elu(x) + 1.

Paper: Katharopoulos et al., 2006.16236.
Command: python -m experiments.attention.linear --workdir=runs/attention/linear
Cost: about that of the base, experiments/attention/full.py.
Expected: Long Range Arena average 50.55 against 54.39 for full attention (2011.04006). Here, in the sweep at
equal parameters, 13.0% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.linear import Linear
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Features of the size of a head."""
    return around(Linear())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
