"""Fourier mixing with attention in the first layer.

Paper: Lee-Thorp et al., 2105.03824, Section 4 (FNet-Hybrid).
Command: python -m experiments.attention.hybrid_bottom --workdir=runs/attention/hybrid_bottom
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 8.9% of held-out masked
words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.hybrid import Hybrid
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """One layer of four attends."""
    return around(Hybrid(place="bottom", number=1))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
