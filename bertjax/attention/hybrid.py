"""Hybrid stacks: a few layers of one attention among many of another (FNet-Hybrid, 2105.03824, Section 4).

    bottom   the first `number` layers are `guest`       top     the last
    mixed    they are spread evenly                      every   every n-th layer, the last of each n

and the others are `body`. Cost: that of the layers. What the stack can do (packing, causality, positions) is what both
kinds can do. With `every` the pattern is a period that scans over any depth; the other layouts are groups of equal
layers, each scanned.
"""

import dataclasses
from typing import Literal

from bertjax.attention.base import Attention
from bertjax.attention.fourier import Fourier
from bertjax.layers.config import AttentionOptions, Full, Layout, runs


@dataclasses.dataclass(frozen=True)
class Hybrid(AttentionOptions):
    """Layers of two kinds: FNet with some attention, unless told otherwise."""

    body: AttentionOptions = Fourier()
    """What most layers do."""
    guest: AttentionOptions = Full()
    """What the few do."""
    place: Literal["bottom", "mixed", "top", "every"] = "top"
    """Where the few stand."""
    number: int = 2
    """How many they are; with place=every, their distance."""

    def __post_init__(self) -> None:
        """Refuses a hybrid of nothing, or of layers that have patterns of their own."""
        if self.number < 1:
            raise ValueError(f"model.attention.number={self.number}: 1 or more")
        for name in ("body", "guest"):
            if len(getattr(self, name).period()) > 1 or isinstance(getattr(self, name), Hybrid):
                raise ValueError(
                    f"model.attention.{name} is itself a pattern of layers: choose one with a single kind of layer"
                )

    def layout(self, layers: int) -> Layout:
        """The kinds of all layers, equal neighbours grouped."""
        if self.place == "every":
            return super().layout(layers)
        if self.number > layers:
            raise ValueError(f"model.attention.number={self.number} is more than model.layers={layers}")
        where = {
            "bottom": range(self.number),
            "top": range(layers - self.number, layers),
            "mixed": [(i + 1) * layers // self.number - 1 for i in range(self.number)],
        }[self.place]
        return runs([self.guest if layer in where else self.body for layer in range(layers)])

    def period(self) -> tuple[AttentionOptions, ...]:
        """One guest after number - 1 others, where the pattern repeats; otherwise `layout` says it all."""
        return (*(self.body,) * (self.number - 1), self.guest) if self.place == "every" else (self,)


class HybridAttention(Attention):
    """Stands in the registry only: each layer is one of `Hybrid.layout()`."""
