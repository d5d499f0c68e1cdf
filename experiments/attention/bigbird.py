"""Blocks of keys: near, first and last, and two at random.

Paper: Zaheer et al., 2007.14062.
Command: python -m experiments.attention.bigbird --workdir=runs/attention/bigbird
Cost: about that of the base, experiments/attention/full.py.
Expected: Long Range Arena average 55.01 against 54.39 for full attention (2011.04006). Here, in the sweep at
equal parameters, 18.3% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.bigbird import BigBird
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Sixteen blocks a row, of which each sees up to seven."""
    return around(BigBird(block=4, random=2))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
