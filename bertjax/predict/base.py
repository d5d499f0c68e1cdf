"""The protocol of a pipeline: what a model is used for, from records with text to plain answers.

    Pipeline          the options of one use, a frozen dataclass; `columns` says what its records hold
    open(bundle)      that use of one model; a model that lacks what it takes is refused in one line
    Work.check        a record of the input becomes an item, or a ValueError that says what is wrong with it
    Work.encode       items become examples: rows of tokens, what the device is told, what the host remembers
    Work.compute      what the device makes of a batch, one entry an example; the engine compiles it
    Work.told         the answer to one item, of plain values, from what became of its examples

A new use is one file with two classes and one line in the registry, `bertjax/predict/__init__.py`; order, batches,
shapes, meshes, files and errors are the engine's (`run.py`) and the same for all.

A text of more than `characters` characters is read up to there, and the answer says so under `warning`, as it does
where a row holds fewer tokens than there are. An empty text is a text: what comes of it is told by each pipeline.
"""

import abc
import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from bertjax.bundle import Bundle
from bertjax.convert.model import heads_of
from bertjax.data.labelled.examples import Example, LabelledExamples, Target
from bertjax.data.labelled.template import Template
from bertjax.data.subword import Tokenizer
from bertjax.models.network import Network
from bertjax.settings import suggest
from bertjax.types import Array, Batch, Tree

Answer = dict[str, Any]
Outcomes = Mapping[str, Sequence[np.ndarray]]  # by name, one entry an example


@dataclasses.dataclass(frozen=True)
class Column:
    """What a record holds under one name."""

    about: str
    several: bool = False
    """A list of texts, not one."""
    needed: bool = True
    """Every record has it."""
    flag: str | None = None
    """How one of several texts is called on a command line; none where they come from files only."""

    def option(self, name: str) -> str | None:
        """The option of a command line that gives one text of it."""
        return self.flag if self.several else name


@dataclasses.dataclass(frozen=True)
class Item:
    """A record that was found to be good."""

    number: int
    """Of its line, from 1."""
    values: Mapping[str, Any]
    """By column."""
    warnings: list[str] = dataclasses.field(default_factory=list)
    """What the answer must tell besides; `encode` may add to it."""


class Part(NamedTuple):
    """An example of an item, computed."""

    about: Any
    """What the host remembers of it."""
    values: Mapping[str, np.ndarray]
    """What the device made of it, by name."""


@dataclasses.dataclass(frozen=True)
class Pipeline(abc.ABC):
    """Base of every pipeline's options; the pipeline is its options and nothing else."""

    characters: int = 1_000_000
    """Characters of a text that are read at most."""

    columns: ClassVar[Mapping[str, Column]]

    def __post_init__(self) -> None:
        """Refuses to read nothing."""
        self.at_least("characters", 1)

    def at_least(self, field: str, least: int) -> None:
        """Refuses a number that is too small."""
        value = getattr(self, field)
        if value is not None and value < least:
            raise ValueError(f"{field}={value} must be at least {least}")

    @abc.abstractmethod
    def open(self, bundle: Bundle, length: int) -> "Work":
        """This use of a model, in rows of at most so many tokens."""

    def lines(self, answer: Answer) -> Iterator[str]:
        """An answer for people."""
        yield to_json(answer)


class Work(abc.ABC):
    """One use of one model."""

    name: str = "predict"
    """Of what a batch tells: `batch.targets[name]`."""
    targets: Mapping[str, Target] = {}
    """What a batch tells besides the rows."""
    group: int = 1
    """Rows of an example."""
    chunk: int = 64
    """Records that are encoded at a time; fewer where one of them gives many rows."""

    def __init__(self, pipeline: Pipeline, bundle: Bundle, length: int, heads: Sequence[str] = ()) -> None:
        """`heads` are those of the network that are used."""
        self.columns, self.characters = pipeline.columns, pipeline.characters
        self.length = length
        self.tokenizer: Tokenizer = tokenizer_of(bundle)
        self.template = Template.of(self.tokenizer)
        self.network = Network(bundle.config.model, {name: bundle.model.heads[name] for name in heads})

    def check(self, number: int, record: Any) -> Item:
        """A record as an item; a ValueError says what is wrong."""
        if not isinstance(record, Mapping):
            raise ValueError(f"a record is an object with {listed(self.columns)}, not {kind_of(record)}")
        values, warnings = {}, []
        for name, column in self.columns.items():
            key = self.key(name, record)
            if key is None:
                if column.needed:
                    there = f"it has {', '.join(map(str, record))}" if record else "it is empty"
                    raise ValueError(f"the record has no {name!r}: {there}")
                continue
            found = _texts(name, record[key], column)
            longest = max(map(len, found), default=0)
            if longest > self.characters:
                warnings.append(
                    f"{name} has {longest:,} characters and only the first {self.characters:,} were read"
                )
                found = [text[: self.characters] for text in found]
            values[name] = found if column.several else found[0]
        return Item(number, values, warnings)

    def key(self, name: str, record: Mapping[str, Any]) -> str | None:
        """Under which name a record has a column; None where it has not."""
        return name if name in record else None

    @abc.abstractmethod
    def encode(self, items: Sequence[Item]) -> Sequence[Example]:
        """Examples whose `record` is the place of their item in `items`."""

    @abc.abstractmethod
    def compute(self, params: Tree, batch: Batch) -> Mapping[str, Array]:
        """What the device makes of a batch, one entry an example."""

    def decode(self, items: Sequence[Item], examples: LabelledExamples, outcomes: Outcomes) -> list[Answer]:
        """One answer for each item."""
        found = self.found(items, examples, outcomes)
        return [self.told(item, one) for item, one in zip(items, found, strict=True)]

    def found(self, items: Sequence[Item], examples: LabelledExamples, outcomes: Outcomes) -> Sequence[Any]:
        """What became of each item: its examples in their order, or what a task predicts from them."""
        parts: list[list[Part]] = [[] for _ in items]
        for number, place in enumerate(examples.record.tolist()):
            values = {name: entries[number] for name, entries in outcomes.items()}
            parts[place].append(Part(examples.about[number], values))
        return parts

    @abc.abstractmethod
    def told(self, item: Item, found: Any) -> Answer:
        """The answer to one item."""

    def fit(self, item: Item, tokens: np.ndarray) -> np.ndarray:
        """As many tokens of a text as a row holds; what was left is told."""
        (keep,) = self.template.fit([len(tokens)], self.length)
        if keep < len(tokens):
            item.warnings.append(cut_warning(len(tokens), keep))
        return tokens[:keep]


class OnePass(Work):
    """A use that the network answers in one pass."""

    def compute(self, params: Tree, batch: Batch) -> Mapping[str, Array]:
        """What is needed of its outputs."""
        return self.outcomes(self.network.apply({"params": params}, batch, train=False), batch)

    @abc.abstractmethod
    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """What the host needs of the network's outputs, one entry an example."""


def to_json(answer: Answer) -> str:
    """An answer in one line; numbers of float32 are written with all digits that they have."""
    return json.dumps(answer, ensure_ascii=False, default=lambda x: [float(f"{value:.9g}") for value in x])


def cut_warning(tokens: int, keep: int) -> str:
    """What is said of a text that no row holds."""
    return f"the text has {tokens:,} tokens and only the first {keep:,} were read"


def tokenizer_of(bundle: Bundle) -> Tokenizer:
    """The tokenizer of a model; an error where there is none."""
    if bundle.tokenizer is None:
        raise ValueError("this model has no tokenizer: its corpus was made up, or the folder lacks the files")
    found: Tokenizer = bundle.tokenizer
    return found


def head_of(bundle: Bundle, kind: str, use: str) -> str:
    """The name of the head of that kind."""
    for name, (is_kind, _) in heads_of(bundle.model).items():
        if is_kind == kind:
            return name
    raise missing(bundle, (kind,), use)


def missing(bundle: Bundle, kinds: Sequence[str], use: str, hint: str = "") -> ValueError:
    """The error of a model that cannot be used so."""
    has = ", ".join(heads_of(bundle.model)) or "none"
    hint = hint or f"train it with tasks={kinds[0]}, or load another"
    return ValueError(f"{use} needs a head for {' or '.join(kinds)} and this model has {has}: {hint}")


def listed(columns: Mapping[str, Column]) -> str:
    """The names of columns, for errors."""
    return ", ".join(
        f"{name!r}" if column.needed else f"{name!r} (optional)" for name, column in columns.items()
    )


def kind_of(value: Any) -> str:
    """What a value is, for errors."""
    shown = repr(value)
    return f"{type(value).__name__} {shown if len(shown) <= 40 else f'{shown[:37]}...'}"


def check_name(what: str, name: str, legal: Sequence[str]) -> None:
    """Refuses a name that is none."""
    if name not in legal:
        raise ValueError(f"unknown {what} {name!r}: {suggest(name, list(legal))}")


def _texts(name: str, value: Any, column: Column) -> list[str]:
    """The text or the texts under a column."""
    texts = value if column.several else [value]
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        wanted = "a list of texts" if column.several else "text"
        raise ValueError(f"{name!r} holds {kind_of(value)} and not {wanted}")
    for text in texts:
        # JSON can write half of a character ("\\ud83d"), which no tokenizer takes.
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise ValueError(f"{name!r} holds half of a character: it is no Unicode text")
    return list(texts)
