"""Zip files from elsewhere: looked through before anything is read, unpacked only into a folder of their own.

An entry that would climb out of its folder, two of one name, an encrypted one, a link, and sizes that no honest
file has are each refused.
"""

import contextlib
import os
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from bertjax.convert.readers.base import bad_file, open_file, quoted

__all__ = ["is_zip", "open_zip", "read_entry", "stored_at", "unpacked"]

# How much larger than the zip what comes out of it may be. Deflate reaches 1032; weights reach 1.1, and a
# checkpoint whose optimizer has not yet moved about 3.
GROWTH, SLACK = 30, 1 << 26

# What `zipfile` raises at damaged files.
DAMAGE = (
    zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError, RuntimeError, ValueError, OSError, EOFError,
    OverflowError, struct.error, zlib.error, KeyError, IndexError,
)  # fmt: skip


def is_zip(path: str) -> bool:
    """Whether a file begins as zip files do."""
    file, _ = open_file(path)
    with file:
        return file.read(4) == b"PK\3\4"


def open_zip(path: str) -> tuple[zipfile.ZipFile, dict[str, zipfile.ZipInfo]]:
    """The opened zip and its files by name; folders are left out."""
    file, size = open_file(path)
    file.close()
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise bad_file(path, f"is no zip file or a damaged one ({_reason(error)})") from None
    try:
        found: dict[str, zipfile.ZipInfo] = {}
        total = 0
        for entry in archive.infolist():
            _check(path, entry)
            if entry.filename in found:
                raise bad_file(
                    path, f"has the entry {quoted(entry.filename)} twice", "look where it comes from"
                )
            total += entry.file_size
            if not entry.is_dir():
                found[entry.filename] = entry
        if total > GROWTH * size + SLACK:
            what = f"claims to hold {total:,} bytes in {size:,}"
            raise bad_file(path, f"{what}, which no weights are", "look where it comes from")
    except ValueError:
        archive.close()
        raise
    return archive, found


def _check(path: str, entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    parts = name.replace("\\", "/").split("/")
    if not name or not name.isprintable():
        raise bad_file(path, f"has an entry with the name {quoted(name)}", "look where it comes from")
    if ".." in parts or name.startswith(("/", "\\")) or ":" in parts[0]:
        raise bad_file(
            path, f"has an entry {quoted(name)} that climbs out of its folder", "look where it comes from"
        )
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise bad_file(
            path, f"has a link, {quoted(name)}, where a file should be", "look where it comes from"
        )
    if entry.flag_bits & 1:
        raise bad_file(path, f"is encrypted ({quoted(name)})", "unpack it and give the folder")


def stored_at(path: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> int:
    """Where in the file the bytes of an entry that is not compressed begin."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
        hint = "load it and save it again with PyTorch"
        raise bad_file(path, f"has {quoted(entry.filename)} compressed, which PyTorch does not do", hint)
    try:
        archive.open(entry).close()  # compares the header there with the list at the end
        file, size = open_file(path)
        with file:
            file.seek(entry.header_offset + 26)
            name, extra = struct.unpack("<HH", file.read(4))
    except DAMAGE as error:
        raise bad_file(path, f"is a damaged zip file ({_reason(error)})") from None
    start: int = entry.header_offset + 30 + name + extra
    if start + entry.file_size > size:
        raise bad_file(path, f"is cut off inside {quoted(entry.filename)}")
    return start


def read_entry(path: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int) -> bytes:
    """The contents of a small entry."""
    if entry.file_size > limit:
        raise bad_file(
            path, f"has {quoted(entry.filename)} with {entry.file_size:,} bytes, more than {limit:,}"
        )
    try:
        return archive.read(entry)
    except DAMAGE as error:
        raise bad_file(path, f"is a damaged zip file ({_reason(error)})") from None


@contextlib.contextmanager
def unpacked(path: str) -> Iterator[str]:
    """The folder that a path is, or a temporary one with what the zip at that path holds."""
    if os.path.isdir(path):
        yield path
        return
    archive, entries = open_zip(path)
    with archive, tempfile.TemporaryDirectory(prefix="bertjax-") as folder:
        total = sum(entry.file_size for entry in entries.values())
        if total > (free := shutil.disk_usage(folder).free):
            hint = "make room there, or set TMPDIR to another"
            raise bad_file(path, f"needs {total:,} bytes in {folder}, which has {free:,}", hint)
        for name, entry in entries.items():
            target = os.path.join(folder, *name.split("/"))
            try:
                os.makedirs(os.path.dirname(target), exist_ok=True)
                with archive.open(entry) as source, open(target, "xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
            except DAMAGE as error:
                raise bad_file(path, f"cannot be unpacked at {quoted(name)} ({_reason(error)})") from None
        inside = os.listdir(folder)
        alone = os.path.join(folder, inside[0]) if len(inside) == 1 else folder
        yield alone if os.path.isdir(alone) else folder


def _reason(error: BaseException) -> str:
    """What a library says, on one line."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:200] or type(error).__name__
