"""Attention weights that are parameters of low rank.

Paper: Tay et al., 2005.00743.
Command: python -m experiments.attention.synthesizer_factorised --workdir=runs/attention/synthesizer_factorised
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 11.0% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.synthesizer import Synthesizer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """The matrix of scores as a product of two narrow ones."""
    return around(Synthesizer(kinds=("factorised_random",)))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
