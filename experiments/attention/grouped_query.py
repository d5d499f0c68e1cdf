"""Pairs of heads that share their keys and values.

Paper: Ainslie et al., 2305.13245.
Command: python -m experiments.attention.grouped_query --workdir=runs/attention/grouped_query
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 16.0% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.grouped_query import GroupedQuery
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Two heads of keys and values for four of queries."""
    return around(GroupedQuery(groups=2))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
