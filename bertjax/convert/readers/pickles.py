"""A pickle is a program, and Python's own unpickler runs it. This one reads data and can execute nothing.

It knows the instructions that build numbers, text, tuples, lists and dicts. Names of functions and classes are
looked up in a table of the caller, whose values are functions of this project that only look at their arguments;
each other name, `os.system` or `numpy.core.multiarray.scalar`, ends the reading with an error that says it.
Nothing is imported, no attribute is fetched, no method of a foreign class runs. Memory is bounded by the length
of the input: no instruction takes a length on trust, and dictionary keys are text or numbers, so that nothing
has to be hashed that refers to itself a thousand times over.
"""

import dataclasses
import struct
from collections.abc import Callable, Mapping
from typing import Any

__all__ = ["Broken", "Named", "Unwanted", "pairs_to_dict", "read_pickle"]


class Unwanted(Exception):
    """The pickle names something that is not in the table."""


class Broken(Exception):
    """The bytes are no pickle, or none that consists of data."""


@dataclasses.dataclass(frozen=True, eq=False)
class Named:
    """What a global name stands for: a value, or a function of ours that makes one."""

    name: str
    value: Any = None
    make: Callable[..., Any] | None = None


def read_pickle(
    data: Any, position: int, names: Mapping[str, Named], storage: Callable[[Any], Any] | None = None
) -> tuple[Any, int]:
    """(the value of the pickle that begins at `position`, where it ends); `storage` resolves persistent ids."""
    machine = _Machine(data, position, names, storage)
    try:
        return machine.run(), machine.position
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        what = f"{type(error).__name__} at byte {machine.position:,}"
        raise Broken(f"is no pickle of data ({what})") from None


class _Machine:
    """A stack, the stacks below the marks, and numbered values that are used again."""

    def __init__(
        self, data: Any, position: int, names: Mapping[str, Named], storage: Callable[[Any], Any] | None
    ) -> None:
        self.data, self.position, self.names, self.storage = data, position, names, storage
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        while (code := self.take(1)) != b".":
            if code in _SKIPPED:
                self.take(_SKIPPED[code])
            elif code in _FIXED:
                self.stack.append(_FIXED[code])
            elif code in _NUMBERS:
                self.stack.append(
                    struct.unpack(_NUMBERS[code], self.take(struct.calcsize(_NUMBERS[code])))[0]
                )
            elif code in _COUNTED:
                size, made = _COUNTED[code]
                self.stack.append(made(self.take(int.from_bytes(self.take(size), "little"))))
            elif code in _ACTIONS:
                _ACTIONS[code](self)
            else:
                raise Broken(f"is no pickle of data (instruction {code!r} at byte {self.position - 1:,})")
        (value,) = self.stack
        return value

    def take(self, count: int) -> bytes:
        """The next bytes."""
        taken = bytes(self.data[self.position : self.position + count])
        if len(taken) < count:
            raise Broken("is cut off inside its pickle")
        self.position += count
        return taken

    def line(self) -> str:
        """The text up to the end of the line: how the first protocol writes what it counts."""
        end = self.data.find(b"\n", self.position)
        if end < 0:
            raise Broken("is cut off inside its pickle")
        text = self.take(end - self.position).decode()
        self.position += 1
        return text

    def since_mark(self) -> list[Any]:
        """What lies above the last mark, which is taken off."""
        items, self.stack = self.stack, self.below.pop()
        return items

    def named(self, module: str, name: str) -> None:
        full = f"{module}.{name}"
        if full not in self.names:
            raise Unwanted(full)
        self.stack.append(self.names[full])

    # Each instruction that does more than to push a constant or a counted piece of the input.

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def pop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def global_name(self) -> None:
        module = self.line()
        self.named(module, self.line())

    def stacked_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Broken("is no pickle of data (a name that is no text)")
        self.named(module, name)

    def call(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Named) or function.make is None or not isinstance(arguments, tuple):
            what = function.name if isinstance(function, Named) else f"a {type(function).__name__}"
            raise Broken(f"is no pickle of data (it calls {what})")
        self.stack.append(function.make(*arguments))

    def make_instance(self) -> None:
        raise Broken("is no pickle of data (it makes an object of a class)")

    def instance_name(self) -> None:
        self.global_name()  # most likely ends here
        self.make_instance()

    def set_state(self) -> None:
        # The attributes of a state_dict count versions of its modules; nothing here has attributes.
        self.stack.pop()
        if not isinstance(self.stack[-1], dict):
            raise Broken(f"is no pickle of data (it sets attributes of a {type(self.stack[-1]).__name__})")

    def resolve(self) -> None:
        identity = self.stack.pop()
        if self.storage is None:
            raise Broken("is no pickle of data (it refers to something outside)")
        self.stack.append(self.storage(identity))

    def gather(self, made: Callable[[list[Any]], Any]) -> None:
        value = made(self.since_mark())  # gives the stack below the mark back, so it goes first
        self.stack.append(value)

    def append_to(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Broken(f"is no pickle of data (it appends to a {type(self.stack[-1]).__name__})")
        self.stack[-1].extend(items)

    def set_in(self, items: list[Any]) -> None:
        if not isinstance(self.stack[-1], dict):
            raise Broken(f"is no pickle of data (it sets items of a {type(self.stack[-1]).__name__})")
        self.stack[-1].update(_every_second(items))

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def last(self, count: int) -> tuple[Any, ...]:
        taken = tuple(self.stack[-count:])
        if len(taken) < count:
            raise IndexError
        del self.stack[-count:]
        return taken


def pairs_to_dict(pairs: Any) -> dict[Any, Any]:
    """A dict whose keys are text or numbers."""
    for key, _ in pairs:
        if type(key) not in (str, int):
            raise Broken(f"is no pickle of data (a {type(key).__name__} as the key of a dict)")
    return dict(pairs)


def _every_second(items: list[Any]) -> dict[Any, Any]:
    """Key, value, key, value ... as a dict."""
    return pairs_to_dict(list(zip(items[::2], items[1::2], strict=True)))


def _signed(content: bytes) -> int:
    return int.from_bytes(content, "little", signed=True)


def _number(text: str) -> Any:
    # The first protocol writes False and True as the numbers 00 and 01.
    return {"00": False, "01": True}[text] if text in ("00", "01") else int(text.removesuffix("L"))


def _plain(text: str) -> str:
    """Text of the first protocol, which has escapes only for odd characters: no name needs them."""
    if "\\" in text:
        raise Broken("is no pickle of data (a text with escapes)")
    return text


_SKIPPED = {b"\x80": 1, b"\x95": 8}  # protocol number; length of a frame
_FIXED = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
_NUMBERS = {b"J": "<i", b"K": "<B", b"M": "<H", b"G": ">d"}
_COUNTED: dict[bytes, tuple[int, Callable[[bytes], Any]]] = {
    b"X": (4, bytes.decode),
    b"\x8c": (1, bytes.decode),
    b"\x8d": (8, bytes.decode),
    b"T": (4, bytes.decode),  # what Python 2 wrote: names, in ASCII
    b"U": (1, bytes.decode),
    b"B": (4, bytes),
    b"C": (1, bytes),
    b"\x8e": (8, bytes),
    b"\x8a": (1, _signed),
    b"\x8b": (4, _signed),
}
_ACTIONS: dict[bytes, Callable[[_Machine], Any]] = {
    b"(": _Machine.mark,
    b"0": _Machine.pop,
    b"1": _Machine.since_mark,
    b"2": lambda m: m.stack.append(m.stack[-1]),
    b"c": _Machine.global_name,
    b"i": _Machine.instance_name,
    b"\x93": _Machine.stacked_name,
    b"R": _Machine.call,
    b"\x81": _Machine.make_instance,
    b"\x92": _Machine.make_instance,
    b"b": _Machine.set_state,
    b"Q": _Machine.resolve,
    b"]": lambda m: m.stack.append([]),
    b"}": lambda m: m.stack.append({}),
    b"a": lambda m: m.append_to([m.stack.pop()]),
    b"e": lambda m: m.append_to(m.since_mark()),
    b"s": lambda m: m.set_in(list(m.last(2))),
    b"u": lambda m: m.set_in(m.since_mark()),
    b"l": lambda m: m.gather(list),
    b"d": lambda m: m.gather(_every_second),
    b"t": lambda m: m.gather(tuple),
    b"\x85": lambda m: m.stack.append(m.last(1)),
    b"\x86": lambda m: m.stack.append(m.last(2)),
    b"\x87": lambda m: m.stack.append(m.last(3)),
    b"p": lambda m: m.remember(int(m.line())),
    b"q": lambda m: m.remember(m.take(1)[0]),
    b"r": lambda m: m.remember(int.from_bytes(m.take(4), "little")),
    b"\x94": lambda m: m.remember(len(m.memo)),
    b"g": lambda m: m.stack.append(m.memo[int(m.line())]),
    b"h": lambda m: m.stack.append(m.memo[m.take(1)[0]]),
    b"j": lambda m: m.stack.append(m.memo[int.from_bytes(m.take(4), "little")]),
    b"I": lambda m: m.stack.append(_number(m.line())),
    b"L": lambda m: m.stack.append(_number(m.line())),
    b"F": lambda m: m.stack.append(float(m.line())),
    b"V": lambda m: m.stack.append(_plain(m.line())),
    b"S": lambda m: m.stack.append(_plain(m.line())[1:-1]),
}
