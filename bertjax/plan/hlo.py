"""Reads a compiled program from the compiler's text: its computations, and how often a step runs each.

    %name = type opcode(%operand, ...), attribute=value, ...

Compilers count the body of a loop once; here it counts once a trip. The number of trips is what the compiler says it
knows, or the one constant that the loop's condition compares with.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping

BITS = {"pred": 8, "s4": 4, "u4": 4, "s8": 8, "u8": 8, "s16": 16, "u16": 16, "bf16": 16, "f16": 16}
BITS |= {"s32": 32, "u32": 32, "f32": 32, "s64": 64, "u64": 64, "f64": 64, "c64": 64, "c128": 128}

_ARRAY = re.compile(r"\b(pred|bf16|f8\w*|[suf]\d+|c64|c128)\[([\d,]*)\]((?:\{[^{}]*\})?)")
_NAME = re.compile(r"%([\w.\-]+)")
_CALLED = re.compile(
    r"\b(calls|body|condition|to_apply|true_computation|false_computation|async_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'known_trip_count"?[:=]\s*\{\s*"?n"?[:=]\s*"?(\d+)')


@dataclasses.dataclass(frozen=True)
class Array:
    """An array as it lies on one device."""

    dtype: str
    shape: tuple[int, ...]
    fast: bool = False  # in the chip's own memory (TPUs write S(1)), not in that beside it

    @property
    def bytes(self) -> int:
        """Without the padding of its layout."""
        return math.prod(self.shape) * BITS.get(self.dtype, 8) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation."""

    name: str
    opcode: str
    written: str  # the type of its result
    inside: str  # what stands between the brackets: operands, or the value of a constant
    rest: str  # attributes

    @property
    def operands(self) -> tuple[str, ...]:
        """Names of the instructions whose results it takes."""
        return tuple(_NAME.findall(self.inside))

    @property
    def results(self) -> tuple[Array, ...]:
        """The arrays that it gives."""
        return tuple(
            Array(dtype, tuple(map(int, filter(None, dims.split(",")))), ":S(" in layout or ")S(" in layout)
            for dtype, dims, layout in _ARRAY.findall(self.written)
        )

    @property
    def called(self) -> dict[str, str]:
        """The computations it runs, by their role; not what a reduction adds with."""
        found = {role: name for role, name in _CALLED.findall(self.rest)}
        if branches := _BRANCHES.search(self.rest):
            found |= {str(i): name.strip(" %") for i, name in enumerate(branches.group(1).split(","))}
        if self.opcode not in ("call", "async-start"):
            found.pop("to_apply", None)
        return found

    @property
    def source(self) -> str:
        """The operation of the model that it was made from."""
        found = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.rest)
        return found.group(1).replace("\\'", "'") if found else ""


@dataclasses.dataclass(frozen=True)
class Module:
    """A compiled program."""

    computations: Mapping[str, Mapping[str, Instruction]]
    times: Mapping[str, int]  # how often a step runs each computation
    fused: frozenset[str]  # bodies of fusions, whose values never reach the memory
    unknown: tuple[str, ...]  # loops whose number of trips could not be read; they count once


def parse(text: str) -> Module:
    """The computations of a compiled module."""
    computations: dict[str, dict[str, Instruction]] = {}
    name, entry = "", ""
    for line in text.splitlines():
        if line.rstrip() == "}":  # kernels have attributes of several lines, one of which begins like this
            name = ""
        elif line.startswith(("%", "ENTRY ")) and line.rstrip().endswith("{"):
            found = re.match(r"(?:ENTRY )?%?([\w.\-]+)", line)
            assert found is not None, line
            name = found.group(1)
            entry = name if line.startswith("ENTRY") else entry
            computations[name] = {}
        elif name and (instruction := _instruction(line)):
            computations[name][instruction.name] = instruction
    times: collections.Counter[str] = collections.Counter()
    fused: set[str] = set()
    unknown: list[str] = []

    def count(name: str, number: int) -> None:
        times[name] += number
        for instruction in computations.get(name, {}).values():
            trips = 1
            if instruction.opcode == "while":
                known = _trips(computations, instruction)
                if known is None:
                    unknown.append(instruction.name)
                trips = known or 1
            for called in instruction.called.values():
                if instruction.opcode == "fusion":
                    fused.add(called)
                count(called, number * trips)

    count(entry, 1)
    return Module(computations, times, frozenset(fused), tuple(unknown))


def _instruction(line: str) -> Instruction | None:
    found = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = ", line)
    if not found:
        return None
    start = found.end()
    end = _closing(line, start) + 1 if line[start] == "(" else line.find(" ", start)
    opcode = re.compile(r"\s*([\w\-]+)\(").match(line, end)
    if not opcode:
        return None
    opens = opcode.end() - 1
    closes = _closing(line, opens)
    return Instruction(
        found.group(1), opcode.group(1), line[start:end], line[opens + 1 : closes], line[closes + 1 :]
    )


def _closing(line: str, start: int) -> int:
    """Where the bracket that opens at `start` closes."""
    depth = 0
    for bracket in re.compile(r"[()]").finditer(line, start):
        depth += 1 if bracket.group() == "(" else -1
        if depth == 0:
            return bracket.start()
    return len(line)


def _trips(computations: Mapping[str, Mapping[str, Instruction]], loop: Instruction) -> int | None:
    if known := _TRIPS.search(loop.rest):
        return int(known.group(1))
    lines = list(computations.get(loop.called.get("condition", ""), {}).values())
    for line in list(lines):
        for called in line.called.values():
            lines += computations.get(called, {}).values()
    numbers = {
        int(line.inside) for line in lines if line.opcode == "constant" and re.fullmatch(r"\d+", line.inside)
    }
    return numbers.pop() if len(numbers) == 1 else None


def total(arrays: Iterable[Array]) -> int:
    """Bytes of arrays."""
    return sum(array.bytes for array in arrays)
