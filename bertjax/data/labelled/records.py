"""Where the records of a labelled task come from: a file, a folder in a published layout, or a data set of the hub.

A split of a folder is the file whose name says so, in any layout that `layouts` reads:

    train.tsv  dev.jsonl  train-v2.0.json  eng.testa  train-00000-of-00002.parquet  data/validation-*.parquet

`validation`, `valid`, `val`, `dev` and `testa` are one name, so are `test` and `testb`. A split may also be a folder
of files (RACE), or be named by the path of its file. A folder that `datasets.save_to_disk` wrote is read by that
library, one of STS 2012 to 2016 is one split, and a path that does not exist is a name on the hub.

Where there is but one split, `share` holds out some of it, the same records every time.
"""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from bertjax.data.labelled import views
from bertjax.data.labelled.layouts import PAIRS, SUFFIXES, flattened, read_file, read_pairs
from bertjax.data.labelled.split import Split
from bertjax.data.shuffle import mix, permute

__all__ = ["SYNTHETIC", "Records", "read_split"]

SYNTHETIC = "synthetic"
SAME = (("validation", "dev", "valid", "val", "testa"), ("test", "testb"))
_ORDER = 17  # purpose of a hash, so that no two draws share one


@dataclasses.dataclass(frozen=True)
class Records:
    """A data set with labels."""

    path: str = SYNTHETIC
    """Folder or file in a published layout, or a name on the hub; `synthetic` makes records up."""
    subset: str | None = None
    """Configuration of a data set of the hub, as mrpc of nyu-mll/glue; language of the files of XNLI."""
    train: str = "train"
    """Split to learn from."""
    heldout: str = "validation"
    """Split to evaluate on."""
    test: str | None = None
    """Split to predict at the end, with labels or without; none predicts the held-out one only."""
    share: float | None = None
    """Share of the training split that is held out, for a set without another; none reads records.heldout."""
    columns: tuple[str, ...] = ()
    """Names of the columns of a file that does not name them itself."""
    bad_rows: int = 0
    """Lines with a wrong number of fields that are left out before it is an error."""
    view: views.View | None = None
    """How the columns of a published set become texts; none takes them as they are."""
    limit: int | None = None
    """Records to learn from at most, drawn evenly; none takes all."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        if self.share is not None and not 0 < self.share < 1:
            raise ValueError(f"records.share={self.share}: a share held out is above 0 and below 1, as 0.2")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"records.limit={self.limit} must be at least 1, or none for all")
        if self.bad_rows < 0:
            raise ValueError(f"records.bad_rows={self.bad_rows} must not be negative")

    @property
    def name(self) -> str:
        """For people."""
        return self.path if self.subset is None else f"{self.path}/{self.subset}"


def read_split(records: Records, which: str) -> Split:
    """One of the splits `train`, `heldout` and `test`, whole and checked to hold something."""
    assert records.path != SYNTHETIC
    if records.share is None or which == "test":
        name = {"train": records.train, "heldout": records.heldout, "test": records.test}[which]
        assert name is not None
        split = _viewed(records, name)
    else:
        whole = _viewed(records, records.train)
        order = permute(np.arange(len(whole)), len(whole), mix(_ORDER, len(whole)))
        held = max(round(records.share * len(whole)), 1)
        split = whole.select(np.sort(order[:held] if which == "heldout" else order[held:]))
    if which == "train" and records.limit is not None and records.limit < len(split):
        order = permute(np.arange(len(split)), len(split), mix(_ORDER, len(split), records.limit))
        split = split.select(np.sort(order[: records.limit]))
    if not len(split):
        raise ValueError(f"{split.name} has no records for {which}: give it some, or another records.path")
    return split


def _viewed(records: Records, name: str) -> Split:
    split = read_named(records, name)
    return split if records.view is None else views.apply(records.view, split, records.subset)


def read_named(records: Records, name: str) -> Split:
    """A split by its own name."""
    path = records.path
    if os.path.isfile(path):
        if records.share is None and name != records.train:
            raise ValueError(
                f"records.path={path} is one file and holds one split: name its folder, or set records.share=0.2"
            )
        return read_file(path, columns=records.columns, bad_rows=records.bad_rows)
    if os.path.isdir(path):
        if {"dataset_dict.json", "state.json"} & set(os.listdir(path)):
            return _saved(path, name)
        if any(file.startswith(PAIRS) for file in os.listdir(path)):
            return read_pairs(path)
        files = find_split(path, name)
        parts = [read_file(file, columns=records.columns, bad_rows=records.bad_rows) for file in files]
        return parts[0] if len(parts) == 1 else joined(os.path.join(path, name), parts)
    if os.path.isabs(path) or path.startswith((".", "~")) or path.count("/") > 1:
        raise ValueError(
            f"records.path={path} does not exist: name a folder, a file, or a data set of the hub"
        )
    return _from_hub(records, name)


def find_split(folder: str, name: str) -> list[str]:
    """The files of a split: one, several numbered parts, or all in a folder of that name."""
    if os.path.isfile(os.path.join(folder, name)):
        return [os.path.join(folder, name)]
    names = (name, *(other for group in SAME if name in group for other in group if other != name))
    places = [place for place in (folder, os.path.join(folder, "data")) if os.path.isdir(place)]
    files = sorted(
        os.path.join(place, file)
        for place in places
        for file in os.listdir(place)
        if os.path.splitext(file)[1].lower() in SUFFIXES and not file.startswith(".")
    )
    for wanted in names:
        if os.path.isdir(os.path.join(folder, wanted)):
            inside = [
                os.path.join(place, file)
                for place, _, some in os.walk(os.path.join(folder, wanted))
                for file in some
                if os.path.splitext(file)[1].lower() in SUFFIXES and not file.startswith(".")
            ]
            if inside:
                return sorted(inside)
        for form in (
            rf"{wanted}\.\w+",
            rf".+\.{wanted}",
            rf"{wanted}-\d+-of-\d+\.\w+",
            rf"{wanted}[-_.].+\.\w+",
        ):
            found = [file for file in files if re.fullmatch(form, os.path.basename(file))]
            if found and (len(found) == 1 or "-of-" in form):
                return found
            if found:
                shown = ", ".join(map(os.path.basename, found))
                raise ValueError(
                    f"{folder} has several files for the split {wanted!r} ({shown}): name one of them"
                )
    shown = ", ".join(os.path.relpath(file, folder) for file in files[:12]) or "nothing that can be read"
    raise ValueError(
        f"{folder} has no split {name!r}, it has {shown}: set records.train, records.heldout, or records.share=0.2"
    )


def joined(name: str, parts: Sequence[Split]) -> Split:
    """The parts of a split, one after the other."""
    first = parts[0]
    for part in parts:
        if part.columns.keys() != first.columns.keys():
            raise ValueError(f"{part.name} has other columns than {first.name}: {', '.join(part.columns)}")
    columns = {key: [value for part in parts for value in part.columns[key]] for key in first.columns}
    return Split(name, columns, classes=first.classes)


def _saved(path: str, name: str) -> Split:
    from datasets import DatasetDict, load_from_disk

    data = load_from_disk(path)
    return _of_dataset(path, _choose(path, data, name) if isinstance(data, DatasetDict) else data)


def _from_hub(records: Records, name: str) -> Split:
    import datasets

    try:
        data = datasets.load_dataset(records.path, records.subset)
    except Exception as error:  # of many kinds: no network, no such name, no such subset
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(
            f"records.path={records.name} is neither a folder nor a file, nor could the hub give it ({reason})"
        ) from None
    return _of_dataset(records.name, _choose(records.name, data, name))


def _choose(path: str, data: Any, name: str) -> Any:
    for wanted in (name, *(other for group in SAME if name in group for other in group)):
        if wanted in data:
            return data[wanted]
    raise ValueError(f"{path} has no split {name!r}: it has {', '.join(data)}")


def _of_dataset(path: str, data: Any) -> Split:
    """A data set of the library `datasets`."""
    classes = {}
    for column, feature in data.features.items():
        inner = getattr(feature, "feature", feature)
        if type(inner).__name__ == "ClassLabel":
            classes[column] = list(inner.names)
    columns = {
        column: data[column][:] if hasattr(data[column], "__getitem__") else list(data[column])
        for column in data.features
    }
    name = f"{path} ({data.split})" if data.split else path
    return Split(name, flattened(columns), classes=classes)
