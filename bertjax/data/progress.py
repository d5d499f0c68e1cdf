"""How far a pass over the sources is: a bar on a terminal, a line now and then anywhere else."""

import sys
import time
from typing import Any, Self

__all__ = ["Progress"]

SECONDS_BETWEEN_LINES = 10.0
SECONDS_WORTH_A_LINE = 2.0  # what is over sooner goes unsaid


class Progress:
    """Megabytes done, their rate, and the time left; all of it on standard error."""

    def __init__(self, label: str, total: int | None) -> None:
        self.label, self.total, self.done = label, total, 0
        self._start = self._said = time.monotonic()
        self._bar: Any = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(desc=label, total=total, unit="B", unit_scale=True, dynamic_ncols=True)

    def add(self, amount: int) -> None:
        """Counts bytes of input as done."""
        self.done += amount
        if self._bar is not None:
            self._bar.update(amount)
        elif time.monotonic() - self._said > SECONDS_BETWEEN_LINES:
            self._said = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """The state in words."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        rate = self.done / seconds
        text = f"{self.label}: {self.done / 1e6:,.0f} MB"
        if self.total:
            text += f" of {self.total / 1e6:,.0f} MB"
        text += f", {rate / 1e6:.1f} MB/s"
        if self.total and rate:
            left = max(self.total - self.done, 0) / rate
            text += f", {left / 60:.0f} min left" if left >= 90 else f", {left:.0f} s left"
        return text

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Ends the bar, or says the last line."""
        if self._bar is not None:
            self._bar.close()
        elif time.monotonic() - self._start > SECONDS_WORTH_A_LINE:
            print(self.line().split(", 0 s left")[0], file=sys.stderr, flush=True)
