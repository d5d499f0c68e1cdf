"""Heads that exchange scores and weights.

Paper: Shazeer et al., 2003.02436.
Command: python -m experiments.attention.talking_heads --workdir=runs/attention/talking_heads
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 16.2% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.talking_heads import TalkingHeads
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """A matrix over heads before the softmax and one after it."""
    return around(TalkingHeads())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
