"""Token classification: every word has a tag, as for named entities (BERT, 1810.04805, Section 5.3).

    word     Johan    Smith  sits
    token    jo ##han smith  sits
    tag      B  -     I      O

Words become sub-words; the tag is learned and predicted at the first of each (the paper), or learned at all. The words
are joined by spaces and tokenised as one text, so that every kind of tokenizer splits them as it does in running text,
and a sub-word belongs to the word in which its last character lies. A word that gives no token at all (one of
zero-width characters, say) has no prediction and counts as `O`.

A sentence with more tokens than a row is read in windows that begin and end with a word and share `stride` words; the
tag of a word is that of the window in which it has most words on its nearer side.

Entities are read from any scheme and learned in that of `scheme`; `none` takes tags as they are (parts of speech).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.labelled.examples import Example, LabelledExamples, Row, Target
from bertjax.data.labelled.split import Split
from bertjax.data.labelled.template import Template
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, weighted
from bertjax.models import task_heads
from bertjax.scores import classification, entities
from bertjax.scores.tags import SCHEMES, convert
from bertjax.tasks.labelled import Prediction
from bertjax.tasks.scored import ScoredTask, divergence
from bertjax.types import Array, Batch, Float, Metrics

OUTSIDE = "O"
CHUNK = 256  # records that are tokenised at a time


@dataclasses.dataclass(frozen=True)
class Tag(ScoredTask):
    """Gives every word a tag."""

    words: str = "words"
    """Column of the words, a list."""
    tags: str = "tags"
    """Column of their tags, a list of as many."""
    labels: tuple[str, ...] = ()
    """The tags in their order; empty finds them in the data."""
    scheme: Literal["none", "IOB1", "IOB2", "BIOES"] = "IOB2"
    """How entities are written for the model, whatever the data has; none takes tags as they are."""
    pieces: Literal["first", "all"] = "first"
    """Sub-words of a word that learn its tag; the first one predicts it."""
    stride: int = 16
    """Words that the windows of a long sentence share."""

    kind: ClassVar[str] = "tag"
    kept: ClassVar[type | None] = np.ndarray

    def __post_init__(self) -> None:
        """Refuses an overlap that is none."""
        super().__post_init__()
        if self.stride < 0:
            raise ValueError(f"{self.at('stride')}={self.stride} must not be negative")

    # ------------------------------------------------------------------------------------------ tags

    def gold(self, split: Split) -> list[list[str] | None]:
        """The tags of every sentence in the scheme that is learned; None where the split has none."""
        if split.unlabelled(self.tags):
            return [None] * len(split)
        words, values = split.lists(self.words, self.at("words")), split.column(self.tags, self.at("tags"))
        found: list[list[str] | None] = []
        for index, value in enumerate(values):
            value = value.tolist() if isinstance(value, np.ndarray) else value
            if not isinstance(value, list | tuple):
                raise split.wrong(index, self.tags, value, "a list of tags", self.at("tags"))
            names = [split.class_name(index, self.tags, item, self.at("tags")) or OUTSIDE for item in value]
            if len(names) != len(words[index]):
                raise ValueError(
                    f"{split.where(index)}: {len(words[index])} words and {len(names)} tags: give one for each"
                )
            found.append(self._written(names, split, index))
        return found

    def _written(self, tags: list[str], split: Split, index: int) -> list[str]:
        if self.scheme == "none":
            return tags
        try:
            return convert(tags, self.scheme)
        except ValueError as error:
            raise ValueError(f"{split.where(index)}: {error}; or set {self.at('scheme')}=none") from None

    def resolve(self, train: Split) -> "Tag":
        """With the tags of the data."""
        train.column(self.tags, self.at("tags"))
        found = {tag for tags in self.gold(train) if tags is not None for tag in tags}
        if self.scheme == "none":
            labels = self.labels or tuple(sorted(found))
        else:
            kinds = sorted({tag.partition("-")[2] for tag in found} - {""})
            letters = SCHEMES[self.scheme]
            labels = self.labels or (OUTSIDE, *(f"{letter}-{kind}" for kind in kinds for letter in letters))
        if len(found) < 2:
            raise ValueError(
                f"{train.name}: all words have the tag {next(iter(found), OUTSIDE)!r}: there is nothing to learn"
            )
        self._numbers(train, labels)
        return dataclasses.replace(self, labels=labels)

    def _numbers(self, split: Split, labels: Sequence[str]) -> list[list[int] | None]:
        numbers = {label: number for number, label in enumerate(labels)}
        result: list[list[int] | None] = []
        for index, tags in enumerate(self.gold(split)):
            unknown = next((tag for tag in tags or () if tag not in numbers), None)
            if unknown is not None:
                raise split.unknown(index, self.tags, unknown, labels, self.at("labels"))
            result.append(None if tags is None else [numbers[tag] for tag in tags])
        return result

    # ------------------------------------------------------------------------------------------ rows

    def targets(self) -> Mapping[str, Target]:
        """The tag of every token, and whether it counts."""
        return {"label": Target(np.int32, tokens=True), "weight": Target(np.float32, tokens=True)}

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """A row for each sentence, or for each window of one; `about` tells each word's first token."""
        words, template = split.lists(self.words, self.at("words")), Template.of(tokenizer)
        numbers = self._numbers(split, self.labels)
        room = length - template.special(1)
        for start in range(0, len(split), CHUNK):
            some = range(start, min(start + CHUNK, len(split)))
            encoded = tokenizer.encode_with_offsets([" ".join(words[index]) for index in some])
            for index, (tokens, offsets) in zip(some, encoded, strict=True):
                owner = owners(words[index], offsets)
                for first, last in _windows(owner, len(words[index]), room, self.stride):
                    inside = np.flatnonzero((owner >= first) & (owner < last))[:room]
                    row, types, (begin, _) = template.row(tokens[inside])
                    yield self._example(index, Row(row, types), begin, owner[inside], numbers[index])

    def _example(
        self, record: int, row: Row, begin: int, owner: np.ndarray, numbers: Sequence[int] | None
    ) -> Example:
        label, weight = np.zeros(len(row.tokens), np.int32), np.zeros(len(row.tokens), np.float32)
        leads = np.ones(len(owner), bool)
        leads[1:] = owner[1:] != owner[:-1]
        if numbers is not None:
            place = np.arange(begin, begin + len(owner))
            label[place] = np.asarray(numbers, np.int32)[owner]
            weight[place] = leads if self.pieces == "first" else 1.0
        where = np.stack([owner[leads], np.flatnonzero(leads) + begin], axis=1)  # word, its first token
        return Example((row,), {"label": label, "weight": weight}, record, where)

    # ------------------------------------------------------------------------------------------ learning

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """Scores of every token."""
        options = task_heads.Tag(
            classes=len(self.labels),
            labels=self.labels,
            dropout=self.head_dropout,
            features=self.features,
        )
        return {self.name: options.module(config)}

    def judge(self, scores: Float[Array, "B L C"], batch: Batch) -> Metrics:
        """Cross-entropy and accuracy over the words."""
        target = batch.targets[self.name]
        right = (scores.argmax(-1) == target["label"]).astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(scores, target["label"]), target["weight"]),
            "accuracy": weighted(right, target["weight"]),
        }

    def apart(
        self, first: Float[Array, "B L C"], second: Float[Array, "B L C"], batch: Batch
    ) -> tuple[Array, Array]:
        """The divergence of the tags of each word."""
        return weighted(divergence(first, second), batch.targets[self.name]["weight"])

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of tokens that have a tag."""
        return batch.targets[self.name]["weight"].sum()

    # ------------------------------------------------------------------------------------------ using

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The best tag of every token and its probability."""
        del batch
        probabilities = jax.nn.softmax(outputs[self.name])
        return {"label": probabilities.argmax(-1).astype(jnp.int32), "probability": probabilities.max(-1)}

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The tag of every word with its probability."""
        words = split.lists(self.words, self.at("words"))
        default = OUTSIDE if OUTSIDE in self.labels else self.labels[0]
        found = [{"tags": [default] * len(some), "probabilities": [0.0] * len(some)} for some in words]
        context = [
            np.full(len(some), -1) for some in words
        ]  # words on the nearer side, in the window that decides
        for number, record in enumerate(examples.record.tolist()):
            leads = examples.about[number]
            for place, (word, token) in enumerate(leads.tolist()):
                nearer = min(place, len(leads) - 1 - place)
                if nearer > context[record][word]:
                    context[record][word] = nearer
                    found[record]["tags"][word] = self.labels[int(outcomes["label"][number][token])]
                    found[record]["probabilities"][word] = float(outcomes["probability"][number][token])
        return found

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """F1, precision and recall of the entities, and the accuracy of the tags."""
        gold = self.gold(split)
        rows = [row for row, tags in enumerate(gold) if tags]
        if not rows:
            raise ValueError(
                f"{split.name} has no tags in the column {self.tags!r} to score predictions with"
            )
        found, wanted = [predictions[row]["tags"] for row in rows], [gold[row] or [] for row in rows]
        flat = [[tag for tags in side for tag in tags] for side in (found, wanted)]
        accuracy = {"accuracy": classification.accuracy(*flat)}
        if self.scheme == "none":
            return accuracy
        counted = entities.counts(found, wanted)
        return {"f1": counted.f1(), "precision": counted.precision(), "recall": counted.recall(), **accuracy}


def owners(words: Sequence[str], offsets: np.ndarray) -> np.ndarray:
    """The word of every token of words joined by spaces: that in which, or before which, its last character lies."""
    ends = np.cumsum([len(word) + 1 for word in words]) - 1
    last = np.maximum(offsets[:, 1] - 1, offsets[:, 0])
    return np.minimum(np.searchsorted(ends, last, side="right"), len(words) - 1)


def _windows(owner: np.ndarray, words: int, room: int, stride: int) -> Iterator[tuple[int, int]]:
    """Spans of words whose tokens fit into `room`, `stride` words in common; a word that does not fit stands alone."""
    if len(owner) <= room:
        yield 0, words
        return
    sizes = np.bincount(owner, minlength=words)
    ends = np.cumsum(sizes)
    first = 0
    while True:
        before = int(ends[first - 1]) if first else 0
        last = max(int(np.searchsorted(ends, before + room, side="right")), first + 1)
        yield first, min(last, words)
        if last >= words:
            return
        first = max(last - stride, first + 1)
