"""Files and folders that are there whole or not at all, and the stamp that says from which files a folder was made."""

import contextlib
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

__all__ = ["check_new", "finish", "new_folder", "read_stamp", "replace_file", "write_stamp"]


def finish(file: Any) -> None:
    """Closes a file once its contents are on the disk: a rename must never overtake them."""
    file.flush()
    os.fsync(file.fileno())
    file.close()


def replace_file(path: str, content: bytes) -> None:
    """Writes a file under another name and then renames it."""
    with open(f"{path}.tmp", "wb") as file:
        file.write(content)
        finish(file)
    os.replace(f"{path}.tmp", path)


def read_stamp(folder: str) -> str | None:
    """What `write_stamp` wrote there."""
    path = os.path.join(folder, "stamp")
    if not os.path.exists(path):
        return None
    with open(path, encoding="utf-8") as file:
        return file.read()


def write_stamp(folder: str, stamp: str) -> None:
    """Leaves a note of names, sizes and times of the sources, so that the same ones need not be read again."""
    replace_file(os.path.join(folder, "stamp"), stamp.encode())


def check_new(path: str) -> None:
    """Refuses a folder that holds something."""
    target = pathlib.Path(path)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ValueError(f"{path} exists: name a folder that does not, or remove it")


@contextlib.contextmanager
def new_folder(path: str) -> Iterator[pathlib.Path]:
    """A folder to be filled that gets its name at the end; nothing is left of one that fails."""
    check_new(path)
    target = pathlib.Path(path)
    temporary = target.with_name(f"{target.name}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}): make room, or choose another"
        ) from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
