"""Writing the shards of a corpus: documents go in, Arrow streams and the arrays beside them come out.

Documents are gathered into record batches of about `BATCH_TOKENS` tokens and record batches into shards
of about `shard_tokens`, so memory is bounded by one record batch. Offsets are appended as they come, for
their number is not known before the end. Nothing here is trusted by anyone until the manifest lists it.

Worker processes import this module, so it and what it imports do without JAX; shapes stand in comments
for that reason.
"""

import hashlib
import io
import os
from typing import Any, BinaryIO, Self

import numpy as np

from bertjax.data.corpus import shard_name, token_type
from bertjax.data.files import finish

__all__ = ["BATCH_TOKENS", "Columns", "GrowingArray", "SplitWriter"]

BATCH_TOKENS = 1 << 21


class Columns:
    """Documents as flat columns: tokens and sentence lengths of all, counts and ids of each."""

    def __init__(
        self,
        tokens: np.ndarray,  # [tokens]
        sentences: np.ndarray,  # [sentences] tokens of each
        counts: np.ndarray,  # [documents] sentences of each
        ids: np.ndarray,  # [documents] uint64
        sources: np.ndarray,  # [documents]
        words: np.ndarray | None,  # [tokens] uint8, 1 where a token starts a word
    ) -> None:
        self.tokens, self.sentences, self.counts = tokens, sentences, counts
        self.ids, self.sources, self.words = ids, sources, words

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document."""
        starts = np.concatenate([[0], np.cumsum(self.sentences, dtype=np.int64)])
        return np.diff(starts[np.concatenate([[0], np.cumsum(self.counts, dtype=np.int64)])])

    def select(self, keep: np.ndarray) -> "Columns":
        """The documents at which `keep` is True."""
        tokens = np.repeat(keep, self.lengths)
        return Columns(
            self.tokens[tokens],
            self.sentences[np.repeat(keep, self.counts)],
            self.counts[keep],
            self.ids[keep],
            self.sources[keep],
            None if self.words is None else self.words[tokens],
        )

    @staticmethod
    def concatenate(parts: "list[Columns]") -> "Columns":
        """All documents of several, in order."""
        words = [part.words for part in parts if part.words is not None]
        return Columns(
            np.concatenate([part.tokens for part in parts]),
            np.concatenate([part.sentences for part in parts]),
            np.concatenate([part.counts for part in parts]),
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.sources for part in parts]),
            np.concatenate(words) if words else None,
        )

    def to_arrow(self) -> Any:
        """One record batch, one row a document."""
        import pyarrow as pa

        def lists(values: np.ndarray, counts: np.ndarray) -> Any:
            offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int32)
            return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

        columns = {
            "tokens": lists(self.tokens, self.lengths),
            "sentences": lists(self.sentences.astype(np.int32), self.counts),
            "id": pa.array(self.ids),
            "source": pa.array(self.sources.astype(np.uint16)),
        }
        if self.words is not None:
            columns["words"] = lists(self.words, self.lengths)
        return pa.RecordBatch.from_pydict(columns)

    @staticmethod
    def from_arrow(batch: Any) -> "Columns":
        """The inverse of `to_arrow`; the arrays stay where Arrow has them."""

        def flat(name: str) -> np.ndarray:
            return batch.column(name).flatten().to_numpy()

        return Columns(
            flat("tokens"),
            flat("sentences"),
            np.diff(batch.column("sentences").offsets.to_numpy()),
            batch.column("id").to_numpy(),
            batch.column("source").to_numpy(),
            flat("words") if "words" in batch.schema.names else None,
        )


class SplitWriter:
    """Writes one split: shards and offset arrays into `folder`."""

    def __init__(self, folder: str, *, vocabulary_size: int, shard_tokens: int) -> None:
        os.makedirs(folder, exist_ok=True)
        self.folder, self.shard_tokens, self.width = folder, shard_tokens, token_type(vocabulary_size)
        self.documents = self.sentences = self.tokens = 0
        self.files: dict[str, dict[str, Any]] = {}  # name -> bytes, sha256
        self._pending: list[Columns] = []
        self._pending_tokens = 0
        self._shard: _Shard | None = None
        self._shards = 0
        self._sentence_offsets = GrowingArray(self._name("sentence_offsets"), np.int64)
        self._document_offsets = GrowingArray(self._name("document_offsets"), np.int64)
        self._ids = GrowingArray(self._name("document_ids"), np.uint64)
        self._sources = GrowingArray(self._name("document_sources"), np.uint16)
        self._batches = GrowingArray(self._name("batches"), np.int64, (4,))
        self._arrays = [
            self._sentence_offsets,
            self._document_offsets,
            self._ids,
            self._sources,
            self._batches,
        ]
        self._sentence_offsets.append(np.zeros(1, np.int64))
        self._document_offsets.append(np.zeros(1, np.int64))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._shard is not None:
            self._shard.abandon()
        for array in self._arrays:
            array.abandon()

    def _name(self, array: str) -> str:
        return os.path.join(self.folder, f"{array}.npy")

    def add(self, documents: Columns) -> None:
        """Appends documents; they reach the disk when a record batch is full."""
        if not len(documents):
            return
        self._pending.append(documents)
        self._pending_tokens += len(documents.tokens)
        if self._pending_tokens >= min(BATCH_TOKENS, self.shard_tokens):
            self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        documents = Columns.concatenate(self._pending)
        self._pending, self._pending_tokens = [], 0
        if self._shard is None:
            self._shard = _Shard(os.path.join(self.folder, shard_name(self._shards)))
        self._shard.write(documents.to_arrow(), first=self.tokens)
        self._sentence_offsets.append(self.tokens + np.cumsum(documents.sentences, dtype=np.int64))
        self._document_offsets.append(self.sentences + np.cumsum(documents.counts, dtype=np.int64))
        self._ids.append(documents.ids)
        self._sources.append(documents.sources)
        self.documents += len(documents)
        self.sentences += len(documents.sentences)
        self.tokens += len(documents.tokens)
        if self._shard.tokens >= self.shard_tokens:
            self._close_shard()

    def _close_shard(self) -> None:
        if self._shard is not None:
            places, written = self._shard.close()
            self._batches.append(
                np.array([(first, self._shards, *place) for first, *place in places], np.int64)
            )
            self.files[shard_name(self._shards)] = written
            self._shard, self._shards = None, self._shards + 1

    def close(self) -> dict[str, int]:
        """Finishes all files; returns what the manifest says of this split."""
        self._flush()
        self._close_shard()
        for array in self._arrays:
            self.files[os.path.basename(array.path)] = array.close()
        return {
            "documents": self.documents,
            "sentences": self.sentences,
            "tokens": self.tokens,
            "shards": self._shards,
        }


class _Hashing(io.RawIOBase):
    """A file that is hashed while it is written."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.file: BinaryIO = open(path, "wb")  # noqa: SIM115 (closed by `finish`)
        self.hash, self.bytes = hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        self.file.write(data)
        size = memoryview(data).nbytes
        self.bytes += size
        return size

    def finish(self) -> dict[str, Any]:
        """Forces everything to the disk; returns size and sha256."""
        finish(self.file)
        return {"bytes": self.bytes, "sha256": self.hash.hexdigest()}


class _Shard:
    """One Arrow IPC stream under way."""

    def __init__(self, path: str) -> None:
        self.path, self.tokens = path, 0
        self._file = _Hashing(path)
        self._firsts: list[int] = []
        self._stream: Any = None

    def write(self, batch: Any, first: int) -> None:
        import pyarrow as pa

        if self._stream is None:
            self._stream = pa.ipc.new_stream(self._file, batch.schema)
        self._stream.write_batch(batch)
        self._firsts.append(first)
        self.tokens += len(batch.column("tokens").values)

    def abandon(self) -> None:
        """Lets go of a file that will not be finished."""
        self._file.file.close()

    def close(self) -> tuple[list[tuple[int, int, int]], dict[str, Any]]:
        """Where the numbers of every record batch lie, and the file's size and hash."""
        import pyarrow as pa

        self._stream.close()
        written = self._file.finish()
        with pa.memory_map(self.path) as mapped:
            whole = mapped.read_buffer()
            places: list[tuple[int, int, int]] = []
            for first, batch in zip(self._firsts, pa.ipc.open_stream(whole), strict=True):
                places.append(
                    (first, _place(batch, "tokens", whole.address), _place(batch, "words", whole.address))
                )
        return places, written


def _place(batch: Any, name: str, base: int) -> int:
    if name not in batch.schema.names:
        return -1
    values = batch.column(name).values
    assert values.offset == 0
    return values.buffers()[1].address - base


class GrowingArray:
    """A .npy file whose length is not known before the end: the header is written again when it is."""

    def __init__(self, path: str, dtype: type[np.generic], tail: tuple[int, ...] = ()) -> None:
        self.path, self.dtype, self.tail, self.length = path, np.dtype(dtype), tail, 0
        self._file: Any = open(path, "wb+")  # noqa: SIM115 (closed by `close`)
        self._header()

    def _header(self) -> None:
        # numpy leaves room in the header for the first dimension to grow to any length.
        described = {"descr": self.dtype.str, "fortran_order": False, "shape": (self.length, *self.tail)}
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, described)

    def append(self, values: np.ndarray) -> None:
        """Adds to its end."""
        self._file.write(np.ascontiguousarray(values, self.dtype).tobytes())
        self.length += len(values)

    def abandon(self) -> None:
        """Lets go of the file, finished or not."""
        self._file.close()

    def close(self) -> dict[str, Any]:
        """Writes the length; returns size and sha256."""
        self._header()
        self._file.seek(0)
        written = {
            "sha256": hashlib.file_digest(self._file, "sha256").hexdigest(),
            "bytes": self._file.tell(),
        }
        finish(self._file)
        return {"bytes": written["bytes"], "sha256": written["sha256"]}
