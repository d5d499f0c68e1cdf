"""A Fourier transform in the place of attention.

Paper: Lee-Thorp et al., 2105.03824 (FNet).
Command: python -m experiments.attention.fourier --workdir=runs/attention/fourier
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 7.5% of held-out masked
words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.fourier import Fourier
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Nothing is learned here."""
    return around(Fourier())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
