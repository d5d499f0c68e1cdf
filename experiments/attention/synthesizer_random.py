"""Attention weights that are parameters, the same for all rows.

Paper: Tay et al., 2005.00743.
Command: python -m experiments.attention.synthesizer_random --workdir=runs/attention/synthesizer_random
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 11.2% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.synthesizer import Synthesizer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """A learned matrix of scores for each head."""
    return around(Synthesizer(kinds=("random",)))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
