"""One unit of text becomes one part of a corpus: the work of a worker process.

A part is an Arrow stream of one record batch with the columns of a shard, plus what happened on the way
in its metadata. It is written under another name, forced to the disk and renamed, so a part that exists
is whole; its name is the hash of the unit and of everything that decides how it is encoded, so a part
that exists is also right.
"""

import dataclasses
import hashlib
import json
import os
from typing import Any

import numpy as np

from bertjax.data.corpus import token_type
from bertjax.data.files import finish
from bertjax.data.records import BadRecords, texts
from bertjax.data.sentences import Rule, split_sentences
from bertjax.data.shards import Columns
from bertjax.data.sources import Unit
from bertjax.data.subword import Tokenizer
from bertjax.data.workers import find_callable

__all__ = ["Encoder", "Rules", "document_id", "part_counts", "part_name", "read_part"]

CHARACTERS_AT_ONCE = 1 << 18  # text between two calls of the tokenizer: bounds memory, long enough to be fast


@dataclasses.dataclass(frozen=True)
class Rules:
    """What decides how a unit is encoded, besides the tokenizer."""

    field: str
    on_bad_record: Any
    sentences: Rule
    segmenter: str | None


class Encoder:
    """Encodes units into parts in `folder`; made once in each worker."""

    def __init__(self, tokenizer: Tokenizer, rules: Rules, folder: str) -> None:
        self.tokenizer, self.rules, self.folder = tokenizer, rules, folder
        self.segment = find_callable(rules.segmenter) if rules.segmenter else None
        vocabulary = tokenizer.vocabulary
        self.width, self.unknown = token_type(vocabulary.size), vocabulary.unk

    def __call__(self, task: tuple[str, Unit]) -> tuple[dict[str, Any], int]:
        """Writes the part of a unit under a name; returns its counts and the progress it stands for."""
        name, unit = task
        bad = BadRecords(self.rules.on_bad_record)
        documents, empty, size = self._encode(unit, bad)
        counts = {
            "documents": len(documents),
            "sentences": len(documents.sentences),
            "tokens": len(documents.tokens),
            "unknown": int((documents.tokens == self.unknown).sum()),
            "text_bytes": size,
            "empty": empty,
            "skipped": bad.count,
            "first_skipped": bad.first,
            "cut": int(unit.cut),
        }
        _write_part(os.path.join(self.folder, name), documents, counts)
        return counts, unit.progress

    def _encode(self, unit: Unit, bad: BadRecords) -> tuple[Columns, int, int]:
        tokens: list[np.ndarray] = []
        lengths: list[np.ndarray] = []
        words: list[np.ndarray] = []
        pending: list[str] = []
        counts: list[int] = []
        ids: list[int] = []
        characters = size = 0

        def flush() -> None:
            nonlocal pending, characters
            if pending:
                flat, each, starts = self._tokenize(pending)
                tokens.append(flat.astype(self.width))
                lengths.append(each)
                if starts is not None:
                    words.append(starts)
            pending, characters = [], 0

        for text in texts(unit, self.rules.field, bad):
            sentences = split_sentences(text, self.rules.sentences)
            encoded = text.encode()
            size += len(encoded)
            ids.append(document_id(encoded))
            counts.append(len(sentences))
            for sentence in sentences:
                pending.append(sentence)
                characters += len(sentence)
                if characters >= CHARACTERS_AT_ONCE:
                    flush()
        flush()
        all_lengths = np.concatenate([np.zeros(0, np.int64), *lengths])
        # What becomes no token at all (control characters) is no sentence; without one there is no document.
        owner = np.repeat(np.arange(len(counts)), counts)[all_lengths > 0]
        full = np.bincount(owner, minlength=len(counts))
        documents = Columns(
            tokens=np.concatenate([np.zeros(0, self.width), *tokens]),
            sentences=all_lengths[all_lengths > 0].astype(np.int32),
            counts=full[full > 0],
            ids=np.array(ids, np.uint64)[full > 0],
            sources=np.zeros(int((full > 0).sum()), np.uint16),
            words=np.concatenate([np.zeros(0, np.uint8), *words]) if self.segment else None,
        )
        return documents, int((full == 0).sum()), size

    def _tokenize(self, sentences: list[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """(tokens, tokens of each sentence, word starts if there is a segmenter)."""
        prefix = self.tokenizer.word_prefix
        if self.segment is None:
            prefixed = [prefix + sentence for sentence in sentences] if prefix else sentences
            return *self.tokenizer.encode_flat(prefixed), None
        flat, lengths, starts = [], [], []
        for sentence, (tokens, offsets) in zip(
            sentences,
            self.tokenizer.encode_with_offsets([prefix + sentence for sentence in sentences]),
            strict=True,
        ):
            begins = np.array(self._word_begins(sentence)) + len(prefix)
            # A token starts a word if a word begins inside it; a token may take the space before along.
            first = np.searchsorted(begins, offsets[:, 0], side="left")
            last = np.searchsorted(begins, offsets[:, 1], side="left")
            starts.append((last > first).astype(np.uint8))
            flat.append(tokens)
            lengths.append(len(tokens))
        return np.concatenate(flat), np.array(lengths, np.int64), np.concatenate(starts)

    def _word_begins(self, sentence: str) -> list[int]:
        assert self.segment is not None
        begins, position = [], 0
        for word in self.segment(sentence):
            if not word.strip():
                continue
            found = sentence.find(word, position)
            if found < 0 or sentence[position:found].strip():
                raise ValueError(
                    f"segmenter {self.rules.segmenter} gave {word!r} where the text goes on with "
                    f"{sentence[position : position + 20]!r}: its words must be the text, white space aside"
                )
            begins.append(found)
            position = found + len(word)
        return begins


def document_id(text: bytes) -> int:
    """The 64-bit hash by which a document is known, split off and compared."""
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def part_name(unit: Unit, rules: str) -> str:
    """The name of a unit's part under the digest of tokenizer and rules."""
    return hashlib.blake2b(f"{rules} {unit.key} {unit.cut}".encode(), digest_size=16).hexdigest() + ".arrow"


def _write_part(path: str, documents: Columns, counts: dict[str, Any]) -> None:
    import pyarrow as pa

    batch = documents.to_arrow()
    schema = batch.schema.with_metadata({"counts": json.dumps(counts)})
    temporary = f"{path}.{os.getpid()}.tmp"
    try:
        with open(temporary, "wb") as file:
            with pa.ipc.new_stream(file, schema) as stream:
                stream.write_batch(batch.replace_schema_metadata(schema.metadata))
            finish(file)
        os.rename(temporary, path)
    except OSError:
        if os.path.exists(temporary):
            os.remove(temporary)
        raise


def part_counts(path: str) -> dict[str, Any]:
    """What happened when a part was made."""
    import pyarrow as pa

    with pa.memory_map(path) as mapped:
        counts: dict[str, Any] = json.loads(pa.ipc.open_stream(mapped).schema.metadata[b"counts"])
        return counts


def read_part(path: str) -> Columns:
    """The documents of a part, mapped from the disk."""
    import pyarrow as pa

    return Columns.from_arrow(pa.ipc.open_stream(pa.memory_map(path)).read_next_batch())
