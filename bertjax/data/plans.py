"""Plans that are kept: what a format worked out about a large corpus, mapped from beside it the next time.

A plan is a few arrays with a number for every row or run. It follows from the corpus, the format and the length
alone, so it is made once and then shared by all runs, and by all processes of a host in one copy of the page
cache. It is written under another name, made durable and then renamed, so a folder with its final name is whole;
of processes that make the same plan at the same time one wins and the others throw theirs away. A corpus that
cannot be written to is planned anew by every process, with the same result.

    CORPUS/train/plans/DIGEST/NAME.npy      the digest is of the corpus, the format, the length and _VERSION
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping

import numpy as np

from bertjax.data.examples import Documents
from bertjax.settings import digest

__all__ = ["Plan", "keep"]

Plan = dict[str, np.ndarray]

_VERSION = 1  # to be raised with every change of what a format plans
_WORTHWHILE = 1 << 20  # sentences; fewer are planned in about a second


def keep(corpus: Documents, described: Mapping[str, object], make: Callable[[], Plan]) -> Plan:
    """What `make` returns, read from where it is kept or else made and kept there."""
    if corpus.plans is None or len(corpus.sentence_offsets) < _WORTHWHILE:
        return make()
    folder = os.path.join(corpus.plans, digest({"version": _VERSION, "corpus": corpus.digest, **described}))
    if os.path.isdir(folder):
        return {
            name[: -len(".npy")]: _open(os.path.join(folder, name)) for name in sorted(os.listdir(folder))
        }
    plan = make()
    _write(plan, folder)
    return plan


def _open(path: str) -> np.ndarray:
    try:
        return np.asarray(np.load(path, mmap_mode="r"))  # a plain view: indexing a memmap costs more
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove {os.path.dirname(path)}, it is made again"
        ) from None


def _write(plan: Plan, folder: str) -> None:
    building = None
    try:
        os.makedirs(os.path.dirname(folder), exist_ok=True)
        building = tempfile.mkdtemp(dir=os.path.dirname(folder), prefix=".")
        for name, array in plan.items():
            with open(os.path.join(building, f"{name}.npy"), "wb") as file:
                np.save(file, array)
                file.flush()
                os.fsync(file.fileno())
        os.chmod(building, 0o755)  # a temporary folder is its owner's only
        os.rename(building, folder)
    except OSError:  # read-only, full, or another process was first: the plan in memory is as good
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)
