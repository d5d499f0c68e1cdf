"""One random matrix over tokens, never trained.

Paper: Lee-Thorp et al., 2105.03824, Section 3 (Random).
Command: python -m experiments.attention.mixer_random --workdir=runs/attention/mixer_random
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 9.9% of held-out masked
words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.mixer import Mixer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Matrices that stay what was drawn, others in each layer."""
    return around(Mixer(matrices="random", draws=4))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
