"""Protobuf's wire format, as far as foreign files need it: numbers of seven bits a byte, and fields by number."""

from collections.abc import Iterator

__all__ = ["Cursor", "Damaged", "fields"]


class Damaged(Exception):
    """The bytes are not what they should be."""


class Cursor:
    """Bytes that are taken one after another."""

    def __init__(self, content: bytes) -> None:
        self.content, self.position = content, 0

    @property
    def left(self) -> int:
        return len(self.content) - self.position

    def take(self, count: int) -> bytes:
        if count > self.left:
            raise Damaged("a value is longer than what is left")
        self.position += count
        return self.content[self.position - count : self.position]

    def varint(self) -> int:
        """Seven bits a byte, low ones first, the eighth says that more follow."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self.take(1)[0]
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise Damaged("a number is too long")


def fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a protobuf message."""
    message = Cursor(content)
    while message.left:
        number, wire = divmod(message.varint(), 8)
        if wire == 0:
            yield number, message.varint()
        elif wire == 2:
            yield number, message.take(message.varint())
        elif wire in (1, 5):
            yield number, int.from_bytes(message.take(8 if wire == 1 else 4), "little")
        else:
            raise Damaged("a field of an unknown kind")
