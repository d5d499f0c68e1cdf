"""One head of keys and values for all queries.

Paper: Shazeer, 1911.02150.
Command: python -m experiments.attention.multi_query --workdir=runs/attention/multi_query
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 16.7% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.grouped_query import GroupedQuery
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """A single group."""
    return around(GroupedQuery(groups=1))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
