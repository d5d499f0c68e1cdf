"""A sliding window: each token sees 8 others on either side.

Paper: Beltagy et al., 2004.05150, Section 3.1.
Command: python -m experiments.attention.window --workdir=runs/attention/window
Cost: about that of the base, experiments/attention/full.py.
Expected: Long Range Arena average 46.06 for local attention against 54.39 for full attention (2011.04006).
Here, in the sweep at equal parameters, 18.8% of held-out masked words; full attention had 16.4%.
"""

from bertjax import experiment
from bertjax.attention.window import Window
from bertjax.config import Config
from experiments.attention.full import around, prepare


def config() -> Config:
    """A window of a quarter of the row."""
    return around(Window(size=16))


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare)
