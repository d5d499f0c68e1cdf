"""Keys and values compressed to a quarter of the row.

Paper: Wang et al., 2006.04768.
Command: python -m experiments.attention.linformer --workdir=runs/attention/linformer
Cost: about that of the base, experiments/attention/full.py.
Expected: Long Range Arena average 51.36 against 54.39 for full attention (2011.04006). Here, in the sweep at
equal parameters, 12.5% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.linformer import Linformer
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """One compression for keys and one for values, for all heads."""
    return around(Linformer(rank=16))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
