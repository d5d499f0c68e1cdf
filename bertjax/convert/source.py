"""What a published model consists of on disk: config.json, tensors, a tokenizer, and what sentence-transformers adds.

config.json                                                   a folder of Hugging Face
modules.json, 1_Pooling/config.json, (2_Normalize/)           the same with the pooling of sentence-transformers
bert_config.json, vocab.txt, bert_model.ckpt.*                Google's BERT: a folder, or the zip that holds it
"""

import contextlib
import dataclasses
import json
import pathlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertjax.convert import google
from bertjax.convert.readers import open_weights, unpacked
from bertjax.convert.readers.base import Entry, Weights
from bertjax.models.task_heads import Embed


@dataclasses.dataclass(frozen=True)
class Source:
    """A published model, opened; no tensor is read yet."""

    path: str
    folder: str  # where its files are while it is open
    config: Mapping[str, Any]
    weights: Weights
    embed: Embed | None = None
    length: int | None = None  # the longest row that it is meant for, where it says so

    def fail(self, what: str) -> ValueError:
        """An error that names the source."""
        return ValueError(f"{self.path}: {what}")


class Named(Mapping[str, Entry]):
    """Tensors under today's names and in PyTorch's layout, whatever the file calls them."""

    def __init__(self, weights: Weights, renamed: tuple[tuple[str, str], ...]) -> None:
        self.weights, self.names, self.transposed = weights, {}, set[str]()
        for name in weights:
            now = name
            if weights.kind == "tensorflow":
                known = google.tensor_name(name)
                if known is None:
                    continue
                now, turned = known
                if turned:
                    self.transposed.add(name)
            for pattern, replacement in renamed:
                now = re.sub(pattern, replacement, now)
            self.names[now] = name

    def __getitem__(self, name: str) -> Entry:
        entry, turned = self.weights[self.names[name]], self.names[name] in self.transposed
        return Entry(entry.shape[::-1], entry.dtype) if turned else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, name: str) -> np.ndarray:
        """A tensor in float32."""
        array = self.weights.read(self.names[name])
        if not np.issubdtype(array.dtype, np.floating) and array.dtype.name not in ("bfloat16",):
            raise ValueError(
                f"{self.weights.path}: {name} holds {array.dtype}, not real numbers: "
                f"give the weights before they were quantised"
            )
        array = np.asarray(array, np.float32)
        array = array.T if self.names[name] in self.transposed else array
        if not np.isfinite(array).all():
            raise ValueError(
                f"{self.weights.path}: {name} holds NaN or infinity: the file is damaged or its training diverged"
            )
        return array


def read_json(path: pathlib.Path) -> Any:
    """A JSON object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({str(error).splitlines()[0]}): fetch it again") from None
    return data


def read_object(path: pathlib.Path) -> dict[str, Any]:
    """A JSON object."""
    data = read_json(path)
    if not isinstance(data, dict):
        raise ValueError(f"{path} holds no JSON object: fetch it again")
    return data


def is_published(path: str) -> bool:
    """Whether a path is a model of another project."""
    where = pathlib.Path(path)
    if where.suffix == ".zip":
        return where.is_file()
    return any((where / name).is_file() for name in ("modules.json", "bert_config.json")) or (
        (where / "config.json").is_file() and "config" not in read_object(where / "config.json")
    )


@contextlib.contextmanager
def open_source(path: str) -> Iterator[Source]:
    """A published model, as long as the files are open."""
    with unpacked(path) as folder:
        where = pathlib.Path(folder)
        embed, length, inner = None, None, where
        if (where / "modules.json").is_file():
            inner, embed, length = sentence_modules(where)
        for name in ("config.json", "bert_config.json"):
            if (inner / name).is_file():
                config = read_object(inner / name)
                break
        else:
            raise ValueError(
                f"{path} holds no config.json: name a folder of Hugging Face or of Google's BERT"
            )
        with open_weights(str(inner)) as weights:
            if weights.kind == "tensorflow":
                head = weights.get("output_weights")
                config = google.describe(config, weights, None if head is None else head.shape[0])
            yield Source(path, str(inner), config, weights, embed, length)


def encoder_folder(path: str) -> str:
    """Where config.json and the tensors lie."""
    where = pathlib.Path(path)
    return str(sentence_modules(where)[0] if (where / "modules.json").is_file() else where)


POOLINGS = {
    "pooling_mode_cls_token": "first",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
}


def sentence_modules(where: pathlib.Path) -> tuple[pathlib.Path, Embed, int | None]:
    """The folder of the encoder, what is made of its tokens, and the longest row."""
    modules, inner, pooling, normalise = read_json(where / "modules.json"), None, None, False
    try:
        steps = [(module["type"].split(".")[-1], where / module["path"]) for module in modules]
    except (TypeError, KeyError, AttributeError):
        raise ValueError(f"{where / 'modules.json'} lists no modules: fetch it again") from None
    for kind, folder in steps:
        if not folder.resolve().is_relative_to(where.resolve()):
            raise ValueError(f"{where / 'modules.json'} leads out of its folder: {folder}")
        if kind == "Transformer":
            inner = folder
        elif kind == "Pooling":
            pooling = _pooling(folder / "config.json")
        elif kind == "Normalize":
            normalise = True
        else:
            raise ValueError(
                f"{where / 'modules.json'}: the module {kind} is not supported, only Transformer, Pooling, Normalize"
            )
    if inner is None or pooling is None:
        raise ValueError(f"{where / 'modules.json'} has no Transformer with a Pooling behind it")
    settings = inner / "sentence_bert_config.json"
    length = read_object(settings).get("max_seq_length") if settings.is_file() else None
    return inner, Embed(pooling, normalise), length  # type: ignore[arg-type]


def _pooling(path: pathlib.Path) -> str:
    data = read_object(path)
    if "pooling_mode" in data:  # newer files name it
        chosen = [{"cls": "first"}.get(str(data["pooling_mode"]), str(data["pooling_mode"]))]
    else:
        chosen = [
            POOLINGS.get(name, name) for name, on in data.items() if name.startswith("pooling_mode_") and on
        ]
    if len(chosen) != 1 or chosen[0] not in POOLINGS.values():
        raise ValueError(
            f"{path}: pooling by {', '.join(chosen) or 'nothing'} is not supported, only cls, mean or max"
        )
    return chosen[0]
