"""Which parameters the layers may have in common, with embeddings of 768 and of 128.

Paper: Lan et al., 1909.11942, Section 4.5, Table 4.
Command: python -m experiments.ablations.albert_table4 --row=width_128_ffn --workdir=runs/albert_table4/128_ffn
Cost: 125,000 steps of 4096 x 512 slots for each row, 262 billion slots.
Expected: average of five tasks as in the rows. Not run here.
"""

import dataclasses
from typing import Literal

from bertjax import experiment
from bertjax.config import Config
from bertjax.experiment import Row
from experiments.pretrain import albert_base

AVERAGES: dict[int, dict[Literal["none", "attention", "ffn", "all"], float]] = {
    768: {"all": 79.8, "attention": 81.6, "ffn": 79.5, "none": 82.3},
    128: {"all": 80.1, "attention": 81.7, "ffn": 80.2, "none": 81.6},
}


def config() -> Config:
    """ALBERT-base: everything shared, embeddings of 128."""
    return albert_base.config()


def rows() -> dict[str, Row]:
    """Only sharing and the width of the embeddings differ."""
    base, table = config(), {}
    for width, averages in AVERAGES.items():
        for sharing, average in averages.items():
            own = None if width == base.model.width else width
            model = dataclasses.replace(base.model, embedding_width=own, sharing=sharing)
            table[f"width_{width}_{sharing}"] = Row(
                dataclasses.replace(base, model=model), {"average": average}
            )
    return table


if __name__ == "__main__":
    experiment.main(rows())
