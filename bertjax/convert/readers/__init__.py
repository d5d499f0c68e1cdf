"""Weights of other projects, whatever file they come in: `open_weights` finds out.

safetensors  model.safetensors, or several of them with an index          safetensors.py, shards.py
"""

import os
from collections.abc import Callable

from bertjax.convert.readers.base import Entry, Weights
from bertjax.convert.readers.safetensors import Safetensors
from bertjax.convert.readers.shards import Shards

__all__ = ["Entry", "Weights", "open_weights"]

# What a folder may hold, the first that is there wins: name, and how it is opened.
NAMES: dict[str, Callable[[str], Weights]] = {
    "model.safetensors": Safetensors,
    "model.safetensors.index.json": lambda path: Shards(path, Safetensors),
}


def open_weights(path: str) -> Weights:
    """The weights in a folder, or in a file of one; a context manager, closed by `with` or `close`."""
    path = os.fspath(path)
    if os.path.isdir(path):
        found = [name for name in NAMES if os.path.exists(os.path.join(path, name))]
        if not found:
            raise ValueError(f"{path} holds no weights: it needs one of {', '.join(NAMES)}")
        return NAMES[found[0]](os.path.join(path, found[0]))
    if path.endswith(".index.json"):
        return Shards(path, Safetensors)
    return Safetensors(path)
