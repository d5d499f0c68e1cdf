"""Preparing a corpus: text in, tokens on disk out; once, in bounded memory, on all cores, resumable.

    sources --units--> worker processes --parts--> merge --> train/, heldout/ --> manifest

1. One process reads and hashes the sources and cuts them into units (see `sources`).
2. Workers encode units into parts, files that are named by the hash of all that decides their contents.
   After a crash, a kill or a full disk the same command finds the parts that are there and does the rest.
3. The parts are merged in the order of the sources, without duplicates if so wished, into a training and a
   held-out split. A document is held out by the hash of its text, so copies of it never lie on both sides.
4. The manifest is written last. Without it a folder is not a corpus: nothing half-written is ever trusted.

The same inputs and options give the same bytes, whatever the number of workers and of interruptions.
Memory is about 150 MB a process and does not grow with the corpus.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np

from bertjax import settings
from bertjax.data.corpus import FORMAT, SPLITS, Corpus, checksum, open_corpus, read_manifest, sha256_of
from bertjax.data.encode import Rules, part_counts, part_name
from bertjax.data.files import read_stamp, replace_file, write_stamp
from bertjax.data.merge import merge
from bertjax.data.progress import Progress
from bertjax.data.sentences import Rule
from bertjax.data.sources import Source, SourceOptions, Unit, find_sources, still_the_same
from bertjax.data.subword import SPECIAL, Tokenizer
from bertjax.data.tokenizer_files import load
from bertjax.data.workers import Pool, available_cores, find_callable

__all__ = ["PrepareOptions", "prepare"]


@dataclasses.dataclass(frozen=True)
class PrepareOptions(SourceOptions):
    """What to prepare, from what, and where."""

    tokenizer: str = ""
    """A folder or file that holds a tokenizer: tokenizer.json, vocab.txt or spm.model."""
    out: str = ""
    """The folder of the corpus."""
    heldout: float = 0.01
    """The share of documents kept apart for evaluation, chosen by the hash of their text."""
    deduplicate: bool = False
    """Keep only the first of documents with the same text."""
    sentences: Rule = "punctuation"
    """Where sentences end: punctuation and newlines, lines alone, or wrapped: newlines are white space."""
    segmenter: str | None = None
    """A module:function from a sentence to its words, for whole-word masking where no spaces show them."""
    workers: int | None = None
    """Processes that encode; None takes all cores."""
    shard_tokens: int = 1 << 29
    """Tokens after which a new file is begun."""


def prepare(options: PrepareOptions) -> Corpus:
    """Makes the corpus, or goes on with it, or finds it finished; returns its training split."""
    _check(options)
    tokenizer = load(options.tokenizer)
    sources = find_sources(options)
    stamp = settings.digest([source.stamp for source in sources])
    described = _described(options, tokenizer)
    if os.path.exists(os.path.join(options.out, "manifest.json")):
        return _finished(options.out, described, sources, stamp)
    with _refusals_are_errors(options.out), _locked(options.out) as parts:
        names = _encode(options, tokenizer, sources, parts)
        manifest = _build(options, tokenizer, sources, described, names, parts)
        write_stamp(options.out, stamp)
        replace_file(os.path.join(options.out, "manifest.json"), json.dumps(manifest, indent=1).encode())
    shutil.rmtree(parts)
    print(_summary(options.out, manifest))
    return open_corpus(options.out)


def _check(options: PrepareOptions) -> None:
    for name in ("tokenizer", "out"):
        if not getattr(options, name):
            raise ValueError(f"no {name} given: say --{name}=FOLDER")
    if not 0 <= options.heldout < 1:
        raise ValueError(
            f"heldout={options.heldout} is not a share of the documents: choose from 0 to below 1"
        )
    if options.workers is not None and options.workers < 1:
        raise ValueError(f"workers={options.workers}: at least 1, or none for all {available_cores()} cores")
    if options.shard_tokens < 1:
        raise ValueError(f"shard_tokens={options.shard_tokens}: at least 1, and {1 << 29} is usual")
    if options.segmenter:
        find_callable(options.segmenter)
    if os.path.exists(options.out) and not os.path.isdir(options.out):
        raise ValueError(f"out={options.out} is a file: name a folder that does not exist yet")


def _described(options: PrepareOptions, tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that decides what the corpus will be, but for the contents of the sources."""
    given = dataclasses.asdict(options)
    for name in ("tokenizer", "out", "workers", "bad_records"):
        del given[name]
    return {**given, "input": list(options.input), "format_version": FORMAT, "tokenizer": tokenizer.digest}


# ------------------------------------------------------------------------------------- finished already


def _finished(out: str, described: dict[str, Any], sources: list[Source], stamp: str) -> Corpus:
    """The corpus that is there, if it is the one that was asked for."""
    manifest = read_manifest(out)
    changed = list(settings.differences(described, manifest["options"]))
    if changed:
        raise ValueError(
            f"out={out} holds another corpus ({changed[0]}): choose another out, or remove that one"
        )
    if read_stamp(out) != stamp:  # files were touched, copied or changed: only their contents tell
        still_the_same(sources, [source["sha256"] for source in manifest["sources"]], out)
        write_stamp(out, stamp)
    shutil.rmtree(os.path.join(out, "parts"), ignore_errors=True)  # left by a crash after the manifest
    corpus = open_corpus(out)
    print(f"corpus {out} is finished (digest {corpus.digest}, {corpus.documents:,} documents): nothing to do")
    return corpus


def _digest(described: dict[str, Any], sources: list[Source]) -> str:
    content = {name: value for name, value in described.items() if name != "input"}
    return settings.digest([content, [source.digest for source in sources]])


# ------------------------------------------------------------------------------------- units to parts


def _encode(
    options: PrepareOptions, tokenizer: Tokenizer, sources: list[Source], parts: str
) -> list[tuple[int, str]]:
    """Encodes what is not encoded yet; returns (source, part) of all units in order."""
    rules = Rules(options.field, options.on_bad_record, options.sentences, options.segmenter)
    digest = settings.digest([FORMAT, tokenizer.digest, dataclasses.asdict(rules)])
    sizes = [source.bytes for source in sources]
    known = [size for size in sizes if size is not None]
    names: list[tuple[int, str]] = []
    handed: set[str] = set()
    reused = skipped = 0

    def done(counts: dict[str, Any], advance: int) -> None:
        nonlocal skipped
        progress.add(advance)
        skipped += counts["skipped"]
        if skipped > options.bad_records:
            first = counts["first_skipped"]
            raise ValueError(f"more than bad_records={options.bad_records} records are bad, one is {first}")

    def missing() -> Iterator[tuple[str, Unit]]:
        nonlocal reused
        for source in sources:
            for unit in source.units():
                name = part_name(unit, digest)
                path = os.path.join(parts, name)
                names.append((unit.source, path))
                if name not in handed and not os.path.exists(path):
                    handed.add(name)
                    yield name, unit
                elif name in handed:
                    progress.add(unit.progress)  # the same bytes once more
                else:
                    reused += 1
                    done(part_counts(path), unit.progress)

    total = sum(known) if len(known) == len(sizes) else None
    workers = options.workers or available_cores()
    with (
        Progress("prepare", total) as progress,
        Pool(workers, "bertjax.data.encode:Encoder", tokenizer, rules, parts) as pool,
    ):
        for counts, advance in pool.map(missing()):
            done(counts, advance)
    if reused:
        print(f"prepare: {reused} of {len(names)} units were done already")
    return names


# ------------------------------------------------------------------------------------- parts to corpus


def _build(
    options: PrepareOptions,
    tokenizer: Tokenizer,
    sources: list[Source],
    described: dict[str, Any],
    parts: list[tuple[int, str]],
    folder: str,
) -> dict[str, Any]:
    """Merges the parts, puts everything but the manifest in place, and returns the manifest."""
    building = os.path.join(folder, "building")
    shutil.rmtree(building, ignore_errors=True)
    os.makedirs(building)
    vocabulary = tokenizer.vocabulary
    merged = merge(
        parts,
        building,
        sources=len(sources),
        heldout=options.heldout,
        deduplicate=options.deduplicate,
        vocabulary_size=vocabulary.size,
        shard_tokens=options.shard_tokens,
    )
    if not merged.splits["train"]["documents"]:
        held = merged.splits["heldout"]["documents"]
        found = f"all {held} documents fell into heldout={options.heldout}" if held else "no document"
        raise ValueError(f"input {', '.join(options.input)}: {found}: give more text")
    tokenizer.save(os.path.join(building, "tokenizer"))
    for name in ("starts_word", "special"):
        np.save(os.path.join(building, "tokenizer", f"{name}.npy"), getattr(vocabulary, name))
    listing = "".join(f"{digest}  {name}\n" for source in sources for name, _, digest in source.listing)
    replace_file(os.path.join(building, "sources.sha256"), listing.encode())
    files = dict(merged.files)
    others = [f"tokenizer/{name}" for name in sorted(os.listdir(os.path.join(building, "tokenizer")))]
    for name in [*others, "sources.sha256"]:
        path = os.path.join(building, name)
        files[name] = {"bytes": os.path.getsize(path), "sha256": sha256_of(path)}
    for name in [*SPLITS, "tokenizer", "sources.sha256"]:
        target = os.path.join(options.out, name)
        if os.path.isdir(target):  # put there by a run that ended before its manifest
            shutil.rmtree(target)
        os.replace(os.path.join(building, name), target)
    counts = [(source, part_counts(path)) for source, path in parts]
    manifest = {
        "format": FORMAT,
        "digest": _digest(described, sources),
        "options": described,
        "tokenizer": {
            "kind": tokenizer.kind,
            "digest": tokenizer.digest,
            "vocab_size": vocabulary.size,
            "special": {role: getattr(vocabulary, role) for role in SPECIAL},
        },
        "splits": merged.splits,
        "sources": [
            {
                "name": source.name,
                "kind": source.kind,
                "files": len(source.listing),
                "bytes": sum(size for _, size, _ in source.listing),
                "sha256": source.digest,
                **{
                    name: sum(count[name] for index, count in counts if index == source.index)
                    for name in ("text_bytes", "unknown", "empty", "skipped", "cut")
                },
                "duplicates": merged.duplicates[source.index],
                **merged.sources[source.index],
            }
            for source in sources
        ],
        "files": files,
    }
    return {**manifest, "checksum": checksum(manifest)}


def _summary(out: str, manifest: dict[str, Any]) -> str:
    train, heldout = manifest["splits"]["train"], manifest["splits"]["heldout"]
    held = f"{heldout['documents']:,} documents ({heldout['tokens']:,} tokens) held out"
    trained = (
        f"{train['tokens']:,} tokens, {train['sentences']:,} sentences, {train['documents']:,} documents"
    )
    lines = [f"corpus {out}: {trained}; {held}"]
    for source in manifest["sources"]:
        tokens = source["train"]["tokens"] + source["heldout"]["tokens"]
        left_out = ", ".join(
            f"{source[name]:,} {name}" for name in ("duplicates", "skipped", "empty") if source[name]
        )
        lines.append(
            f"  {source['name']}: {source['files']:,} files, {source['text_bytes'] / 1e6:,.1f} MB of text, "
            f"{tokens:,} tokens, {source['unknown'] / max(tokens, 1):.2%} unknown"
            + (f"; left out: {left_out}" if left_out else "")
            + (f"; {source['cut']:,} documents cut for their length" if source["cut"] else "")
        )
    return "\n".join(lines)


# ------------------------------------------------------------------------------------- the folder


@contextlib.contextmanager
def _locked(out: str) -> Iterator[str]:
    """The folder of the parts, made and held by this process alone."""
    parts = os.path.join(out, "parts")
    if not os.path.isdir(parts):
        if os.path.isdir(out) and os.listdir(out):
            raise ValueError(
                f"out={out} is not empty and holds no corpus: name a folder that does not exist yet"
            )
        os.makedirs(parts)
    with open(os.path.join(parts, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"out={out} is being written by another prepare: wait for it, or choose another"
            ) from None
        _remove_temporary(parts)  # of a run that was killed
        try:
            yield parts
        finally:
            _remove_temporary(parts)  # of workers that had to end


def _remove_temporary(parts: str) -> None:
    for name in os.listdir(parts):
        if name.endswith(".tmp"):
            os.remove(os.path.join(parts, name))


@contextlib.contextmanager
def _refusals_are_errors(out: str) -> Iterator[None]:
    """One line instead of a trace when the disk is full; finished parts stay for the next run."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
            raise ValueError(f"out={out} cannot be written ({error.strerror}): choose another") from None
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        free = shutil.disk_usage(out).free / 1e6
        raise ValueError(
            f"no space left for out={out} ({error.strerror}, {free:,.0f} MB free): a corpus takes about "
            "the size of its text; make room and run the same command, it continues"
        ) from None
