"""A gated attention unit in chunks, with a linear sum over the rest.

Paper: Hua et al., 2202.10447 (FLASH).
Command: python -m experiments.attention.gated_unit_chunked --workdir=runs/attention/gated_unit_chunked
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 15.2% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.gated_unit import GatedUnit
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Pairs inside chunks of a quarter of the row."""
    return around(GatedUnit(form="chunked", size=32, chunk=16))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
