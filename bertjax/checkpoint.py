"""Checkpoints that can be trusted: written by Orbax in the background, sealed with checksums, verified before use.

Orbax commits a step atomically but keeps no checksum, and its list of steps can name ones that are not whole. Here a
committed step is *sealed* by a small file with the size and SHA-256 of everything in it, and a restart walks back to
the newest step whose seal holds. Parameters and optimizer lie apart, so that an evaluation reads only the former.

    WORKDIR/checkpoints/STEP/params, STEP/optimizer       what Orbax writes
    WORKDIR/checkpoints/seals/STEP.json                   what makes it trusted
"""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from bertjax.models.stacking import stack_layers, unstack_layers
from bertjax.types import TrainState, Tree

_TEMPORARY = "orbax-checkpoint-tmp"  # in the name of a step that Orbax has begun to write


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, workdir: str | os.PathLike[str], *, keep: int = 2) -> None:
        """Opens the folder; it is made by the first save."""
        self.folder = pathlib.Path(workdir).resolve() / "checkpoints"
        self.seals = self.folder / "seals"
        self.keep = keep
        self.protected: int | None = None
        """A step that is kept besides the newest ones."""
        self._writer: ocp.AsyncCheckpointer | None = None
        self._thread: threading.Thread | None = None
        self._failure: BaseException | None = None

    # ------------------------------------------------------------------------------------------ write

    def save(self, state: TrainState) -> None:
        """Starts to write a state; returns when it is safe to change it."""
        self.wait()
        step = int(state.step)
        items = {
            "params": ocp.args.StandardSave(state.params),
            "optimizer": ocp.args.StandardSave({"step": state.step, "state": _plain(state.opt_state)}),
        }
        with self._disk():
            if self._writer is None:
                self._writer = self._open()
            self._make_sure_of_room(items)
            self._writer.save(self.folder / str(step), args=ocp.args.Composite(**items), force=True)
        self._thread = threading.Thread(target=self._finish, args=(step,), name="seal")
        self._thread.start()

    def wait(self) -> None:
        """Blocks until everything is on disk and sealed; a failed write is raised here."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            with self._disk():
                raise failure

    def close(self) -> None:
        """Waits and lets go."""
        try:
            self.wait()
        finally:
            if self._writer is not None:
                self._writer.close()
                self._writer = None

    def _open(self) -> ocp.AsyncCheckpointer:
        if jax.process_index() == 0:
            self.seals.mkdir(parents=True, exist_ok=True)
            self._clear_untrusted()
        return ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def _clear_unfinished(self) -> None:
        """Removes what was not written to its end."""
        for partial in (*self.folder.glob(f"*{_TEMPORARY}*"), *self.seals.glob("*.partial")):
            shutil.rmtree(partial, ignore_errors=True) if partial.is_dir() else partial.unlink(
                missing_ok=True
            )
        for step in self._steps():
            if not (self.seals / f"{step}.json").exists():
                self._remove(step)

    def _clear_untrusted(self) -> None:
        """Removes what is half written or damaged: it would count as one of those to keep."""
        self._clear_unfinished()
        for step in self._steps():
            if not self.verify(step):
                self._remove(step)

    def _finish(self, step: int) -> None:
        """In the background: when the step is committed, seals it, and only then removes the oldest ones."""
        assert self._writer is not None
        try:
            self._writer.wait_until_finished()
            if jax.process_index() == 0:
                partial = self.seals / f"{step}.partial"
                partial.write_text(json.dumps(_contents(self.folder / str(step)), indent=0))
                os.replace(partial, self.seals / f"{step}.json")
                for old in self._steps()[: -self.keep]:
                    if old != self.protected:
                        self._remove(old)
        except BaseException as error:  # of any kind: `wait` raises it in the thread that trains
            self._failure = error

    def _remove(self, step: int) -> None:
        (self.seals / f"{step}.json").unlink(missing_ok=True)  # first, so that a half-removed step has none
        shutil.rmtree(self.folder / str(step), ignore_errors=True)

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Turns what Orbax raises on a full disk into one line, and makes room: what is half written goes."""
        try:
            yield
        except Exception as error:
            text = f"{error!r} {error.__cause__!r}"
            if not any(
                sign in text for sign in ("No space left", "RESOURCE_EXHAUSTED", "ENOSPC", "Disk quota")
            ):
                raise
            if jax.process_index() == 0:
                self._clear_unfinished()
            raise self._full() from error

    def _make_sure_of_room(self, items: Any) -> None:
        """Asks before Orbax begins, whose threads report a full disk at length."""
        if jax.process_index() == 0:
            needed = sum(leaf.nbytes for item in items.values() for leaf in jax.tree.leaves(item.item))
            if needed > shutil.disk_usage(self.folder).free:
                raise self._full(f", {needed / 1e6:.1f} needed")

    def _full(self, needed: str = "") -> ValueError:
        free = shutil.disk_usage(self.folder).free / 1e6
        return ValueError(
            f"no space left for a checkpoint in {self.folder} ({free:.1f} MB free{needed}): "
            f"free some, or set train.keep=1; the run resumes from its last whole checkpoint"
        )

    # ------------------------------------------------------------------------------------------ read

    def latest(self) -> int | None:
        """The newest step that is whole and unchanged; None if there is none."""
        return self.survey()[0]

    def survey(self) -> tuple[int | None, list[str]]:
        """The newest step to be trusted, and what is wrong with each that is newer; the same in all processes."""
        found, faults = -1, []  # step 0 is that of parameters from elsewhere
        if jax.process_index() == 0:
            for step in reversed(self._steps()):
                fault = self.fault(step)
                if fault is None:
                    found = step
                    break
                faults.append(f"step {step} {fault}")
        if jax.process_count() > 1:  # another host may not see the newest files yet
            found = int(multihost_utils.broadcast_one_to_all(np.int32(found)))
        return None if found < 0 else found, faults

    def verify(self, step: int) -> bool:
        """Whether a step is sealed and every byte of it is what was sealed."""
        return self.fault(step) is None

    def fault(self, step: int) -> str | None:
        """Why a step is not to be trusted; None if it is."""
        try:
            sealed = dict(json.loads((self.seals / f"{step}.json").read_text()))
        except (OSError, ValueError, TypeError):
            return "was not written to its end"
        found = _contents(self.folder / str(step))
        changed = sorted(name for name in {*sealed, *found} if sealed.get(name) != found.get(name))
        return f"is damaged ({changed[0]} has changed)" if changed else None

    def restore(self, step: int, like: TrainState) -> TrainState:
        """A state in the shapes, dtypes and shardings of `like`, whose stack may be scanned or not."""
        params = self.restore_params(step, like.params)
        optimizer = self._read(step, "optimizer", {"step": like.step, "state": _plain(like.opt_state)})
        opt_state = _rebuild(optimizer["state"], like.opt_state)
        return TrainState(step=optimizer["step"], params=params, opt_state=opt_state)

    def restore_params(self, step: int, like: Tree) -> Tree:
        """The parameters alone."""
        return self._read(step, "params", like)

    def load_params(self, step: int) -> Tree:
        """The parameters as they were stored, whatever their model, on one device of this host."""
        folder = self.folder / str(step) / "params"
        local = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as reader:
            stored = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=local),
                dict(reader.metadata(folder).item_metadata),
                is_leaf=lambda x: hasattr(x, "shape"),
            )
            return reader.restore(folder, args=ocp.args.StandardRestore(stored))

    def _read(self, step: int, item: str, like: Tree) -> Tree:
        """One item, checked against what is wanted (Orbax would cast silently), and stacked or unstacked if need be."""
        folder = self.folder / str(step) / item
        with contextlib.closing(ocp.Checkpointer(ocp.StandardCheckpointHandler())) as reader:
            stored = _shapes(reader.metadata(folder).item_metadata)
            if stored == _shapes(like):
                return reader.restore(folder, args=ocp.args.StandardRestore(like))
            for there, back in ((stack_layers, unstack_layers), (unstack_layers, stack_layers)):
                other = jax.eval_shape(there, like)
                if stored == _shapes(other):
                    tree = reader.restore(folder, args=ocp.args.StandardRestore(_placed(other, like)))
                    return jax.jit(back, out_shardings=jax.tree.map(lambda x: x.sharding, like))(tree)
        wanted = _shapes(like)
        odd = sorted(name for name in {*stored, *wanted} if stored.get(name) != wanted.get(name))
        raise ValueError(
            f"checkpoint {folder} is of another model: {len(odd)} arrays differ, the first is {odd[0]}: "
            f"{stored.get(odd[0], 'missing')} there, {wanted.get(odd[0], 'not expected')} here"
        )

    def _steps(self) -> list[int]:
        if not self.folder.is_dir():
            return []
        return sorted(int(p.name) for p in self.folder.iterdir() if p.name.isdigit() and p.is_dir())


def _plain(tree: Tree) -> Tree:
    """Optimizer states as nested dicts of arrays: a checkpoint does not depend on the classes of a library."""
    if isinstance(tree, (dict, tuple)):
        return {name: _plain(value) for name, value in _parts(tree).items() if jax.tree.leaves(value)}
    return tree


def _rebuild(plain: Tree, like: Tree) -> Tree:
    """The inverse of `_plain`, in the structure of `like`."""
    if not isinstance(like, (dict, tuple)):
        return plain
    parts = {name: _rebuild((plain or {}).get(name), value) for name, value in _parts(like).items()}
    if isinstance(like, dict):
        return dict(zip(like, parts.values(), strict=True))
    return type(like)(*parts.values()) if hasattr(like, "_fields") else tuple(parts.values())


def _parts(tree: Any) -> dict[str, Any]:
    """The items of a dict, a named tuple or a tuple, by name."""
    if isinstance(tree, dict):
        return {str(name): value for name, value in tree.items()}
    return dict(zip(getattr(tree, "_fields", None) or map(str, range(len(tree))), tree, strict=True))


def _shapes(tree: Tree) -> dict[str, str]:
    return {name: f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for name, leaf in _leaves(tree)}


def _leaves(tree: Tree) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: hasattr(x, "shape"))
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in leaves]


def _placed(other: Tree, like: Tree) -> Tree:
    """The shapes of a stack in its other form, split over the mesh as their counterparts in `like` are."""
    wanted = {name: leaf.sharding for name, leaf in _leaves(like)}

    def one(name: str, shape: Any) -> jax.ShapeDtypeStruct:
        parts = name.split("/")
        joined = "/".join("layers" if part.startswith("layers_") else part for part in parts)
        first = "/".join("layers_0" if part == "layers" else part for part in parts)
        where = wanted[next(known for known in (name, joined, first) if known in wanted)]
        if name not in wanted and isinstance(where, NamedSharding):
            spec = where.spec[1:] if joined in wanted else (None, *where.spec)
            where = NamedSharding(where.mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=where)

    return jax.tree.unflatten(jax.tree.structure(other), [one(*leaf) for leaf in _leaves(other)])


def _contents(folder: pathlib.Path) -> dict[str, Any]:
    """Size and checksum of every file below a folder."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                sum256 = hashlib.file_digest(file, "sha256").hexdigest()
            found[str(path.relative_to(folder))] = [path.stat().st_size, sum256]
    return found
