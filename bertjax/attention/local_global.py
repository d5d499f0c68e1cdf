"""Local and global layers in turn: full attention, then sliding windows (ModernBERT, 2412.13663).

    layer l:  full attention                 if l mod every = 0
              window of `size`, RoPE base local_base   otherwise

Cost: one layer in `every` is O(L²), the others O(L size). Where positions are rotated (model.position=rope), global
layers use model.position.base (ModernBERT: 160000) and local ones local_base (10000). Other position schemes treat
all layers alike.
"""

import dataclasses

from bertjax.attention.full import FullAttention
from bertjax.attention.window import Window
from bertjax.layers.config import AttentionOptions, Backend, Full


@dataclasses.dataclass(frozen=True)
class LocalGlobal(AttentionOptions):
    """Full attention in every n-th layer, a sliding window in the others."""

    every: int = 3
    """Distance between layers of full attention; the first layer is one."""
    size: int = 128
    """Width of the window of the others, both sides together."""
    local_base: float | None = 10_000.0
    """RoPE base of the layers with a window; none means that of the others, model.position.base."""
    backend: Backend = "auto"
    """Implementation of both kinds of layer."""

    def __post_init__(self) -> None:
        """Refuses a pattern that is no pattern."""
        if self.every < 1:
            raise ValueError(f"model.attention.every={self.every}: 1 or more; 1 is full attention everywhere")
        self.period()  # the window checks its size

    def period(self) -> tuple[AttentionOptions, ...]:
        """A global layer, then the local ones."""
        local = Window(size=self.size, base=self.local_base, backend=self.backend)
        return (Full(backend=self.backend), *(local,) * (self.every - 1))


class LocalGlobalAttention(FullAttention):
    """Stands in the registry only: each layer is one of `LocalGlobal.period()`."""

    options: LocalGlobal  # type: ignore[assignment]
