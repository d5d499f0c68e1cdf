"""What must hold before the first step, on every process, found in seconds instead of in a hang.

    the same program   before JAX joins the processes: all hosts present, code, config, libraries, clocks   (`facts`,
                       `disagreement`: what `cluster.meet` is given)
    the same run       before the first step: mesh, corpus, workdir and its space, one all-reduce            (`check`)

What is wrong is one message by process 0, and all processes exit with the same code. A single process checks its own
workdir and devices.
"""

import contextlib
import dataclasses
import functools
import hashlib
import os
import pathlib
import platform
import shutil
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from bertjax import cluster
from bertjax.checkpoint import Checkpoints
from bertjax.exit_codes import WRONG_INPUT
from bertjax.journal import is_finished, scaled, versions
from bertjax.settings import differences
from bertjax.types import Tree

_CLOCKS = 30.0  # seconds by which two clocks may differ
_SECONDS = 60.0  # for what takes a few
_SHARED = 15.0  # for a file to be seen by another host
_BYTES = 4 << 20  # of the all-reduce, on each device


class Rows(Protocol):
    """What a part of a run reads."""

    digest: str

    def __len__(self) -> int: ...

    def rows(self, epochs: Any, indices: Any) -> Any:
        """Some of them."""


# ---------------------------------------------------------------------------------------------- the same program


def facts(config: Mapping[str, Any], workdir: str, mode: str) -> dict[str, Any]:
    """What processes must have in common, known without JAX's devices."""
    return {
        "code": code_digest(),
        "versions": versions() | {"machine": platform.machine()},
        "run": {"mode": mode, "workdir": workdir},
        "config": config,
    }


def code_digest() -> str:
    """A fingerprint of the sources of this package, and of the experiment that runs."""
    package = pathlib.Path(__file__).parent
    files = {str(path.relative_to(package)): path for path in package.rglob("*.py")}
    if script := getattr(sys.modules["__main__"], "__file__", None):
        files["__main__"] = pathlib.Path(script)
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def disagreement(hellos: Sequence[cluster.Hello]) -> str | None:
    """The first thing in which a process differs from process 0, and what to do about it."""
    first = hellos[0]
    for hello in hellos[1:]:
        for what, remedy in {
            "code": "install the same sources on all hosts",
            "versions": "install the same libraries on all hosts",
            "run": "start all processes with the same flags",
            "config": "start all processes with the same --set",
        }.items():
            ours, theirs = first.facts[what], hello.facts.get(what)
            if ours != theirs:
                odd = (
                    list(differences(ours, theirs))
                    if isinstance(ours, dict)
                    else [f"{theirs} there, {ours} here"]
                )
                more = f" (and {len(odd) - 3} more)" if len(odd) > 3 else ""
                noun = "flags" if what == "run" else what
                return f"{hello.name} has other {noun} than process 0: {'; '.join(odd[:3])}{more}: {remedy}"
    late = max(hellos, key=lambda hello: abs(hello.late))
    if abs(late.late) > _CLOCKS:
        word = "behind" if late.late > 0 else "ahead of"
        return f"the clock of {late.name} is {abs(late.late):.0f} s {word} that of process 0: set it (NTP, chrony)"
    return None


# ---------------------------------------------------------------------------------------------- the same run


@dataclasses.dataclass(frozen=True)
class Readiness:
    """What a process found out on its own; `error` if it cannot take part."""

    host: str
    mesh: str
    corpus: str
    error: str | None


def check(mesh: Mesh, state: Tree, rows: Sequence[Rows], workdir: str) -> str:
    """Raises what stands in the way of the first step; otherwise a line that says what was found.

    `state` holds shapes: what a checkpoint will hold. `rows` are those of every part of the run.
    """
    notes = cluster.notes()
    folder = pathlib.Path(workdir)
    error = next(filter(None, map(probe_corpus, rows)), None) or probe_workdir(folder)
    corpus = "+".join(dict.fromkeys(examples.digest[:12] for examples in rows))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if error is None and jax.process_index() == 0 and not is_finished(workdir):
        error = probe_space(folder, size)
    found = [f"corpus {corpus} and workdir fine"]
    if notes is None:
        if error is not None:
            raise ValueError(error)
    else:
        order = ",".join(str(device.id) for device in mesh.devices.flat)
        shape = " x ".join(f"{axis}={size}" for axis, size in mesh.shape.items())
        description = f"{shape} of devices {hashlib.sha256(order.encode()).hexdigest()[:8]}"
        mine = Readiness(socket.gethostname(), description, corpus, error)
        hosts = _agree(notes, folder, mine)
        found.insert(0, f"{notes.processes} processes on {hosts} host(s) with one code, config, jax and mesh")
    free = shutil.disk_usage(_existing(folder)).free
    found.append(f"{scaled(free)}B free for checkpoints of {scaled(size)}B")
    if mesh.size > 1:
        seconds = _in_time(functools.partial(all_reduce, mesh), alone=notes is None)
        moved = 2 * (mesh.size - 1) / mesh.size * _BYTES
        found.append(
            f"all-reduce of {_BYTES >> 20} MB in {seconds * 1e3:.1f} ms, {scaled(moved / seconds)}B/s"
        )
    return "preflight   " + ", ".join(found)


def _agree(notes: cluster.Notes, folder: pathlib.Path, mine: Readiness) -> int:
    """Raises the same in all processes if one is not ready; else the number of hosts."""
    token = folder / ".preflight"
    if notes.process == 0:
        nonce = f"{time.time_ns()}"
        if mine.error is None:
            token.write_text(nonce)
        notes.write("nonce", nonce)
    elif mine.error is None:
        if not _sees(token, notes.wait("nonce", 1, _SECONDS).get(0)):
            mine = dataclasses.replace(
                mine, error=f"does not see {folder} of process 0: share that folder among all"
            )
    notes.write("ready", dataclasses.asdict(mine))
    if notes.process != 0:
        verdict = notes.wait("readiness", 1, 2 * _SECONDS).get(0)
        if verdict is None:
            raise cluster.MissingError("process 0 came to no verdict about the preflight")
        if verdict["error"] is not None:
            raise cluster.ToldError(verdict["error"], WRONG_INPUT)
        return int(verdict["hosts"])
    ready = {
        process: Readiness(**said) for process, said in notes.wait("ready", notes.processes, _SECONDS).items()
    }
    with contextlib.suppress(OSError):
        token.unlink(missing_ok=True)
    absent = [str(process) for process in range(notes.processes) if process not in ready]
    hosts = len({said.host for said in ready.values()})
    error = _odd_one(ready)
    if error is None and absent:
        error = f"no word from process(es) {', '.join(absent)} for {_SECONDS:.0f} s before the first step"
    notes.write("readiness", {"error": error, "hosts": hosts})
    if error is not None:
        raise cluster.MissingError(error) if absent else ValueError(error)
    return hosts


def _odd_one(ready: Mapping[int, Readiness]) -> str | None:
    for process, said in sorted(ready.items()):
        name = f"process {process} ({said.host})"
        if said.error is not None:
            return f"{name}: {said.error}" if process else said.error
        for what in ("mesh", "corpus"):
            here, there = getattr(ready[0], what), getattr(said, what)
            if here != there:
                return f"{name} has another {what} than process 0: {there} there, {here} here"
    return None


def _sees(token: pathlib.Path, nonce: str | None) -> bool:
    """Whether a file of process 0 is here, too; a network file system may take a moment."""
    deadline = time.monotonic() + _SHARED
    while True:
        with contextlib.suppress(OSError):
            os.listdir(token.parent)  # refreshes what NFS remembers
            if token.read_text() == nonce:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)


def probe_corpus(examples: Rows) -> str | None:
    """What keeps the first and the last row from being read."""
    try:
        examples.rows(np.zeros(2, np.int64), np.asarray([0, len(examples) - 1], np.int64))
    except (OSError, ValueError) as error:
        return f"the corpus cannot be read: {error}"
    return None


def probe_workdir(folder: pathlib.Path) -> str | None:
    """What keeps a file from being written."""
    probe = folder / f".preflight-{socket.gethostname()}-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        return f"cannot write {folder}: {error.strerror}; choose another --workdir"
    return None


def probe_space(folder: pathlib.Path, size: int) -> str | None:
    """Whether two checkpoints fit, or one more where there is one already: the next is written before the last goes."""
    held = any(Checkpoints(folder).seals.glob("*.json"))
    needed, free = size * (1 if held else 2), shutil.disk_usage(folder).free
    if needed <= free:
        return None
    what = "another checkpoint" if held else "two checkpoints"
    return (
        f"no space left for {what} in {folder} ({free / 1e6:.1f} MB free, {needed / 1e6:.1f} needed): "
        f"free some, or choose another --workdir"
    )


def _existing(folder: pathlib.Path) -> pathlib.Path:
    return next(path for path in (folder, *folder.absolute().parents) if path.exists())


@functools.cache
def _reduction(mesh: Mesh) -> Any:
    axes = mesh.axis_names
    each = jax.shard_map(
        lambda x: jax.lax.psum(x, axes),
        mesh=mesh,
        in_specs=PartitionSpec(axes),
        out_specs=PartitionSpec(),
        check_vma=False,
    )
    return jax.jit(each)


def all_reduce(mesh: Mesh) -> float:
    """Seconds of one all-reduce over all devices, checked: the second one, which neither compiles nor connects."""
    per_device = _BYTES // 4
    sharding = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    x = jax.make_array_from_callback(
        (mesh.size * per_device,), sharding, lambda index: np.ones(per_device, np.float32)
    )
    reduce = _reduction(mesh)
    reduce(x).block_until_ready()
    began = time.perf_counter()
    total = reduce(x).block_until_ready()
    seconds = time.perf_counter() - began
    value = float(np.asarray(total.addressable_data(0))[0])
    if value != mesh.size:
        raise ValueError(
            f"an all-reduce of ones over {mesh.size} devices gave {value}: a device computes wrongly"
        )
    return seconds


def _in_time(measure: Any, *, alone: bool) -> float:
    """The measurement, in a thread: a collective that cannot reach the others never returns."""
    if alone:
        return measure()
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(measure())
        except Exception as error:  # raised again below, in the main thread
            result.append(error)

    thread = threading.Thread(target=run, name="all-reduce", daemon=True)
    thread.start()
    thread.join(_SECONDS)
    if not result:
        raise ValueError(
            f"an all-reduce did not end within {_SECONDS:.0f} s: the hosts reach process 0 but not each other; "
            f"open the private network between them, or name its interface (NCCL_SOCKET_IFNAME)"
        )
    if isinstance(result[0], Exception):
        raise result[0]
    return result[0]
