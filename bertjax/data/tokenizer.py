"""Training a tokenizer: WordPiece, byte-level BPE, SentencePiece Unigram or BPE, or more words for one; always alike.

Deterministic by construction, not by luck:
- The text is a sample of documents, those with the lowest hashes up to `sample_mb`, in the order of the
  sources.
- The alphabet is chosen here: the most frequent characters that cover `coverage` of the text, ties by
  code point.
- WordPiece training in `tokenizers` numbers the continuing characters (##a) in the order of a randomly
  seeded hash map, and breaks ties by these numbers. So it runs twice: once to learn which there are, once
  with all numbered.
- SentencePiece sums in as many threads as it is told, so that number is fixed and does not follow the
  machine.

A vocabulary that the text cannot fill is an error that says what it could; it is never padded.
"""

import dataclasses
import heapq
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from bertjax import settings
from bertjax.data.encode import document_id
from bertjax.data.extend import extend
from bertjax.data.fast_tokenizer import FastTokenizer, Special, wordpiece_json
from bertjax.data.files import read_stamp, replace_file, write_stamp
from bertjax.data.progress import Progress
from bertjax.data.records import BadRecords, texts
from bertjax.data.sentencepiece_tokenizer import SentencePieceTokenizer
from bertjax.data.sources import Source, SourceOptions, Unit, find_sources, still_the_same
from bertjax.data.subword import SPECIAL, Tokenizer
from bertjax.data.tokenizer_files import load
from bertjax.data.workers import Pool, available_cores

__all__ = ["Tokenizer", "TokenizerOptions", "load", "train_tokenizer"]

NAMES = [names[0] for names in SPECIAL.values()]  # the special tokens, numbered from 0 in this order
THREADS = 16


@dataclasses.dataclass(frozen=True)
class TokenizerOptions(SourceOptions):
    """What to train a tokenizer on, of which kind, and where to put it."""

    out: str = ""
    """The folder of the tokenizer."""
    extend: str | None = None
    """A WordPiece tokenizer, or a run or corpus with one, that keeps its tokens and gets whole words of the input."""
    kind: Literal["wordpiece", "byte_bpe", "sentencepiece", "sentencepiece_bpe"] = "wordpiece"
    """BERT's WordPiece, RoBERTa's byte-level BPE, or SentencePiece (Unigram as ALBERT's, or BPE)."""
    vocab: int = 30522
    """Number of tokens, the five special ones included."""
    lowercase: bool = True
    """An uncased tokenizer; for WordPiece accents go with the case."""
    split_cjk: bool = True
    """WordPiece: every Chinese character is a word, as in BERT."""
    coverage: float = 0.9999
    """Share of the text's characters that the alphabet covers, the rest being unknown; bytes need none."""
    min_frequency: int = 2
    """WordPiece and byte-level BPE: how often a pair must occur to be merged, or a word to be added."""
    sample_mb: int = 64
    """Megabytes of text to train on, drawn evenly from all of it."""
    workers: int | None = None
    """Processes that read the text; None takes all cores."""


def train_tokenizer(options: TokenizerOptions) -> Tokenizer:
    """Trains a tokenizer and saves it, or finds it finished."""
    _check(options)
    sources = find_sources(options)
    described = {
        name: value for name, value in dataclasses.asdict(options).items() if name not in ("out", "workers")
    }
    old = None
    if options.extend is not None:
        old = _extended(options, options.extend)
        described["extend"] = old.digest
    described["input"] = list(options.input)
    stamp = settings.digest([source.stamp for source in sources])
    if os.path.isdir(options.out) and os.listdir(options.out):
        return _finished(options.out, described, sources, stamp)
    text, counts = _sample(options, sources)
    if not text:
        raise ValueError(f"input {', '.join(options.input)}: no document to train on: give more text")
    if old is not None:
        tokenizer = extend(old, text, options.vocab, options.min_frequency)
    else:
        tokenizer = _TRAINERS[options.kind](text, options)
    size = tokenizer.vocabulary.size
    if size != options.vocab:
        raise ValueError(
            f"vocab={options.vocab} is more than the text can fill: it gives {size} tokens; "
            f"use --vocab={size} or less, or more text"
        )
    record = {
        "options": described,
        "sources": [source.digest for source in sources],
        "documents": len(text),
        **counts,
        "tokenizer": tokenizer.digest,
    }
    _save(tokenizer, record, stamp, options.out)
    new = "" if old is None else f", {size - old.vocabulary.size:,} of them new words"
    print(f"tokenizer {options.out}: {options.kind}, {size:,} tokens{new}, from {len(text):,} documents")
    return tokenizer


def _check(options: TokenizerOptions) -> None:
    if not options.out:
        raise ValueError("no out given: say --out=FOLDER")
    if os.path.exists(options.out) and not os.path.isdir(options.out):
        raise ValueError(f"out={options.out} is a file: name a folder that does not exist yet")
    if options.vocab <= len(NAMES):
        raise ValueError(
            f"vocab={options.vocab} leaves no room beside {len(NAMES)} special tokens: 8192 is small"
        )
    if not 0 < options.coverage <= 1:
        raise ValueError(f"coverage={options.coverage} is not a share of the text: choose from above 0 to 1")
    for name in ("sample_mb", "min_frequency", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"{name}={value}: it must be at least 1")


def _extended(options: TokenizerOptions, path: str) -> Tokenizer:
    """The tokenizer that gets new words; it decides what else could be asked for."""
    below = os.path.join(path, "tokenizer")
    old = load(below if os.path.isdir(below) else path)
    if old.kind != "wordpiece":
        raise ValueError(f"extend={path} is a {old.kind} tokenizer: only wordpiece can be extended")
    for field in dataclasses.fields(options):
        if field.name in ("kind", "lowercase", "split_cjk", "coverage"):
            if (value := getattr(options, field.name)) != field.default:
                raise ValueError(
                    f"{field.name}={value}: extend={path} keeps its own, leave out --{field.name}"
                )
    size = old.vocabulary.size
    if options.vocab <= size:
        raise ValueError(
            f"vocab={options.vocab} leaves no room beside the {size} tokens of extend={path}: "
            f"use --vocab={size + 1000} to add 1000"
        )
    return old


def _finished(out: str, described: dict[str, Any], sources: list[Source], stamp: str) -> Tokenizer:
    """The tokenizer that is there, if it is the one that was asked for."""
    try:
        with open(os.path.join(out, "training.json"), encoding="utf-8") as file:
            record: dict[str, Any] = json.load(file)
    except (OSError, ValueError):
        hint = "name a folder that does not exist yet"
        raise ValueError(f"out={out} is not empty and holds no trained tokenizer: {hint}") from None
    changed = list(settings.differences(described, record["options"]))
    if changed:
        raise ValueError(
            f"out={out} holds another tokenizer ({changed[0]}): choose another out, or remove that one"
        )
    tokenizer = load(out)
    if tokenizer.digest != record["tokenizer"]:
        raise ValueError(
            f"out={out}: the tokenizer was changed after it was trained: remove it and train it again"
        )
    if read_stamp(out) != stamp:  # files were touched, copied or changed: only their contents tell
        still_the_same(sources, record["sources"], out)
        write_stamp(out, stamp)
    print(f"tokenizer {out} is finished: nothing to do")
    return tokenizer


def _save(tokenizer: Tokenizer, record: dict[str, Any], stamp: str, out: str) -> None:
    temporary = f"{out.rstrip(os.sep)}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        tokenizer.save(temporary)
        write_stamp(temporary, stamp)
        replace_file(os.path.join(temporary, "training.json"), json.dumps(record, indent=1).encode())
        os.replace(temporary, out)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise ValueError(
            f"out={out} cannot be written ({error.strerror}): make room, or choose another"
        ) from None


# ------------------------------------------------------------------------------------- the sample


class Reader:
    """The documents of a unit with their hashes: the work of a worker process."""

    def __init__(self, field: str, on_bad_record: Any) -> None:
        self.field, self.on_bad_record = field, on_bad_record

    def __call__(self, unit: Unit) -> tuple[list[tuple[int, str]], int, int, str | None]:
        """((hash, text) of every document, progress, bad records, the first of them)."""
        bad = BadRecords(self.on_bad_record)
        documents = [(document_id(text.encode()), text) for text in texts(unit, self.field, bad)]
        return documents, unit.progress, bad.count, bad.first


def _sample(options: TokenizerOptions, sources: list[Source]) -> tuple[list[str], dict[str, int]]:
    """Documents with the lowest hashes, up to `sample_mb`, in order; and how much there was."""
    room = options.sample_mb * 1_000_000
    kept: list[tuple[int, int, str]] = []  # a heap with the highest hash on top: (-hash, number, text)
    held = seen = number = skipped = 0
    sizes = [source.bytes for source in sources]
    known = [size for size in sizes if size is not None]
    total = sum(known) if len(known) == len(sizes) else None
    workers = options.workers or available_cores()
    units = (unit for source in sources for unit in source.units())
    with (
        Progress("tokenizer: reading", total) as progress,
        Pool(workers, f"{__name__}:Reader", options.field, options.on_bad_record) as pool,
    ):
        for documents, advance, bad, first in pool.map(units):
            progress.add(advance)
            skipped += bad
            if skipped > options.bad_records:
                raise ValueError(
                    f"more than bad_records={options.bad_records} records are bad, one is {first}"
                )
            for hashed, text in documents:
                number += 1
                size = len(text.encode())
                seen += size
                heapq.heappush(kept, (-hashed, number, text))
                held += size
                while held > room and len(kept) > 1:
                    held -= len(heapq.heappop(kept)[2].encode())
    chosen = [text for _, _, text in sorted(kept, key=lambda item: item[1])]
    return chosen, {"sampled_bytes": held, "text_bytes": seen, "skipped": skipped}


def _alphabet(text: Iterable[str], coverage: float) -> list[str]:
    """The most frequent characters that make up `coverage` of the text, white space aside, sorted."""
    counts = np.zeros(sys.maxunicode + 1, np.int64)
    for piece in text:
        points = np.frombuffer(piece.encode("utf-32-le"), np.uint32)
        found, times = np.unique(points, return_counts=True)
        counts[found] += times
    present = np.flatnonzero(counts)
    present = present[[not chr(point).isspace() for point in present]]
    order = present[np.lexsort((present, -counts[present]))]
    total = np.cumsum(counts[order])
    enough = int(np.searchsorted(total, coverage * total[-1])) + 1 if len(order) else 0
    return [chr(point) for point in sorted(order[:enough])]


# ------------------------------------------------------------------------------------- the kinds


def _wordpiece(text: list[str], options: TokenizerOptions) -> Tokenizer:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, trainers

    empty = Fast.from_str(
        wordpiece_json(
            {name: n for n, name in enumerate(NAMES)},
            lowercase=options.lowercase,
            split_cjk=options.split_cjk,
        )
    )
    alphabet = _alphabet(map(empty.normalizer.normalize_str, text), options.coverage)

    def train(vocab: int, first: list[str]) -> dict[str, int]:
        fast = Fast(models.WordPiece(unk_token="[UNK]"))
        fast.normalizer, fast.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
        trainer = trainers.WordPieceTrainer(
            vocab_size=vocab,
            min_frequency=options.min_frequency,
            special_tokens=first,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        fast.train_from_iterator(text, trainer)
        found: dict[str, int] = fast.get_vocab()
        return found

    # With no room for merges the vocabulary is the alphabet, once as it is and once continuing.
    continuing = sorted(
        token for token in train(len(NAMES), NAMES) if len(token) == 3 and token.startswith("##")
    )
    least = len(NAMES) + len(alphabet) + len(continuing)
    if options.vocab < least:
        raise ValueError(
            f"vocab={options.vocab} is less than the {least} characters and special tokens: "
            f"use --vocab={2 * least} or more, or a lower --coverage"
        )
    trained = train(options.vocab, NAMES + continuing)
    merged = sorted(
        (token for token, number in trained.items() if number >= least), key=lambda token: trained[token]
    )
    ordered = [*NAMES, *alphabet, *continuing, *merged]
    assert sorted(ordered) == sorted(trained)
    numbered = {token: number for number, token in enumerate(ordered)}
    json_text = wordpiece_json(numbered, lowercase=options.lowercase, split_cjk=options.split_cjk)
    return FastTokenizer({"tokenizer.json": json_text.encode()})


def _byte_bpe(text: list[str], options: TokenizerOptions) -> Tokenizer:
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

    least = len(NAMES) + 256
    if options.vocab < least:
        raise ValueError(
            f"vocab={options.vocab} is less than the 256 bytes and special tokens: use {least} or more"
        )
    fast = Fast(models.BPE())
    if options.lowercase:
        fast.normalizer = normalizers.Lowercase()
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    fast.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocab,
        min_frequency=options.min_frequency,
        special_tokens=NAMES,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    fast.train_from_iterator(text, trainer)
    Special().add_to(fast)
    return FastTokenizer({"tokenizer.json": fast.to_str(pretty=True).encode()})


def _sentencepiece(text: list[str], options: TokenizerOptions) -> Tokenizer:
    from sentencepiece import SentencePieceTrainer

    pad, unk, *control = NAMES
    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=_lines(text),
            model_writer=model,
            model_type="bpe" if options.kind == "sentencepiece_bpe" else "unigram",
            vocab_size=options.vocab,
            character_coverage=options.coverage,
            normalization_rule_name="nmt_nfkc_cf" if options.lowercase else "nmt_nfkc",
            pad_id=0,
            pad_piece=pad,
            unk_id=1,
            unk_piece=unk,
            bos_id=-1,
            eos_id=-1,
            control_symbols=control,
            num_threads=THREADS,
            max_sentence_length=1 << 16,
            minloglevel=2,
        )
    except RuntimeError as error:
        limit = re.search(r"<= (\d+)", str(error))
        least = re.search(r"required_chars. \d+ vs (\d+)", str(error))
        if limit:
            hint = f"is more than the text can fill: use --vocab={limit[1]} or less, or more text"
        elif least:
            hint = (
                f"is less than the {least[1]} characters and special tokens: use more, or a lower --coverage"
            )
        else:
            hint = f"cannot be trained ({str(error).splitlines()[0]}): give more text"
        raise ValueError(f"vocab={options.vocab} {hint}") from None
    return SentencePieceTokenizer({"spm.model": model.getvalue()})


def _lines(text: list[str]) -> Iterator[str]:
    """Lines no longer than what the trainer takes; it would pass over others in silence."""
    longest = 1 << 13  # characters, of four bytes at most
    for document in text:
        for line in document.splitlines():
            for start in range(0, len(line), longest):
                if piece := line[start : start + longest].strip():
                    yield piece


_TRAINERS = {
    "wordpiece": _wordpiece,
    "byte_bpe": _byte_bpe,
    "sentencepiece": _sentencepiece,
    "sentencepiece_bpe": _sentencepiece,
}
