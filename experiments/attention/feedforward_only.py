"""No exchange between tokens at all: what the rest is worth.

Paper: Lee-Thorp et al., 2105.03824, Section 3 (FF-only).
Command: python -m experiments.attention.feedforward_only --workdir=runs/attention/feedforward_only
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 11.2% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.feedforward_only import FeedforwardOnly
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Each token sees itself."""
    return around(FeedforwardOnly())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
