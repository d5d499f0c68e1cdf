"""Writing a text from a text: translation, summarisation, and whatever else has a text for an answer.

    loss = - sum over t of (1 - e) log p(y[t] | y[1 .. t-1], x) + e mean over v of log p(v | y[1 .. t-1], x)

BERT2BERT (Rothe et al., 1907.12461): a decoder stands on the encoder, and all of it but its attention to the encoder
starts from the encoder (`model.init`). e is the label smoothing (1512.00567), over the vocabulary's tokens. As there, a
target stands between the tokens that stand around a row: [CLS] is what the decoder reads first, [SEP] ends it.

Held-out records are decoded, not just scored, as `search` says, and `metric` says which score counts:

    bleu, chrf   sacrebleu's, of all records together
    rouge_l      the mean F1 of the longest common subsequences of words of a to z; only where a reference has one
    exact        the share of the texts that equal their target

A text is cut to its beginning where it is longer than a row. So is a target of more than `target_tokens`, which then
has no end to be learned; it is scored as it was given. A record whose target is missing or empty is read and written
about, but neither learned from nor scored. Batches are as long as their longest text or target, and no longer.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from bertjax.attention.base import Memory
from bertjax.data.corpus import Vocabulary
from bertjax.data.examples import Format
from bertjax.data.labelled.examples import Example, LabelledExamples, Row, Target
from bertjax.data.labelled.split import Split
from bertjax.data.labelled.template import Template
from bertjax.data.subword import Tokenizer
from bertjax.layers.config import EncoderConfig, Learned
from bertjax.metrics import weighted
from bertjax.models.decoder import Decoder, DecoderOptions, decoder_config, decoder_flops, labels_of
from bertjax.models.decoding import Greedy, Marks, SearchOptions, write_about
from bertjax.models.heads import NEVER
from bertjax.scores import summary, translation
from bertjax.tasks.base import Task, row_keys
from bertjax.tasks.labelled import WEIGHT, LabelledTask, Prediction
from bertjax.types import Array, Batch, Float, Metrics

CHUNK = 1024  # records that are tokenised at a time


@dataclasses.dataclass(frozen=True)
class Translate(LabelledTask):
    """Writes a text about a text."""

    metric: Literal["bleu", "chrf", "rouge_l", "exact"] = "bleu"
    """Score that stands for the task where there is one number for it."""
    text: str = "text"
    """Column of what is read."""
    target: str = "target"
    """Column of what is to be written."""
    target_tokens: int = 64
    """Tokens of a text that is written, its end among them; at most data.length."""
    smoothing: float = 0.1
    """Share of the probability that is spread over all tokens in what is learned."""
    decoder: DecoderOptions = DecoderOptions()
    """The layers that write."""
    search: SearchOptions = Greedy()
    """How held-out records are written about."""
    cased: bool = True
    """Case counts in scores; false for a tokenizer that has none."""
    tokenize: Literal["13a", "intl", "zh", "ja-mecab", "ko-mecab", "char", "none"] = "13a"
    """What BLEU takes for words, by sacrebleu's names: 13a for languages with spaces, zh, char."""

    kind: ClassVar[str] = "translate"
    predicts_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        if not 0 <= self.smoothing < 1:
            raise ValueError(
                f"{self.at('smoothing')}={self.smoothing} is a share: 0 <= smoothing < 1, as 0.1"
            )
        if self.target_tokens < 2:
            raise ValueError(
                f"{self.at('target_tokens')}={self.target_tokens}: a word and an end are 2 or more"
            )

    def on_made_up_records(self) -> "Translate":
        """With the same decoder and search, of texts as short as those."""
        layers = None if self.decoder.layers is None else min(self.decoder.layers, 2)
        return dataclasses.replace(
            Translate(weight=self.weight, called=self.called, share=self.share),
            decoder=dataclasses.replace(self.decoder, layers=layers),
            search=self.search,
            target_tokens=16,
        )

    def check(self, model: EncoderConfig, format: Format, tasks: Sequence[Task]) -> None:
        """The decoder can be made, and has a position for every token."""
        super().check(model, format, tasks)
        decoder_config(model, self.decoder)
        if isinstance(model.position, Learned) and self.target_tokens > model.max_length:
            raise ValueError(
                f"{self.at('target_tokens')}={self.target_tokens} is more than the table of positions has: "
                f"set it to model.max_length={model.max_length} or less"
            )

    # ------------------------------------------------------------------------------------------ rows

    def wanted(self, split: Split) -> list[str]:
        """What should be written about every record; empty where nobody knows."""
        if split.unlabelled(self.target):
            return [""] * len(split)
        column = ["" if value is None else value for value in split.column(self.target, self.at("target"))]
        return Split(split.name, {self.target: column}, lines=split.lines, unit=split.unit).texts(
            self.target, self.at("target")
        )

    def resolve(self, train: Split) -> "Translate":
        """As it is, if there is anything to learn."""
        train.column(self.target, self.at("target"))
        if not any(text.strip() for text in self.wanted(train)):
            raise ValueError(
                f"{train.name}: {self.target!r} is empty in all {len(train)} records: there is nothing to learn, "
                f"or set {self.at('target')} to another column"
            )
        return self

    def targets(self) -> Mapping[str, Target]:
        """A row from start to end, and how much of it is real."""
        row = Target(np.int32, (self.target_tokens + 1,))
        return {"row": row, "size": Target(np.int32), "weight": WEIGHT}

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """A row for each record."""
        if self.target_tokens > length:
            raise ValueError(
                f"{self.at('target_tokens')}={self.target_tokens} is more than a row of data.length={length} has: "
                f"set {self.at('target_tokens')}={length}, or longer rows"
            )
        texts, wanted = split.texts(self.text, self.at("text")), self.wanted(split)
        template, marks = Template.of(tokenizer), Marks.of(tokenizer.vocabulary)
        for begin in range(0, len(split), CHUNK):
            some = range(begin, min(begin + CHUNK, len(split)))
            sources = tokenizer.encode_batch([texts[index] for index in some])
            targets = tokenizer.encode_batch([wanted[index] for index in some])
            for index, source, target in zip(some, sources, targets, strict=True):
                (keep,) = template.fit([len(source)], length)
                whole = np.concatenate([[marks.start], target, [marks.end]])[: self.target_tokens + 1]
                row = np.full(self.target_tokens + 1, marks.pad, np.int32)
                row[: len(whole)] = whole
                values = {"row": row, "size": len(whole), "weight": float(len(target) > 0)}
                read = Row(*template.row(source[:keep])[:2])
                yield Example((read,), values, index, least=len(whole) - 1)

    # ------------------------------------------------------------------------------------------ learning

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """The decoder."""
        return {self.name: Decoder(decoder_config(config, self.decoder), self.name, self.decoder)}

    def stacks(self, config: EncoderConfig) -> Mapping[str, EncoderConfig]:
        """The decoder, where it is to start from an encoder."""
        return {self.name: decoder_config(config, self.decoder)} if self.decoder.start == "encoder" else {}

    def extra_flops(self, config: EncoderConfig, *, attended: float) -> float:
        """The decoder's, as if targets were as long as texts."""
        return decoder_flops(config, self.decoder, attended=attended)

    def normaliser(self, batch: Batch) -> Float[Array, ""]:
        """The number of tokens to predict."""
        return labels_of(batch.targets[self.name], batch.tokens.shape[1])[1].sum()

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """Cross-entropy with smoothing, and accuracy, over the tokens of the targets."""
        labels, weights = labels_of(batch.targets[self.name], batch.tokens.shape[1])
        logits = outputs[self.name]
        logs = jax.nn.log_softmax(logits, axis=-1)
        chosen = jnp.take_along_axis(logs, labels[:, :, None], axis=-1)[..., 0]
        real = logits > NEVER / 2  # the table may have rows that are no tokens
        mean = jnp.where(real, logs, 0.0).sum(-1) / real.sum(-1)
        loss = -((1 - self.smoothing) * chosen + self.smoothing * mean)
        right = (logits.argmax(-1) == labels).astype(jnp.float32)
        return {"loss": weighted(loss, weights), "accuracy": weighted(right, weights)}

    # ------------------------------------------------------------------------------------------ using

    def decode(
        self, apply: Callable[..., Any], outputs: Mapping[str, Any], batch: Batch, vocabulary: Vocabulary
    ) -> Mapping[str, Any]:
        """The best text about every row."""
        memory = Memory(outputs["encoder"].hidden, batch.mask)
        keys = row_keys(jax.random.key(0), batch.example_id, batch.epoch)
        marks = Marks.of(vocabulary)
        written = write_about(apply, self.name, memory, self.search, marks, self.target_tokens, keys)
        return {f"{self.name}_written": written}

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The tokens of the best text, and its log-probability."""
        del batch
        written = outputs[f"{self.name}_written"]
        return {"tokens": written.tokens[:, 0], "size": written.size[:, 0], "logs": written.logs[:, 0]}

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The text, and its log-probability."""
        del split
        assert examples.tokenizer is not None
        found = []
        for tokens, size, logs in zip(outcomes["tokens"], outcomes["size"], outcomes["logs"], strict=True):
            text = examples.tokenizer.decode(tokens[: int(size)].tolist()).strip()
            found.append({"text": text, "log_probability": float(logs)})
        return found

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """All scores, that of `metric` first."""
        wanted = self.wanted(split)
        rows = [index for index, text in enumerate(wanted) if text.strip()]
        if not rows:
            raise ValueError(
                f"{split.name} has no texts in the column {self.target!r} to score predictions with"
            )
        as_is: Callable[[str], str] = str if self.cased else str.lower
        found, known = (
            [as_is(texts[row]) for row in rows] for texts in ([p["text"] for p in predictions], wanted)
        )
        same = [one.split() == other.split() for one, other in zip(found, known, strict=True)]
        scores = {
            "bleu": translation.bleu(found, known, tokenize=self.tokenize).score,
            "chrf": translation.chrf(found, known).score,
            "exact": float(np.mean(same)),
        }
        if any(summary.words(text) for text in known):
            scores["rouge_l"] = summary.score(found, known, kinds=("rougeL",))["rougeL"]
        return {self.metric: scores[self.metric], **scores} if self.metric in scores else scores
