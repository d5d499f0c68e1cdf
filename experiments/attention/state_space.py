"""A state that runs over the row from the left, and one from the right.

Paper: Hwang et al., 2407.09941 (Hydra), of Dao and Gu's Mamba-2, 2405.21060.
Command: python -m experiments.attention.state_space --workdir=runs/attention/state_space
Cost: about that of the base, experiments/attention/full.py.
Expected: No number is published at this size. Here, in the sweep at equal parameters, 14.7% of held-out
masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.state_space import StateSpace
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """Sixteen numbers of state a channel."""
    return around(StateSpace(state=16))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
