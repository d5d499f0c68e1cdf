"""Weights of other projects, whatever file they come in: `open_weights` finds out.

safetensors_file       model.safetensors, or several of them with an index
torch_file             pytorch_model.bin, what torch.save wrote, or several of them with an index
tensorflow_checkpoint  bert_model.ckpt.index and .data-00000-of-00001, in a folder or in the zip as published

shards holds several files with an index together, archive looks through zip files, pickles reads pickles without
running them, crc32c is TensorFlow's checksum, base what all readers have in common.
"""

import contextlib
import os
from collections.abc import Callable

from bertjax.convert.readers.archive import is_zip, open_zip, unpacked
from bertjax.convert.readers.base import Entry, Weights
from bertjax.convert.readers.safetensors_file import Safetensors
from bertjax.convert.readers.shards import Shards
from bertjax.convert.readers.tensorflow_checkpoint import TensorFlow, checkpoint_in
from bertjax.convert.readers.torch_file import PyTorch

__all__ = ["Entry", "Weights", "open_weights", "unpacked"]

# What a folder may hold, the first that is there wins: name, and how it is opened.
NAMES: dict[str, Callable[[str], Weights]] = {
    "model.safetensors": Safetensors,
    "model.safetensors.index.json": lambda path: Shards(path, Safetensors),
    "pytorch_model.bin": PyTorch,
    "pytorch_model.bin.index.json": lambda path: Shards(path, PyTorch),
}

# What one might take for weights that are read here.
UNREAD = ("flax_model.msgpack", "tf_model.h5", "model.onnx", "rust_model.ot", "saved_model.pb")


def open_weights(path: str) -> Weights:
    """The weights in a folder, a file, a checkpoint's prefix or a zip; closed by `with` or `close`."""
    path = os.fspath(path)
    if os.path.isdir(path):
        return _in_folder(path)
    if path.endswith((".index.json", ".safetensors")):
        kind = PyTorch if path.endswith(".bin.index.json") else Safetensors
        return Shards(path, kind) if path.endswith(".json") else kind(path)
    if os.path.exists(f"{path}.index"):
        return TensorFlow(path)
    if path.endswith(".index"):
        return TensorFlow(path.removesuffix(".index"))
    if is_zip(path) and not _of_torch(path):
        return _in_zip(path)
    return PyTorch(path)


def _in_folder(path: str) -> Weights:
    found = [name for name in NAMES if os.path.exists(os.path.join(path, name))]
    if found:
        return NAMES[found[0]](os.path.join(path, found[0]))
    if prefix := checkpoint_in(path):
        return TensorFlow(prefix)
    others = [name for name in UNREAD if os.path.exists(os.path.join(path, name))]
    what = f"only {others[0]}, which is not read here" if others else "no weights"
    raise ValueError(
        f"{path} holds {what}: it needs one of {', '.join(NAMES)} or a TensorFlow checkpoint (NAME.index)"
    )


def _of_torch(path: str) -> bool:
    archive, entries = open_zip(path)
    archive.close()
    return any(name.endswith("/data.pkl") for name in entries) or path.endswith((".bin", ".pt", ".pth"))


def _in_zip(path: str) -> Weights:
    """The weights in a zip, in a temporary folder as long as they are open."""
    held = contextlib.ExitStack()
    folder = held.enter_context(unpacked(path))
    try:
        weights = _in_folder(folder)
    except ValueError as error:
        held.close()
        raise ValueError(str(error).replace(folder, path)) from None
    weights.held.push(held)
    return weights
