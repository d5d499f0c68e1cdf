"""Local layers with a global one in three.

Paper: Warner et al., 2412.13663 (ModernBERT).
Command: python -m experiments.attention.local_global --workdir=runs/attention/local_global
Cost: about that of the base, experiments/attention/full.py.
Expected: GLUE 88.4 for ModernBERT-base, whose attention this is. Here, in the sweep at equal parameters,
17.9% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.local_global import LocalGlobal
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Layers one and four see everything."""
    return around(LocalGlobal(every=3, size=16))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
