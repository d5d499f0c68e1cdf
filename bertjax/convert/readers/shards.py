"""Weights in several files of one format, with an index in JSON that says which tensor lies where.

    model.safetensors.index.json: {"metadata": {...}, "weight_map": {"name": "model-00001-of-00002.safetensors", ...}}

The index and the files must agree: each tensor of the index is in its file, and each tensor of a file is in the
index under that file.
"""

import json
import os
from collections.abc import Callable

import numpy as np

from bertjax.convert.readers.base import Weights, bad_file, open_file, quoted

__all__ = ["Shards"]

INDEX_LIMIT = 100_000_000  # bytes


class Shards(Weights):
    """The files of a folder that an index holds together."""

    def __init__(self, path: str, opened_with: Callable[[str], Weights]) -> None:
        files = _weight_map(path)
        folder = os.path.dirname(path)
        missing = [file for file in files.values() if not os.path.exists(os.path.join(folder, file))]
        if missing:
            raise bad_file(path, f"names the shard {missing[0]}, which is not there", "fetch that file, too")
        self._shards = {file: opened_with(os.path.join(folder, file)) for file in sorted(set(files.values()))}
        found = {name: file for file, shard in self._shards.items() for name in shard}
        for name in [*found, *files]:
            if found.get(name) != files.get(name):
                what = f"says that {quoted(name)} is in {files.get(name)}, but it is in {found.get(name)}"
                raise bad_file(path, what, "the index and the files differ, fetch all again")
        entries = {name: self._shards[file][name] for name, file in files.items()}
        self.kind = next(iter(self._shards.values())).kind
        self._files = files
        super().__init__(path, entries)

    def read(self, name: str) -> np.ndarray:
        return self._shards[self._files[name]].read(name)


def _weight_map(path: str) -> dict[str, str]:
    """Tensor -> file."""
    file, size = open_file(path)
    with file:
        if size > INDEX_LIMIT:
            raise bad_file(path, f"has {size:,} bytes, too many for an index")
        content = file.read()
    try:
        index = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise bad_file(path, f"is not JSON ({str(error).splitlines()[0]})") from None
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict) or not files:
        raise bad_file(path, "has no weight_map from tensors to files")
    for name, shard in files.items():
        if (
            not isinstance(shard, str)
            or not shard
            or shard != os.path.basename(shard)
            or not shard.isprintable()
        ):
            raise bad_file(
                path,
                f"puts {quoted(name)} into {quoted(shard)}, which is no file name",
                "look where it comes from",
            )
    return files
