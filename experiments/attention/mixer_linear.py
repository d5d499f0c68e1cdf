"""One learned matrix over tokens, the same for every row.

Paper: Lee-Thorp et al., 2105.03824, Section 3 (Linear).
Command: python -m experiments.attention.mixer_linear --workdir=runs/attention/mixer_linear
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 9.8% of held-out masked
words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.mixer import Mixer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """A matrix over tokens and one over the width."""
    return around(Mixer())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
