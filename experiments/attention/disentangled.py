"""Content and relative position as separate vectors.

Paper: He et al., 2006.03654 (DeBERTa); shared projections as in v3, 2111.09543.
Command: python -m experiments.attention.disentangled --workdir=runs/attention/disentangled
Cost: about that of the base, experiments/attention/full.py.
Expected: MNLI-m 86.3 for DeBERTa-base against 84.9 for its RoBERTa (Table 4 of the paper). Here, in the sweep
at equal parameters, 19.3% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.disentangled import Disentangled
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Two products with distances beside that of content."""
    return around(Disentangled())


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
