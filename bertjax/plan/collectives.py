"""What a compiled step sends over the network.

    kind     all-reduce, all-gather, reduce-scatter, all-to-all, collective-permute
    axis     the mesh axes along which the devices of a group differ (`data`, `fsdp*tensor`, ...)
    times    how often a step does it: a loop's body counts once a trip
    bytes    of the whole array, each time: what an all-gather gives, what an all-reduce or a reduce-scatter takes
    wire     what a device sends for it round a ring: (n-1)/n of the bytes, and twice that for an all-reduce

Compilers write one thing in several ways. For TPUs an asynchronous gather is a chain of fusions that all hold the same
instruction: the chain counts once. A reduce-scatter is a fusion round an all-reduce. And a gather that feeds a product
may become permutations round a ring beside pieces of the product: those stay permutations here.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Sequence

import numpy as np
from jax.sharding import Mesh

from bertjax.plan.hlo import Array, Instruction, Module, total

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange of a step."""

    kind: str
    axis: str
    group: tuple[int, ...]  # the devices of one group, as places in the mesh
    times: int
    arrays: tuple[Array, ...]
    source: str = ""

    @property
    def bytes(self) -> int:
        """Of the whole arrays, each time."""
        return total(self.arrays)

    @property
    def wire(self) -> float:
        """Bytes that a device sends, each time."""
        if self.kind == "collective-permute":
            return float(self.bytes)
        share = (len(self.group) - 1) / len(self.group)
        return share * self.bytes * (2 if self.kind == "all-reduce" else 1)


def collectives(module: Module, mesh: Mesh) -> list[Collective]:
    """All exchanges of a step, in the order of the program's text."""
    found, chains = [], set()
    for name, lines in module.computations.items():
        for line in lines.values():
            kind = line.opcode.removesuffix("-start")
            if kind not in KINDS or not module.times[name]:
                continue
            if chain := re.search(r'chain_id="(\d+)"', line.rest):
                channel = re.search(r"channel_id=(\d+)", line.rest)
                key = (kind, chain.group(1), channel.group(1) if channel else "")
                if key in chains:
                    continue
                chains.add(key)
            if kind == "all-reduce" and "all-reduce-scatter" in name:
                kind = "reduce-scatter"
            group, axis = _group(line, kind, mesh)
            if len(group) < 2:
                continue
            given = tuple(array for o in line.operands if o in lines for array in lines[o].results)
            if kind == "all-gather":  # an asynchronous one gives its operands as well
                given = line.results[-len(given) :]
            found.append(Collective(kind, axis, group, module.times[name], given, line.source))
    return found


@dataclasses.dataclass(frozen=True)
class Row:
    """Exchanges of one kind over the same mesh axes."""

    kind: str
    axis: str
    group: int
    count: int
    bytes: int
    wire: float


def table(found: Sequence[Collective]) -> list[Row]:
    """The exchanges of a step, by kind and mesh axis; the largest first."""
    rows: dict[tuple[str, str, int], list[Collective]] = collections.defaultdict(list)
    for one in found:
        rows[one.kind, one.axis, len(one.group)].append(one)
    made = [
        Row(
            *key,
            count=sum(one.times for one in group),
            bytes=sum(one.times * one.bytes for one in group),
            wire=sum(one.times * one.wire for one in group),
        )
        for key, group in rows.items()
    ]
    return sorted(made, key=lambda row: (-row.wire, row.kind, row.axis))


# ---------------------------------------------------------------------------------------------- groups


def _group(line: Instruction, kind: str, mesh: Mesh) -> tuple[tuple[int, ...], str]:
    """The devices of one group, and the mesh axes that it crosses."""
    devices = mesh.size
    if kind == "collective-permute":
        pairs = [
            (int(a), int(b))
            for a, b in re.findall(r"\{(\d+),(\d+)\}", _attribute(line, "source_target_pairs"))
        ]
        axes = {axis for pair in pairs for axis in crossed(pair, mesh)}
        reached = [pairs[0][0]] if pairs else []
        following = dict(pairs)
        while reached and following.get(reached[-1], reached[0]) not in reached:
            reached.append(following[reached[-1]])
        return tuple(reached), _join(axes, mesh)
    groups = replica_groups(_attribute(line, "replica_groups"), devices)
    axes = {axis for group in groups for axis in crossed(group, mesh)}
    return tuple(groups[0]), _join(axes, mesh)


def _attribute(line: Instruction, name: str) -> str:
    found = re.search(rf"\b{name}=(.*?)(?:, (?!device_ids)[a-z_\-]+=|$)", line.rest)
    return found.group(1) if found else ""


def replica_groups(written: str, devices: int) -> list[list[int]]:
    """The groups of devices that a collective runs in, from any of the ways in which they are written.

    {{0,1},{2,3}}                        a list
    [2,4]<=[8], [4,2]<=[2,4]T(1,0)       the numbers 0 ... in this shape, turned, in rows
    mesh['a'=4,'b'=4] {'b'}              devices in a mesh; a group runs along the axes named
    mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}        the same, of devices in another order
    """
    if written.startswith("{{"):
        return [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", written)]
    if found := re.match(r"\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", written):
        rows, shape, turn = found.groups()
        ids = device_numbers(f"[{shape}]" + (f"T({turn})" if turn else ""))
        return ids.reshape([int(n) for n in rows.split(",")]).tolist()
    if found := re.match(r"@?mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))?\s*\{([^}]*)\}", written):
        axes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", found.group(1))}
        # An axis may be used in part: 'a':(2)4 is the middle of 'a' cut into 2 x 4 x the rest.
        shape, along = [], []
        parts = {
            name: (int(before or 1), int(size or axes[name]))
            for name, before, size in re.findall(r"'([^']+)'(?::\((\d+)\)(\d+))?", found.group(3))
        }
        for name, whole in axes.items():
            before, size = parts.get(name, (whole, 1))
            if name in parts:
                along.append(len(shape) + 1)
            shape += [before, size, whole // before // size]
        ids = device_numbers(found.group(2) or f"[{math.prod(shape)}]").reshape(shape)
        count = math.prod(shape[i] for i in along)
        return np.moveaxis(ids, along, range(-len(along), 0)).reshape(-1, count).tolist()
    if written in ("", "{}"):
        return [list(range(devices))]
    raise AssertionError(f"replica groups in a form that is not known: {written[:80]}")


def device_numbers(written: str) -> np.ndarray:
    """0, 1, ... in a shape, its axes exchanged: [8], [2,4]T(1,0)."""
    found = re.fullmatch(r"\[([\d,]+)\](?:T\(([\d,]+)\))?", written)
    assert found is not None, written
    shape = [int(n) for n in found.group(1).split(",")]
    ids = np.arange(math.prod(shape)).reshape(shape)
    return (
        ids.transpose([int(n) for n in found.group(2).split(",")]).ravel() if found.group(2) else ids.ravel()
    )


def crossed(group: Sequence[int], mesh: Mesh) -> set[str]:
    """The mesh axes along which the devices of a group differ."""
    places = np.stack(np.unravel_index(np.asarray(group), mesh.devices.shape))
    different = (places != places[:, :1]).any(1)
    return {axis for axis, moves in zip(mesh.axis_names, different, strict=True) if moves}


def _join(axes: set[str], mesh: Mesh) -> str:
    return "*".join(axis for axis in mesh.axis_names if axis in axes)
