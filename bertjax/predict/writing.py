"""translate, generate: texts about texts, and texts that go on, written token by token (models/decoding.py).

    translate   a decoder writes about a text: a translation, a summary, whatever it was trained to write
    generate    a decoder does, by chance; or an encoder that reads from left to right (task clm) goes on with the text

What `search` leaves open is as the run was evaluated for translate, and `sample` for generate. A draw depends on
`seed` and the line of the record alone. A probability is that of a whole text, given what it was written about: the
longer, the smaller. An empty text is written about like any other.
"""

import abc
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import numpy as np

from bertjax.attention.base import Memory
from bertjax.bundle import Bundle
from bertjax.data.labelled.examples import Example, Row, Target
from bertjax.layers.config import Learned
from bertjax.models.decoder import Decoder
from bertjax.models.decoding import Beam, Greedy, Marks, Sample, SearchOptions, write_about
from bertjax.predict.base import Answer, Column, Item, Part, Pipeline, Work, missing
from bertjax.tasks.clm import NextTokenHead
from bertjax.tasks.translate import Translate as TranslateTask
from bertjax.types import Array, Batch, Tree


@dataclasses.dataclass(frozen=True)
class Writing(Pipeline):
    """What both have in common."""

    search: Literal["greedy", "beam", "sample"] | None = None
    """The best token at every place, the best of several texts, or by chance; none: see above."""
    beams: int = 4
    """Texts that search=beam writes side by side."""
    penalty: float = 0.6
    """Exponent of the length that search=beam divides by; 0 prefers short texts."""
    temperature: float = 1.0
    """For search=sample: below 1 makes probable tokens more so."""
    top_k: int | None = None
    """For search=sample: only so many of the best tokens can be drawn; none for all."""
    top_p: float | None = None
    """For search=sample: only the fewest tokens with this share of the probability can be drawn; none for all."""
    seed: int = 0
    """For search=sample: other draws."""
    tokens: int | None = None
    """Tokens that are written at most; none takes as many as the model has learned to write, or 32."""
    top: int = 1
    """How many texts of a beam are told, the best first."""

    columns: ClassVar[Mapping[str, Column]] = {"text": Column("the text")}

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        super().__post_init__()
        for field in ("tokens", "top", "beams"):
            self.at_least(field, 1)
        for search in ("beam", "sample"):
            self.chosen(Greedy(), search)
        if self.top > (self.beams if self.search in ("beam", None) else 1):
            raise ValueError(
                f"top={self.top} and search={self.search} with beams={self.beams}: "
                f"only a beam has several texts, as many as beams"
            )

    def chosen(self, default: SearchOptions, search: str | None = None) -> SearchOptions:
        """The search that the options name."""
        match search or self.search:
            case "greedy":
                return Greedy()
            case "beam":
                return Beam(self.beams, self.penalty)
            case "sample":
                return Sample(self.temperature, self.top_k, self.top_p, self.seed)
        return default

    def lines(self, answer: Answer) -> Iterator[str]:
        """The text or the texts."""
        for one in answer.get("texts", (answer,)):
            yield one["text"]


@dataclasses.dataclass(frozen=True)
class Translate(Writing):
    """Texts that a decoder writes about texts: translations, summaries."""

    def open(self, bundle: Bundle, length: int) -> "About":
        """Needs a decoder."""
        name = decoder_of(bundle)
        if name is None:
            raise missing(bundle, ["translate"], "translate")
        task = task_of(bundle, name)
        return About(self, bundle, length, name, self.chosen(task.search), self.tokens or task.target_tokens)


@dataclasses.dataclass(frozen=True)
class Generate(Writing):
    """Texts that go on, or that a decoder writes about texts, by chance."""

    def open(self, bundle: Bundle, length: int) -> "Written":
        """Needs a decoder, or an encoder that predicts what comes next."""
        search, name = self.chosen(self.chosen(Greedy(), "sample")), decoder_of(bundle)
        if name is not None:
            return About(
                self, bundle, length, name, search, self.tokens or task_of(bundle, name).target_tokens
            )
        heads = [name for name, head in bundle.model.heads.items() if isinstance(head, NextTokenHead)]
        if not heads:
            raise missing(bundle, ["translate", "clm"], "generate")
        return Further(self, bundle, length, heads[0], search, self.tokens or 32)


class Written(Work, abc.ABC):
    """Texts of at most so many tokens, each with the probability that the model gives it."""

    targets: Mapping[str, Target] = {"number": Target(np.int32)}

    def __init__(
        self, options: Writing, bundle: Bundle, length: int, head: str, search: SearchOptions, tokens: int
    ) -> None:
        super().__init__(options, bundle, length, (head,))
        self.head, self.search, self.tokens, self.top = head, search, tokens, options.top
        self.marks = Marks.of(self.tokenizer.vocabulary)
        model = bundle.config.model
        self.most = model.max_length if isinstance(model.position, Learned) else None
        if self.top > search.rows:
            raise ValueError(f"top={self.top}: this search writes {search.rows} texts; set search=beam")

    def compute(self, params: Tree, batch: Batch) -> Mapping[str, Array]:
        """The texts of every row."""

        def apply(*inputs: Any, variables: Mapping[str, Tree] | None = None, **options: Any) -> Any:
            return self.network.apply({"params": params, **(variables or {})}, *inputs, **options)

        numbers = batch.targets[self.name]["number"]
        keys = jax.vmap(lambda number: jax.random.fold_in(jax.random.key(0), number))(numbers)
        written = self.write(apply, batch, keys)
        return {"tokens": written.tokens, "size": written.size, "logs": written.logs}

    @abc.abstractmethod
    def write(self, apply: Any, batch: Batch, keys: Array) -> Any:
        """What the search gives."""

    def text(self, tokens: np.ndarray) -> str:
        """The text that tokens stand for."""
        return self.tokenizer.decode(tokens.tolist()).strip()


class About(Written):
    """What a decoder writes about a text."""

    def __init__(
        self, options: Writing, bundle: Bundle, length: int, head: str, search: SearchOptions, tokens: int
    ) -> None:
        super().__init__(options, bundle, length, head, search, tokens)
        if self.most is not None and tokens > self.most:
            raise ValueError(
                f"tokens={tokens} is more than the table of positions has: use {self.most} or less"
            )

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """A row for each text."""
        found = []
        encoded = self.tokenizer.encode_batch([item.values["text"] for item in items])
        for index, (item, tokens) in enumerate(zip(items, encoded, strict=True)):
            row = Row(*self.template.row(self.fit(item, tokens))[:2])
            found.append(Example((row,), {"number": item.number}, index))
        return found

    def write(self, apply: Any, batch: Batch, keys: Array) -> Any:
        """About what the encoder has read."""
        memory = Memory(apply(batch, method="encode").hidden, batch.mask)
        return write_about(apply, self.head, memory, self.search, self.marks, self.tokens, keys)

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """The best text, or several."""
        del item
        values = found[0].values
        sizes, logs = values["size"].tolist(), values["logs"].tolist()
        texts = [
            {"text": self.text(row[:size]), "probability": math.exp(log)}
            for row, size, log in zip(values["tokens"], sizes, logs, strict=True)
        ]
        return {**texts[0], **({"texts": texts[: self.top]} if self.top > 1 else {})}


class Further(Written):
    """How a text goes on."""

    def __init__(
        self, options: Writing, bundle: Bundle, length: int, head: str, search: SearchOptions, tokens: int
    ) -> None:
        super().__init__(options, bundle, length, head, search, tokens)
        if search.rows > 1:
            raise ValueError("search=beam goes on with no text that is given: use greedy or sample")

    def encode(self, items: Sequence[Item]) -> list[Example]:
        """The start mark and the text, without an end."""
        found = []
        encoded = self.tokenizer.encode_batch([item.values["text"] for item in items])
        for index, (item, tokens) in enumerate(zip(items, encoded, strict=True)):
            row = np.concatenate([[self.marks.start], self.fit(item, tokens)]).astype(np.int32)
            found.append(
                Example((Row(row, np.zeros_like(row)),), {"number": item.number}, index, len(row) - 1)
            )
        return found

    def write(self, apply: Any, batch: Batch, keys: Array) -> Any:
        """Each text, and then what follows; a row may have more than is wanted, which is cut later."""
        given = jax.numpy.where(batch.mask, batch.tokens, -1)[:, 1:]
        length = given.shape[1] + self.tokens
        length = length if self.most is None else min(length, self.most)
        return write_about(apply, self.head, None, self.search, self.marks, length, keys, given[:, :length])

    def told(self, item: Item, found: Sequence[Part]) -> Answer:
        """The text with what was written behind it, as the tokenizer writes both."""
        del item
        given, values = found[0]
        end = min(int(values["size"][0]), given + self.tokens)
        return {"text": self.text(values["tokens"][0, :end]), "tokens": end - given}


def decoder_of(bundle: Bundle) -> str | None:
    """The name of the decoder of a model."""
    return next((name for name, head in bundle.model.heads.items() if isinstance(head, Decoder)), None)


def task_of(bundle: Bundle, name: str) -> TranslateTask:
    """The task that a decoder has learned, or one that stands for that of a published model."""
    for task in bundle.config.tasks:
        if isinstance(task, TranslateTask) and task.name == name:
            return task
    return TranslateTask(target_tokens=min(TranslateTask.target_tokens, bundle.config.data.length))
