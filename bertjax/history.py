"""The evaluations of a run: which is the best, and whether it is time to stop looking for a better one.

All of it follows from the lines of metrics.jsonl up to the step at which a run resumes, so that one which was
interrupted judges as one that was not.
"""

import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

from bertjax.config import TrainConfig
from bertjax.settings import suggest

SAID = ("heldout_", "tokens_seen/")  # beginnings of what an evaluation writes
LOWER = ("loss", "error", "perplexity", "distance")  # ends of names of metrics of which less is better


class History:
    """What was measured on held-out records, in order."""

    def __init__(self, workdir: str, settings: TrainConfig, until: int) -> None:
        """Reads the evaluations up to a step."""
        self.settings = settings
        self.evaluations: list[tuple[int, dict[str, float]]] = []
        path = pathlib.Path(workdir) / "metrics.jsonl"
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
        for line in lines:
            try:
                record: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # a torn last line
            values = {name: _number(value) for name, value in record.items() if name.startswith(SAID)}
            if values and record["step"] <= until:
                self.evaluations.append((record["step"], values))

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """One more evaluation."""
        name = self.settings.best
        if name is not None and name not in values:
            raise ValueError(
                f"train.best={name} is no held-out metric of this run: {suggest(name, list(values))}"
            )
        self.evaluations.append((step, dict(values)))

    @property
    def best(self) -> int | None:
        """The step of the first of the best evaluations; None where none is looked for, or there was none yet."""
        place = self._place()
        return None if place is None or self.settings.best is None else self.evaluations[place][0]

    @property
    def exhausted(self) -> bool:
        """Whether too many evaluations have gone by without a better one."""
        place, patience = self._place(), self.settings.patience
        return patience is not None and place is not None and len(self.evaluations) - 1 - place >= patience

    @property
    def chosen(self) -> tuple[int, dict[str, float]]:
        """Step and values of the evaluation that counts: the best one, or the last."""
        place = self._place()
        assert place is not None, "a run ends with an evaluation"
        return self.evaluations[place]

    def _place(self) -> int | None:
        if not self.evaluations:
            return None
        name = self.settings.best
        if name is None:
            return len(self.evaluations) - 1
        sign = -1.0 if name.endswith(LOWER) else 1.0
        worth = [sign * values.get(name, math.nan) for _, values in self.evaluations]
        worth = [-math.inf if math.isnan(value) else value for value in worth]
        return worth.index(max(worth))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)
