"""embed: vectors of texts, to search and to compare by (Sentence-BERT, 1908.10084).

    {"embedding": [0.031, ...]}       or, with --output=FILE.npy, a float32 matrix with a row for each line

What stands for a text (`pooling`), and whether its vector has length one (`normalise`), is as the model was trained.
A model that was not trained for it gives the mean of its tokens, or another pooling, where that is asked for by name.
An empty text has the vector of the special tokens.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from bertjax.bundle import Bundle
from bertjax.convert.model import heads_of
from bertjax.data.labelled.examples import Example, Row
from bertjax.models import task_heads
from bertjax.predict.base import Answer, Column, Item, OnePass, Part, Pipeline, missing
from bertjax.types import Array, Batch


@dataclasses.dataclass(frozen=True)
class Embed(Pipeline):
    """Vectors of texts."""

    pooling: task_heads.Pooling | None = None
    """What stands for a text; none does as the model was trained to."""
    normalise: bool | None = None
    """Vectors have length one; none does as the model was trained to."""

    columns: ClassVar[Mapping[str, Column]] = {"text": Column("the text")}

    def open(self, bundle: Bundle, length: int) -> "Vectors":
        """Needs a head for embeddings, or a pooling."""
        return Vectors(self, bundle, length, pooling_of(bundle, self.pooling, "embed"), self.normalise)

    def lines(self, answer: Answer) -> Iterator[str]:
        """The first numbers, and how many there are."""
        vector = answer["embedding"]
        yield f"{'  '.join(f'{value:.4f}' for value in vector[:8])} ... {len(vector)} numbers"


def pooling_of(bundle: Bundle, asked: task_heads.Pooling | None, use: str) -> task_heads.Embed:
    """How a model makes vectors, or as it is asked to."""
    for kind, options in heads_of(bundle.model).values():
        if kind == "embed":
            assert isinstance(options, task_heads.Embed)
            return options if asked is None else dataclasses.replace(options, pooling=asked)
    if asked is None:
        hint = "set pooling=mean for the mean of its tokens, or train it with tasks=embed"
        raise missing(bundle, ("embed",), use, hint)
    return task_heads.Embed(pooling=asked, normalise=False)


class Vectors(OnePass):
    """A vector of every text."""

    def __init__(
        self,
        options: Pipeline,
        bundle: Bundle,
        length: int,
        head: task_heads.Embed,
        normalise: bool | None = None,
    ) -> None:
        super().__init__(options, bundle, length)
        self.pooling = head.pooling
        self.normalise = head.normalise if normalise is None else normalise

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """A row of each text."""
        return self.rows(items, [[item.values["text"]] for item in items])

    def rows(self, items: Sequence[Item], texts: Sequence[Sequence[str]]) -> list[Example]:
        """A row for each of the texts of every item, in their order."""
        tokens = iter(self.tokenizer.encode_batch([text for some in texts for text in some]))
        found = []
        for index, (item, some) in enumerate(zip(items, texts, strict=True)):
            for _ in some:
                row, types, _ = self.template.row(self.fit(item, next(tokens)))
                found.append(Example((Row(row, types),), {}, index))
        return found

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """What the head would give."""
        x = task_heads.pool(outputs["encoder"], batch.mask, self.pooling).astype(jnp.float32)
        if self.normalise:
            x = x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-24)
        return {"vector": x}

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """The vector."""
        del item
        return {"embedding": found[0].values["vector"]}
