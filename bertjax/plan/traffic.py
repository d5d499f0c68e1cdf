"""What a compiled step reads from a chip's memory and writes to it.

Every instruction that is not inside a fusion reads its operands and writes its results, unless they lie in the memory
on the chip. Of an array that an instruction only slices, or updates in one place, the slice counts: a loop over layers
reads a layer of the stacked parameters a trip, not all of them. Padding of layouts and what a kernel reads twice are
not seen, so this is a lower bound for what an instruction moves.
"""

from collections.abc import Mapping

from bertjax.plan.hlo import Instruction, Module, total

_FREE = {
    *("parameter", "constant", "get-tuple-element", "tuple", "bitcast", "after-all", "partition-id", "iota"),
    *("while", "conditional", "call", "opt-barrier", "replica-id"),
}
_COPIES = ("copy-start", "slice-start")
_SLICES = ("dynamic-slice", "slice", "gather")
_SAME = ("bitcast", "reshape")  # another view of the same bytes
_WHOLE = 1 << 62

Lines = Mapping[str, Instruction]


def memory_traffic(module: Module) -> int:
    """Bytes of one device in a step."""
    return sum(
        module.times[name] * moved(line, lines, module)
        for name, lines in module.computations.items()
        if name not in module.fused
        for line in lines.values()
    )


def moved(line: Instruction, lines: Lines, module: Module) -> int:
    """Bytes that one run of an instruction reads and writes."""
    if line.opcode in _FREE or line.opcode.endswith("-done"):
        return 0
    if line.opcode in _COPIES:  # gives the source, the copy and a flag
        both = line.results[:2]
        return min(array.bytes for array in both) * sum(not array.fast for array in both)
    body = _body(line, module)
    read = 0
    for index, operand in enumerate(line.operands):
        slow = [array for array in lines[operand].results if not array.fast] if operand in lines else []
        if slow:
            read += min(total(slow), _used(line, index, module))
    if line.opcode == "dynamic-update-slice":
        return read + _size(lines, line.operands[1])
    root = list(body.values())[-1] if body else None
    made = (root.operands if root.opcode == "tuple" else (root.name,)) if root else ()
    written = 0
    # What is begun asynchronously gives its operands as well.
    again = (
        len(line.operands) if line.opcode.endswith("-start") and len(line.results) > len(line.operands) else 0
    )
    for index, array in enumerate(line.results):
        if index >= again and not array.fast:
            written += min(array.bytes, _updated(body, made[index]) if index < len(made) else _WHOLE)
    return read + written


def _body(line: Instruction, module: Module) -> Lines:
    return module.computations.get(line.called.get("calls", ""), {}) if line.opcode == "fusion" else {}


def _used(line: Instruction, index: int, module: Module) -> int:
    """How much an instruction looks at of one operand."""
    if line.opcode in _SLICES and index == 0:
        return total(line.results)
    if line.opcode == "dynamic-update-slice" and index == 0:
        return 0  # what is there stays unread
    body = _body(line, module)
    names = [one.name for one in body.values() if one.opcode == "parameter" and one.inside == str(index)]
    used = 0
    while names:
        name = names.pop()
        for user in body.values():
            if name not in user.operands:
                continue
            if user.opcode in _SAME:
                names.append(user.name)
            elif user.opcode in (*_SLICES, "dynamic-update-slice", "fusion"):
                used += min(_used(user, place, module) for place, o in enumerate(user.operands) if o == name)
            else:
                return _WHOLE
    return used if body else _WHOLE


def _updated(body: Lines, name: str) -> int:
    """How much is written of a result that a fusion makes by updating one place of an operand."""
    while name in body and body[name].opcode in _SAME:
        name = body[name].operands[0]
    if name in body and body[name].opcode == "dynamic-update-slice":
        return _size(body, body[name].operands[1])
    return _WHOLE


def _size(lines: Lines, name: str) -> int:
    return total(lines[name].results) if name in lines else 0
