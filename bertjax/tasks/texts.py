"""One text or two as rows, for the tasks that judge them whole.

A text that is longer than a row is cut to its beginning (of a pair the longer text first); or, with `stride`, read in
chunks that overlap by as many tokens, each an example of its own, whose predictions are pooled: their mean, or of each
class the largest (of one that is decided by a single place in a text). An empty text gives a row of special tokens, and
of a text of a million characters only what fits is read.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from bertjax.data.labelled.examples import LabelledExamples, Row
from bertjax.data.labelled.split import Split
from bertjax.data.labelled.template import Template, windows
from bertjax.data.subword import Tokenizer
from bertjax.tasks.scored import ScoredTask

CHUNK = 1024  # records that are tokenised at a time


@dataclasses.dataclass(frozen=True)
class TextTask(ScoredTask):
    """Judges a text or a pair of texts."""

    text: str = "text"
    """Column of the text."""
    pair: str | None = None
    """Column of a second text; none where there is only one."""
    label: str = "label"
    """Column of what is to be learned."""
    stride: int | None = None
    """Tokens that the chunks of a long text share; none reads the beginning only."""
    chunks: Literal["mean", "max"] = "mean"
    """How the predictions for its chunks become one."""

    def __post_init__(self) -> None:
        """Refuses an overlap that is none."""
        super().__post_init__()
        if self.stride is not None and self.stride < 0:
            raise ValueError(
                f"{self.at('stride')}={self.stride} must not be negative; none reads the beginning only"
            )

    def rows(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterator[tuple[int, Row]]:
        """(record, row) of every record, several of one that is read in chunks."""
        firsts = split.texts(self.text, self.at("text"))
        seconds = None if self.pair is None else split.texts(self.pair, self.at("pair"))
        template = Template.of(tokenizer)
        for start in range(0, len(split), CHUNK):
            some = range(start, min(start + CHUNK, len(split)))
            first = tokenizer.encode_batch([firsts[i] for i in some])
            second = None if seconds is None else tokenizer.encode_batch([seconds[i] for i in some])
            for place, index in enumerate(some):
                other = None if second is None else second[place]
                for row in self._chunks(template, first[place], other, length):
                    yield index, row

    def _chunks(
        self, template: Template, first: np.ndarray, second: np.ndarray | None, length: int
    ) -> Iterator[Row]:
        sizes = [len(first)] if second is None else [len(first), len(second)]
        room = length - template.special(len(sizes))
        if sum(sizes) <= room or self.stride is None:
            keep = template.fit(sizes, length)
            yield Row(*template.row(first[: keep[0]], None if second is None else second[: keep[1]])[:2])
            return
        # The longer text is read in chunks; the other stays whole, up to half of the row.
        long = 0 if second is None or len(first) >= len(second) else 1
        short = np.zeros(0, np.int32) if second is None else (first, second)[1 - long][: room // 2]
        size = room - len(short)
        if self.stride >= size:
            raise ValueError(
                f"{self.at('stride')}={self.stride} leaves nothing new in chunks of {size} tokens: lower it"
            )
        for begin, end in windows(sizes[long], size, self.stride):
            part = (first if long == 0 else second)[begin:end]  # type: ignore[index]
            if second is None:
                yield Row(*template.row(part)[:2])
            else:
                yield Row(*template.row(*((part, short) if long == 0 else (short, part)))[:2])


def pooled(examples: LabelledExamples, values: Sequence[np.ndarray], how: str) -> np.ndarray:
    """The mean or the maximum over the examples of each record, [records ...]."""
    stacked = np.asarray(values, np.float64)
    shape = (examples.records, *stacked.shape[1:])
    number = np.bincount(examples.record, minlength=examples.records)
    assert number.all(), "every record has an example"
    if how == "max":
        most = np.full(shape, -np.inf)
        np.maximum.at(most, examples.record, stacked)
        return most
    total = np.zeros(shape)
    np.add.at(total, examples.record, stacked)
    return total / number.reshape(-1, *(1,) * (stacked.ndim - 1))
