"""Extractive question answering (BERT, 1810.04805, Sections 4.2 and 4.3): the answer is a span of the context.

    s = softmax over tokens of w · h    e = softmax over tokens of v · h    loss = -(log s[first] + log e[last]) / 2

A row is [CLS] question [SEP] part of the context [SEP]. A context that does not fit is read in windows that share
`stride` tokens, each an example; one that does not hold the whole answer learns the [CLS] token, which also stands for
a question without an answer (SQuAD 2.0).

A prediction is the best span over all windows: first and last token in the context, in order, at most `answer_tokens`
apart, by the sum of their logits. One that several windows hold is judged by that in which it has the most context on
its shorter side. The score of no answer is the least that a window gives [CLS]. There is no answer where it exceeds the
best span's by more than `threshold`; which threshold would have been best on these records is reported with the scores.

Deviations: answers are located by characters and need not begin at a word. The script of BERT passes over an answer
that is not where the data says; here it is an error, but for as many as records.bad_rows allows. It lets a *token*
count in the window with the most context, which loses an answer that goes on behind that window.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.data.labelled.examples import Example, LabelledExamples, Row, Target
from bertjax.data.labelled.split import Split
from bertjax.data.labelled.template import Template, windows
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig
from bertjax.metrics import cross_entropy, weighted
from bertjax.models import task_heads
from bertjax.models.heads import NEVER
from bertjax.scores import squad
from bertjax.tasks.labelled import WEIGHT, Prediction
from bertjax.tasks.scored import ScoredTask, divergence
from bertjax.types import Array, Batch, Float, Metrics

CHUNK = 256  # records that are tokenised at a time


@dataclasses.dataclass(frozen=True)
class Window:
    """What a prediction needs to know of an example."""

    begin: int  # row position of its first context token
    offsets: np.ndarray  # [tokens, 2] where those begin and end in the context, in characters


@dataclasses.dataclass(frozen=True)
class Answer(ScoredTask):
    """Finds the answer to a question in a text."""

    question: str = "question"
    """Column of the question."""
    context: str = "context"
    """Column of the text that holds the answer."""
    answers: str = "answers"
    """Column of the answers, a list of texts, none where there is no answer."""
    starts: str = "starts"
    """Column of the characters of the context at which they begin, a list."""
    identity: str = "id"
    """Column of what a prediction is called by."""
    unanswerable: bool | None = None
    """Whether a question may have no answer; none finds out from the training records."""
    stride: int = 128
    """Context tokens that the windows of a long context share."""
    question_tokens: int = 64
    """Tokens of a question at most."""
    answer_tokens: int = 30
    """Tokens of an answer at most."""
    best: int = 20
    """Spans that are told of each question, best first, and tokens that each end of one is chosen from."""
    threshold: float = 0.0
    """By how much no answer must score more than the best span to be the prediction."""
    head_dropout: float | None = 0.0
    """Rate before the scores; none takes the encoder's."""

    kind: ClassVar[str] = "answer"
    kept: ClassVar[type | None] = Window

    def __post_init__(self) -> None:
        """Refuses sizes that are none."""
        super().__post_init__()
        for field, least in (("stride", 0), ("question_tokens", 1), ("answer_tokens", 1), ("best", 1)):
            if getattr(self, field) < least:
                raise ValueError(f"{self.at(field)}={getattr(self, field)} must be at least {least}")

    # ------------------------------------------------------------------------------------------ records

    def on_made_up_records(self) -> "Answer":
        """With windows that fit those."""
        made = super().on_made_up_records()
        assert isinstance(made, Answer)
        return dataclasses.replace(made, stride=4, question_tokens=8)

    def spans(self, split: Split) -> list[tuple[int, int] | None]:
        """The characters of each record's first answer; None where there is none."""
        if split.unlabelled(self.answers):
            return [None] * len(split)
        contexts = split.texts(self.context, self.at("context"))
        texts = split.lists(self.answers, self.at("answers"))
        starts = split.column(self.starts, self.at("starts"))
        found: list[tuple[int, int] | None] = []
        for index, (context, some) in enumerate(zip(contexts, texts, strict=True)):
            places = starts[index]
            if not isinstance(places, list | tuple | np.ndarray) or len(places) != len(some):
                raise split.wrong(
                    index, self.starts, places, f"a list of {len(some)} places", self.at("starts")
                )
            span = None
            for text, start in zip(some[:1], places, strict=False):
                span = int(start), int(start) + len(text)
                if not text or context[slice(*span)] != text:
                    hint = (
                        "it is nowhere"
                        if text not in context or not text
                        else f"it is at {context.index(text)}"
                    )
                    raise _Misplaced(
                        f"{split.where(index)}: the answer {_short(text)} is not at character {start} of the context, "
                        f"{_short(context[slice(*span)])} is; {hint}: mend it"
                    )
            found.append(span)
        return found

    def read(self, which: str) -> Split:
        """The records of a split, those to learn from without a few whose answers are misplaced."""
        split = super().read(which)
        if which != "train" or split.unlabelled(self.answers):
            return split
        bad: list[int] = []
        for index in range(len(split)):
            try:
                self.spans(_one(split, index))
            except _Misplaced as error:
                bad.append(index)
                if len(bad) > self.records.bad_rows:
                    raise ValueError(f"{error}, or allow for it with records.bad_rows={len(bad)}") from None
        return split if not bad else split.select(np.setdiff1d(np.arange(len(split)), bad))

    def resolve(self, train: Split) -> "Answer":
        """Knowing whether there is always an answer."""
        spans = self.spans(train)
        if all(span is None for span in spans):
            raise ValueError(
                f"{train.name}: no record has an answer in the column {self.answers!r}: nothing to learn"
            )
        missing = next((index for index, span in enumerate(spans) if span is None), None)
        if missing is not None and self.unanswerable is False:
            raise ValueError(f"{train.where(missing)} has no answer: set {self.at('unanswerable')}=true")
        if self.unanswerable is not None:
            return self
        return dataclasses.replace(self, unanswerable=missing is not None)

    # ------------------------------------------------------------------------------------------ rows

    def targets(self) -> Mapping[str, Target]:
        """First and last token of the answer."""
        return {"first": Target(np.int32), "last": Target(np.int32), "weight": WEIGHT}

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """The windows of every record, in order."""
        questions = split.texts(self.question, self.at("question"))
        contexts = split.texts(self.context, self.at("context"))
        spans, labelled = self.spans(split), not split.unlabelled(self.answers)
        template = Template.of(tokenizer)
        for start in range(0, len(split), CHUNK):
            some = range(start, min(start + CHUNK, len(split)))
            asked = tokenizer.encode_batch([questions[index].strip() for index in some])
            encoded = tokenizer.encode_with_offsets([contexts[index] for index in some])
            for index, question, (tokens, offsets) in zip(some, asked, encoded, strict=True):
                offsets = _trimmed(contexts[index], offsets)
                answer = _tokens_of(spans[index], offsets)
                question = question[: self.question_tokens]
                room = length - template.special(2) - len(question)
                if room <= self.stride:
                    raise ValueError(
                        f"data.length={length} leaves {room} tokens for a context and two windows share "
                        f"{self.at('stride')}={self.stride}: raise data.length or lower the stride"
                    )
                parts = windows(len(tokens), room, self.stride)
                for first, stop in parts:
                    row, types, (_, begin) = template.row(question, tokens[first:stop])
                    whole = answer is not None and first <= answer[0] and answer[1] < stop
                    target = [begin + place - first for place in answer] if answer and whole else [0, 0]
                    window = Window(begin, offsets[first:stop])
                    targets = {"first": target[0], "last": target[1], "weight": float(labelled)}
                    yield Example((Row(row, types),), targets, index, window)

    # ------------------------------------------------------------------------------------------ learning

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """Two scores of every token."""
        options = task_heads.Answer(dropout=self.head_dropout, features=self.features)
        return {self.name: options.module(config)}

    def judge(self, scores: Float[Array, "B L 2"], batch: Batch) -> Metrics:
        """Cross-entropy of both ends over the tokens of the row, and how often both are right."""
        target, (first, last) = batch.targets[self.name], ends(scores, batch)
        loss = (cross_entropy(first, target["first"]) + cross_entropy(last, target["last"])) / 2
        right = (first.argmax(-1) == target["first"]) & (last.argmax(-1) == target["last"])
        return {
            "loss": weighted(loss, target["weight"]),
            "accuracy": weighted(right.astype(jnp.float32), target["weight"]),
        }

    def apart(
        self, first: Float[Array, "B L 2"], second: Float[Array, "B L 2"], batch: Batch
    ) -> tuple[Array, Array]:
        """The divergence of where an answer begins and of where it ends, their mean."""
        both = [divergence(p, q) for p, q in zip(ends(first, batch), ends(second, batch), strict=True)]
        return weighted((both[0] + both[1]) / 2, batch.targets[self.name]["weight"])

    # ------------------------------------------------------------------------------------------ using

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The logits of both ends at every token."""
        return dict(zip(("first", "last"), ends(outputs[self.name], batch), strict=True))

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The text with its place, its score, the odds against any answer, and the next best spans."""
        contexts = split.texts(self.context, self.at("context"))
        names = split.columns.get(self.identity)
        spans: list[dict[tuple[int, int], tuple[int, float]]] = [{} for _ in contexts]
        null = np.full(len(contexts), np.inf)
        for number, record in enumerate(examples.record.tolist()):
            first, last = (np.asarray(outcomes[name][number], np.float64) for name in ("first", "last"))
            null[record] = min(null[record], float(first[0] + last[0]))
            for place, around, score in self._spans(first, last, examples.about[number]):
                if around > spans[record].get(place, (-1, 0.0))[0]:
                    spans[record][place] = around, score
        found = []
        for record, context in enumerate(contexts):
            ranked = sorted((-score, *place) for place, (_, score) in spans[record].items())[: self.best]
            scores = np.array(
                [-worse for worse, _, _ in ranked] + ([null[record]] if self.unanswerable else [])
            )
            odds = np.exp(scores - scores.max(initial=-np.inf)) if len(scores) else scores
            odds = odds / odds.sum() if len(odds) else odds
            best = [
                {"text": context[start:end], "probability": float(p), "start": start, "end": end}
                for (_, start, end), p in zip(ranked, odds, strict=False)
            ]
            against = float(null[record] + ranked[0][0]) if ranked else float("inf")
            silent = not ranked or (bool(self.unanswerable) and against > self.threshold)
            chosen = {"text": "", "probability": float(odds[-1]) if len(odds) else 0.0, "start": 0, "end": 0}
            found.append(
                {
                    "id": str(record if names is None else names[record]),
                    **(chosen if silent else best[0]),
                    "no_answer": against if np.isfinite(against) else 1e9,
                    "best": best,
                }
            )
        return found

    def _spans(
        self, first: np.ndarray, last: np.ndarray, window: Window
    ) -> Iterator[tuple[tuple[int, int], int, float]]:
        """(first character, the one behind the last), context tokens on the shorter side, and score of its spans."""
        size = len(window.offsets)
        inside = slice(window.begin, window.begin + size)
        begins, ends = first[inside], last[inside]
        tops = [np.argsort(-values, kind="stable")[: self.best] for values in (begins, ends)]
        start, end = (grid.reshape(-1) for grid in np.meshgrid(*tops, indexing="ij"))
        good = (end >= start) & (end - start < self.answer_tokens)
        start, end = start[good], end[good]
        places = zip(window.offsets[start, 0].tolist(), window.offsets[end, 1].tolist(), strict=True)
        around = np.minimum(start, size - 1 - end).tolist()
        yield from zip(places, around, (begins[start] + ends[end]).tolist(), strict=True)

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """F1 and exact match of SQuAD's script; where an answer may be missing with the best threshold."""
        if split.unlabelled(self.answers):
            raise ValueError(f"{split.name} has no column {self.answers!r} to score predictions with")
        gold = split.lists(self.answers, self.at("answers"))
        keys = [str(number) for number in range(len(gold))]  # ids of the data may repeat
        answers = dict(zip(keys, gold, strict=True))
        texts = {key: prediction["text"] for key, prediction in zip(keys, predictions, strict=True)}
        if not self.unanswerable and all(gold):
            found = squad.score(texts, answers, version="1.1")
            return {"f1": found["f1"], "exact": found["exact"]}
        odds = {key: prediction["no_answer"] for key, prediction in zip(keys, predictions, strict=True)}
        best = {
            key: (prediction["best"][0]["text"] if prediction["best"] else "")
            for key, prediction in zip(keys, predictions, strict=True)
        }
        found = squad.score(best, answers, version="2.0", no_answer=odds, threshold=self.threshold)
        names = ("f1", "exact", "best_f1", "best_exact", "best_f1_threshold", "best_exact_threshold")
        return {name: found[name] for name in names}


def ends(scores: Float[Array, "B L 2"], batch: Batch) -> tuple[Float[Array, "B L"], Float[Array, "B L"]]:
    """The logits of both ends at every token, never at padding."""
    scores = jnp.where(batch.mask[:, :, None], scores, NEVER)
    return scores[..., 0], scores[..., 1]


class _Misplaced(ValueError):
    """An answer that is not where the data says."""


def _one(split: Split, index: int) -> Split:
    lines = [index + 1 if split.lines is None else split.lines[index]]
    unit = "record" if split.lines is None else split.unit
    columns = {name: [column[index]] for name, column in split.columns.items()}
    return Split(split.name, columns, lines=lines, classes=split.classes, unit=unit)


def _short(text: str) -> str:
    return repr(text if len(text) <= 30 else f"{text[:27]}...")


def _trimmed(text: str, offsets: np.ndarray) -> np.ndarray:
    """Offsets without the space that a token may begin with."""
    space = np.array([character.isspace() for character in text] + [False])
    starts, ends = offsets[:, 0].copy(), offsets[:, 1]
    while (leading := space[starts] & (starts < ends)).any():
        starts += leading
    return np.stack([starts, ends], axis=1)


def _tokens_of(span: tuple[int, int] | None, offsets: np.ndarray) -> tuple[int, int] | None:
    """First and last token of the context that the answer touches."""
    if span is None:
        return None
    touching = np.flatnonzero((offsets[:, 0] < span[1]) & (offsets[:, 1] > span[0]))
    return (int(touching[0]), int(touching[-1])) if len(touching) else None
