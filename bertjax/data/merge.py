"""From parts to splits: in order, held-out documents apart, without duplicates if so wished.

Two documents are the same if the 64-bit hashes of their texts are: among a billion documents that takes
one for the copy of another with a probability of 3 %. The hashes are sorted bucket by bucket, so memory
stays bounded too.
"""

import contextlib
import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.corpus import SPLITS
from bertjax.data.encode import read_part
from bertjax.data.progress import Progress
from bertjax.data.shards import GrowingArray, SplitWriter

__all__ = ["Merged", "merge"]

BUCKET = 1 << 22  # hashes sorted at a time


@dataclasses.dataclass(frozen=True)
class Merged:
    """What a merge wrote."""

    splits: dict[str, dict[str, int]]  # split -> documents, sentences, tokens, shards
    sources: list[dict[str, dict[str, int]]]  # source -> split -> documents, sentences, tokens
    duplicates: list[int]  # source -> documents left out
    files: dict[str, dict[str, Any]]  # split/file -> bytes, sha256


def merge(
    parts: Sequence[tuple[int, str]],
    folder: str,
    *,
    sources: int,
    heldout: float,
    deduplicate: bool,
    vocabulary_size: int,
    shard_tokens: int,
) -> Merged:
    """Writes the splits of (source, part) in order into `folder`."""
    first = _first_copies(parts, folder) if deduplicate else None
    tally = [
        {name: dict.fromkeys(("documents", "sentences", "tokens"), 0) for name in SPLITS}
        for _ in range(sources)
    ]
    duplicates = [0] * sources
    position = 0
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress("merge", sum(os.path.getsize(path) for _, path in parts)))
        writers = {
            name: stack.enter_context(
                SplitWriter(
                    os.path.join(folder, name), vocabulary_size=vocabulary_size, shard_tokens=shard_tokens
                )
            )
            for name in SPLITS
        }
        for source, path in parts:
            documents = read_part(path)
            documents.sources = np.full(len(documents), source, np.uint16)
            if first is not None:
                keep = np.asarray(first[position : position + len(documents)])
                position += len(documents)
                duplicates[source] += int((~keep).sum())
                documents = documents.select(keep)
            held = documents.ids < np.uint64(int(heldout * 2**64))
            for name, chosen in zip(SPLITS, (~held, held), strict=True):
                split = documents if chosen.all() else documents.select(chosen)
                writers[name].add(split)
                mine = tally[source][name]
                mine["documents"] += len(split)
                mine["sentences"] += len(split.sentences)
                mine["tokens"] += len(split.tokens)
            progress.add(os.path.getsize(path))
        splits = {name: writer.close() for name, writer in writers.items()}
    files = {
        f"{name}/{file}": written for name in SPLITS for file, written in sorted(writers[name].files.items())
    }
    return Merged(splits, tally, duplicates, files)


def _first_copies(parts: Sequence[tuple[int, str]], folder: str) -> np.ndarray:
    """Whether no document before it has the same hash: bool [documents], on disk."""
    name = os.path.join(folder, "ids.npy")
    with contextlib.closing(GrowingArray(name, np.uint64)) as array:
        for _, path in parts:
            array.append(read_part(path).ids)
    if not array.length:
        return np.zeros(0, bool)
    ids = np.load(name, mmap_mode="r")
    first = np.lib.format.open_memmap(os.path.join(folder, "first.npy"), "w+", np.bool_, (len(ids),))
    bits = max(0, (len(ids) - 1) // BUCKET).bit_length()
    for bucket in range(1 << bits):
        where = []
        for start in range(0, len(ids), BUCKET):
            chunk = ids[start : start + BUCKET]
            here = (chunk >> np.uint64(64 - bits)) == bucket if bits else np.ones(len(chunk), bool)
            where.append(start + np.flatnonzero(here))
        mine = np.concatenate(where)
        _, copies = np.unique(ids[mine], return_index=True)  # of equal ones the first
        first[mine[copies]] = True
    return first
