"""Attention weights that each token makes up alone.

Paper: Tay et al., 2005.00743.
Command: python -m experiments.attention.synthesizer_dense --workdir=runs/attention/synthesizer_dense
Cost: about that of the base, experiments/attention/full.py.
Expected: Long Range Arena average 52.88 against 54.39 for full attention (2011.04006). Here, in the sweep at
equal parameters, 11.1% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.synthesizer import Synthesizer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Scores by a small network over each token."""
    return around(Synthesizer(kinds=("dense",)))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
