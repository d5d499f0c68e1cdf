"""Sentence-order prediction (ALBERT, 1909.11942, Section 3.1): are two consecutive segments in their order?

The pairs and their labels (0 = in order, 1 = exchanged) come from a pair format with swapped negatives. Topics, by
which most random pairs of next-sentence prediction are told apart, are of no help here.
"""

import dataclasses
from typing import ClassVar

from bertjax.tasks.nsp import PairTask


@dataclasses.dataclass(frozen=True)
class Sop(PairTask):
    """Sentence-order prediction."""

    name: ClassVar[str] = "sop"
    negatives: ClassVar[str] = "swapped"
