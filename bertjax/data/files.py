"""Small files that are there whole or not at all, and the stamp that says from which files a folder was made."""

import os
from typing import Any

__all__ = ["finish", "read_stamp", "replace_file", "write_stamp"]


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
