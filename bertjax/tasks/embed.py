"""Sentence embeddings from labelled pairs: two texts are read apart by one encoder (Sentence-BERT, 1908.10084).

    cosine        (cos(a, b) - y)²                                          y is the label by `scale` (STS-B: 5)
    contrastive   -log of exp(cos(a[i], b[i]) / t) over the sum of the same for all b[j] and c[j] of the batch
    triplet       max(0, |a - b| - |a - c| + margin)

a, b and c are the vectors of `text`, `pair` and, where there is one, `negative`: what belongs to the text, and what
does not. In the contrastive loss (1705.00652, with hard negatives as in SimCSE, 2104.08821) all other texts of the
batch are negatives, over all devices; a text that is there twice would be its own, so equal rows are left out.

Held-out records are scored by the correlation of cos(a, b) with their labels (STS), or without labels by retrieval:
every text is a query, and the second texts of all records are what is searched.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal

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
from bertjax.models.heads import NEVER
from bertjax.scores import correlation, retrieval
from bertjax.sharding import shard
from bertjax.tasks.labelled import WEIGHT, LabelledTask, Prediction
from bertjax.types import Array, Batch, Metrics

CHUNK = 1024  # records that are tokenised, and queries that are answered, at a time


@dataclasses.dataclass(frozen=True)
class Embed(LabelledTask):
    """Learns vectors of texts whose angles tell how much the texts have in common."""

    text: str = "text"
    """Column of the text."""
    pair: str = "pair"
    """Column of the one that it is compared with."""
    negative: str | None = None
    """Column of one that it should be far from; none where there is none."""
    label: str | None = "label"
    """Column of how similar text and pair are; none where all belong together."""
    objective: Literal["cosine", "contrastive", "triplet"] = "cosine"
    """What is learned: a similarity, to tell the pair from all others, or from the negative alone."""
    scale: float = 5.0
    """Label of two texts that are the same (objective=cosine)."""
    temperature: float = 0.05
    """Divides the cosines (objective=contrastive)."""
    margin: float = 1.0
    """By how much the negative should be farther than the pair (objective=triplet)."""
    pooling: task_heads.Pooling = "mean"
    """What stands for a text: the pooled token, the first, or the mean or maximum of all."""

    kind: ClassVar[str] = "embed"

    def __post_init__(self) -> None:
        """Refuses an objective without its records."""
        if self.objective == "triplet" and self.negative is None:
            raise ValueError(
                f"{self.at('objective')}=triplet needs a text to be far from: set {self.at('negative')}"
            )
        if self.objective == "cosine" and self.label is None:
            raise ValueError(f"{self.at('objective')}=cosine needs similarities: set {self.at('label')}")
        for field in ("scale", "temperature", "margin"):
            if getattr(self, field) <= 0:
                raise ValueError(f"{self.at(field)}={getattr(self, field)} must be above 0")

    @property
    def group(self) -> int:
        """A row for each text."""
        return 2 if self.negative is None else 3

    @property
    def makes_rows(self) -> bool:  # type: ignore[override]
        """Whether the rows of a batch depend on each other, so that it cannot be taken apart."""
        return self.objective == "contrastive"

    def similarities(self, split: Split) -> np.ndarray:
        """The label of every record; nan where there is none."""
        if self.label is None or split.unlabelled(self.label):
            return np.full(len(split), np.nan)
        return split.numbers(self.label, self.at("label"))

    def resolve(self, train: Split) -> "Embed":
        """As it is, if there is anything to learn."""
        if self.objective == "cosine":
            values = self.similarities(train)
            if not np.isfinite(values).any() or np.nanstd(values) == 0:
                raise ValueError(
                    f"{train.name}: all labels in {self.label!r} are equal or missing: nothing to learn"
                )
        return self

    def targets(self) -> Mapping[str, Target]:
        """The label."""
        return {"label": Target(np.float32), "weight": WEIGHT}

    def encode(self, split: Split, tokenizer: Tokenizer, length: int) -> Iterable[Example]:
        """A row for each text of a record."""
        names = {"text": self.text, "pair": self.pair, "negative": self.negative}
        columns = [split.texts(name, self.at(field)) for field, name in names.items() if name is not None]
        template, values = Template.of(tokenizer), self.similarities(split)
        for start in range(0, len(split), CHUNK):
            some = range(start, min(start + CHUNK, len(split)))
            parts = [tokenizer.encode_batch([column[index] for index in some]) for column in columns]
            for place, index in enumerate(some):
                rows = []
                for part in parts:
                    (keep,) = template.fit([len(part[place])], length)
                    rows.append(Row(*template.row(part[place][:keep])[:2]))
                real = bool(np.isfinite(values[index]))
                weight = float(real or self.objective != "cosine")
                yield Example(rows, {"label": values[index] if real else 0.0, "weight": weight}, index)

    def heads(self, config: EncoderConfig) -> Mapping[str, nn.Module]:
        """A vector of length one for every row."""
        return {self.name: task_heads.Embed(pooling=self.pooling, normalise=True).module(config)}

    def _vectors(self, outputs: Mapping[str, Any]) -> list[Array]:
        """[B D] of each side."""
        vectors = outputs[self.name]
        return [vectors[side :: self.group] for side in range(self.group)]

    def loss(self, outputs: Mapping[str, Any], batch: Batch) -> Metrics:
        """What the objective says, and the similarity of text and pair."""
        target, sides = batch.targets[self.name], self._vectors(outputs)
        weight = target["weight"]
        cosine = (sides[0] * sides[1]).sum(-1)
        metrics: Metrics = {"similarity": weighted(cosine, weight)}
        if self.objective == "cosine":
            return {"loss": weighted(jnp.square(cosine - target["label"] / self.scale), weight), **metrics}
        if self.objective == "triplet":
            far = (sides[0] * sides[2]).sum(-1)
            # The distance of two vectors of length one; its root has no gradient at zero, so a little is added.
            apart = [jnp.sqrt(jnp.maximum(2.0 - 2.0 * value, 0.0) + 1e-9) for value in (cosine, far)]
            loss = jnp.maximum(apart[0] - apart[1] + self.margin, 0.0)
            right = (cosine > far).astype(jnp.float32)
            return {"loss": weighted(loss, weight), "accuracy": weighted(right, weight), **metrics}
        logits, right = [], jnp.arange(len(weight))
        for number, side in enumerate(sides[1:], 1):
            cosines = shard(sides[0] @ side.T, "batch", None) / self.temperature
            same = self._same_rows(batch, number) & ~((number == 1) & jnp.eye(len(weight), dtype=bool))
            logits.append(jnp.where(same | (weight == 0)[None, :], NEVER, cosines))
        joined = jnp.concatenate(logits, axis=1)
        hits = (joined.argmax(-1) == right).astype(jnp.float32)
        return {
            "loss": weighted(cross_entropy(joined, right), weight),
            "accuracy": weighted(hits, weight),
            **metrics,
        }

    def _same_rows(self, batch: Batch, side: int) -> Array:
        """[B B] whether the row of that side is the very one that belongs to the text."""
        pair, other = batch.tokens[1 :: self.group], batch.tokens[side :: self.group]
        return (pair[:, None, :] == other[None, :, :]).all(-1)

    def outcomes(self, outputs: Mapping[str, Any], batch: Batch) -> Mapping[str, Array]:
        """The vectors of text and pair."""
        del batch
        sides = self._vectors(outputs)
        return {"text": sides[0], "pair": sides[1]}

    def predictions(
        self, examples: LabelledExamples, outcomes: Mapping[str, Sequence[np.ndarray]], split: Split
    ) -> list[Prediction]:
        """The similarity, from -1 to 1; the vectors go along, unwritten."""
        del examples, split
        found = []
        for text, pair in zip(outcomes["text"], outcomes["pair"], strict=True):
            found.append({"similarity": float(np.dot(text, pair)), "_text": text, "_pair": pair})
        return found

    def score(self, predictions: Sequence[Prediction], split: Split) -> dict[str, float]:
        """Correlation with the labels; without labels the ranks at which texts find their pairs."""
        wanted = self.similarities(split)
        rows = np.flatnonzero(np.isfinite(wanted)).tolist()
        if len(rows):
            found, wanted = np.array([predictions[row]["similarity"] for row in rows]), wanted[rows]
            return {
                "spearman": correlation.spearman(found, wanted),
                "pearson": correlation.pearson(found, wanted),
            }
        queries, corpus = (np.stack([one[side] for one in predictions]) for side in ("_text", "_pair"))
        _, same = np.unique(split.texts(self.pair, self.at("pair")), return_inverse=True)
        total: dict[str, float] = {}
        for start in range(0, len(queries), CHUNK):
            some = slice(start, start + CHUNK)
            gains = (same[some, None] == same[None, :]).astype(np.float64)
            means = retrieval.score(retrieval.rank(queries[some] @ corpus.T, gains), at=(1, 10))
            for name, value in means.items():
                total[name] = total.get(name, 0.0) + value * len(gains) / len(queries)
        return {"mrr@10": total.pop("mrr@10"), **total}
