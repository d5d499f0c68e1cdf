"""What two frameworks do side by side: the job, the model, and one batch that both compute on.

    real       rows without padding, [CLS] a [SEP] b [SEP], random tokens: masked words and next sentences
    natural    documents of natural lengths, masked words: ours packed into rows, theirs padded, one a row

Lengths of documents are log-normal with a median of 0.4 rows and a spread of 0.8, cut at a row: about half of a padded
batch is padding, as of rows of Wikipedia at 512 tokens. Both sides learn the same tokens at the same places: the batch
is corrupted once, by our own tasks, and taken apart into documents for the other side.
"""

import dataclasses
from typing import Literal

import numpy as np

from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.corpus import Vocabulary
from bertjax.data.packing import BestFit, best_fit_decreasing
from bertjax.data.pairs import SegmentPair
from bertjax.data.synthetic import SyntheticCorpus
from bertjax.layers.config import EncoderConfig
from bertjax.models.presets import PRESETS
from bertjax.tasks import Mlm, Nsp
from bertjax.types import Batch

Job = Literal["train", "infer"]
Rows = Literal["real", "natural"]
Peer = Literal["transformers", "transformers-compiled", "transformers-flax", "without-dropout", "none"]
# Other frameworks, that must be installed, and what answers for each in a process of its own.
FOREIGN: dict[str, str] = {
    "transformers": "theirs:Theirs",
    "transformers-compiled": "theirs:Theirs",
    "transformers-flax": "theirs_flax:TheirsFlax",
}
REFERENCE = FOREIGN["transformers"]  # in float32, what all sides are held against

IGNORED = -100  # the label of what is not predicted, in PyTorch


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table: one measurement."""

    job: Job = "train"
    model: EncoderConfig = PRESETS["base"]
    batch: int = 16  # rows of the padded batch; of documents where lengths are natural
    length: int = 128
    rows: Rows = "real"
    peers: tuple[Peer, ...] = ("transformers",)
    threads: int = 0  # of the CPU; 0 for all
    goal: float | None = None  # ratio that is wanted at least
    aim: float | None = None  # ratio that is hoped for
    share: float | None = None  # of one large product's speed that is wanted at least

    @property
    def name(self) -> str:
        """What is measured, in a few words."""
        c = self.model
        size = next((name for name, preset in PRESETS.items() if _size(preset) == _size(c)), None)
        dropout = c.dropout or c.attention_dropout
        words = [
            {"train": "step", "infer": "inference"}[self.job],
            size or f"{c.layers} x {c.width}",
            f"{self.batch} x {self.length}",
            c.dtype,
            *(["natural lengths"] if self.rows == "natural" else []),
            *(["no dropout"] if self.job == "train" and not dropout else []),
        ]
        return ", ".join(words)

    @property
    def still(self) -> "Row":
        """The same without dropout."""
        model = dataclasses.replace(self.model, dropout=0.0, attention_dropout=0.0)
        return dataclasses.replace(self, model=model)

    @property
    def peer_class(self) -> str:
        """The class of `transformers` that has just the heads of this row."""
        if self.job == "infer":
            return "BertModel"
        return "BertForMaskedLM" if self.rows == "natural" else "BertForPreTraining"

    @property
    def config(self) -> Config:
        """The run whose step this is: the defaults of every run, on such rows."""
        natural = self.rows == "natural"
        return Config(
            model=self.model,
            data=DataConfig(format=BestFit() if natural else SegmentPair(), length=self.length),
            tasks=(Mlm(),) if natural else (Mlm(), Nsp()),
            train=TrainConfig(batch_size=len(self.inputs.tokens)),
        )

    @property
    def vocabulary(self) -> Vocabulary:
        """Special tokens, and as many others as the model has."""
        return SyntheticCorpus(1, self.model.vocab, seed=0).vocabulary

    @property
    def inputs(self) -> Batch:
        """The batch before anything is hidden."""
        return natural_rows(self) if self.rows == "natural" else real_rows(self)


def _size(config: EncoderConfig) -> tuple[int, ...]:
    return config.layers, config.width, config.heads, config.hidden, config.vocab


def real_rows(row: Row) -> Batch:
    """Pairs of segments that fill their rows."""
    random, vocabulary = np.random.default_rng(0), row.vocabulary
    shape, half = (row.batch, row.length), row.length // 2
    tokens = _ordinary(random, vocabulary, shape)
    tokens[:, 0] = vocabulary.cls
    tokens[:, [half - 1, -1]] = vocabulary.sep
    place = np.broadcast_to(np.arange(row.length, dtype=np.int32), shape)
    label = random.integers(0, 2, row.batch, dtype=np.int32)
    return Batch(
        tokens=tokens,
        mask=np.ones(shape, bool),
        types=(place >= half).astype(np.int32),
        positions=place,
        segments=None,
        targets={"pair": {"label": label}},
        **_identity(row.batch),
    )


def natural_rows(row: Row) -> Batch:
    """Documents of natural lengths, packed best-fit."""
    random = np.random.default_rng(0)
    lengths = np.exp(random.normal(np.log(0.4 * row.length), 0.8, row.batch))
    lengths = np.clip(np.rint(lengths), min(8, row.length), row.length).astype(np.int64)
    where = best_fit_decreasing(lengths, row.length)
    return packed_rows(lengths, where, row.length, row.vocabulary, random)


def packed_rows(
    lengths: np.ndarray, where: np.ndarray, length: int, vocabulary: Vocabulary, random: np.random.Generator
) -> Batch:
    """Documents of these lengths, each in the row that `where` names, one after the other."""
    shape = (int(where.max()) + 1, length)
    tokens, positions, segments = (np.zeros(shape, np.int32) for _ in range(3))
    filled, documents = np.zeros(shape[0], np.int64), np.zeros(shape[0], np.int64)
    for size, line in zip(lengths, where, strict=True):
        part = slice(filled[line], filled[line] + size)
        document = _ordinary(random, vocabulary, (int(size),))
        document[0], document[-1] = vocabulary.cls, vocabulary.sep
        documents[line] += 1
        tokens[line, part], positions[line, part] = document, np.arange(size)
        segments[line, part] = documents[line]
        filled[line] += size
    mask = segments > 0
    return Batch(
        tokens=tokens,
        mask=mask,
        types=np.zeros(shape, np.int32),
        positions=positions,
        segments=segments,
        targets={},
        **_identity(shape[0]),
    )


def _ordinary(random: np.random.Generator, vocabulary: Vocabulary, shape: tuple[int, ...]) -> np.ndarray:
    return random.choice(np.flatnonzero(~vocabulary.special), shape).astype(np.int32)


def _identity(rows: int) -> dict[str, np.ndarray]:
    return {"example_id": np.arange(rows, dtype=np.int32), "epoch": np.zeros(rows, np.int32)}


def for_peer(batch: Batch, vocabulary: Vocabulary, length: int) -> dict[str, np.ndarray]:
    """A corrupted batch as other frameworks take it: one document a row, padded, labels at the hidden places."""
    tokens, mask = np.asarray(batch.tokens), np.asarray(batch.mask)
    target = {name: np.asarray(value) for name, value in batch.targets["mlm"].items()}
    labels = np.full(tokens.shape, IGNORED, np.int64)
    used = np.nonzero(target["weights"])
    labels[used[0], target["positions"][used]] = target["labels"][used]
    segments = mask.astype(np.int32) if batch.segments is None else np.asarray(batch.segments)
    parts = [
        (line, np.flatnonzero(segments[line] == number))
        for line in range(len(tokens))
        for number in range(1, int(segments[line].max()) + 1)
    ]
    shape = (len(parts), length)
    found = {
        "input_ids": np.full(shape, vocabulary.pad, np.int64),
        "token_type_ids": np.zeros(shape, np.int64),
        "attention_mask": np.zeros(shape, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
    }
    for index, (line, where) in enumerate(parts):
        own = slice(0, len(where))
        found["input_ids"][index, own] = tokens[line, where]
        found["token_type_ids"][index, own] = np.asarray(batch.types)[line, where]
        found["attention_mask"][index, own] = 1
        found["labels"][index, own] = labels[line, where]
    if found["attention_mask"].all():
        del found["attention_mask"]  # nothing to mask: the other side is spared it
    if "pair" in batch.targets:
        found["next_sentence_label"] = np.asarray(batch.targets["pair"]["label"], np.int64)
    return found
