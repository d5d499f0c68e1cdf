"""CRC-32C (Castagnoli), the checksum of TensorFlow's files, over numpy arrays at hundreds of megabytes a second.

A checksum is linear over GF(2): that of words w_0 ... w_n-1 is the xor of Z^(n-i) w_i, where Z advances a
remainder past one word of zeros. So a row of K words is folded into the next row of K words at once,

    row <- Z^K row  xor  next row

with Z^K as two tables of 2^16 entries, one for each half of a word; the row that remains is halved, left half
past the right one, until one word is left. The first word is inverted on the way in and the result on the way
out, as the definition wants it. Bytes that fill no word are added one by one.
"""

import functools

import numpy as np

__all__ = ["crc32c", "masked"]

POLYNOMIAL = 0x82F63B78  # low bit first
LEVEL = 14  # rows of 2^14 words: they and the tables stay in a core's cache
ONES = np.uint32(0xFFFFFFFF)


def crc32c(data: bytes | np.ndarray) -> int:
    """The checksum of bytes, or of an array of uint8."""
    content = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    words = content[: len(content) // 4 * 4].view("<u4")
    state = int(ONES)
    if len(words):
        row = _folded(words) if len(words) >= 1 << LEVEL else _padded(words)
        while len(row) > 1:
            half = len(row) // 2
            row = _advance(half.bit_length() - 1, row[:half]) ^ row[half:]
        state = int(_advance(0, row)[0])
    table = _byte_table()
    for byte in content[len(words) * 4 :].tolist():
        state = int(table[(state ^ byte) & 255]) ^ (state >> 8)
    return state ^ int(ONES)


def masked(checksum: int) -> int:
    """How TensorFlow stores one: a checksum of data that holds checksums would otherwise be a weak one."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _padded(words: np.ndarray) -> np.ndarray:
    """The words behind zeros, which count for nothing, up to a power of two; the first is inverted."""
    row = np.zeros(1 << (len(words) - 1).bit_length(), np.uint32)
    row[len(row) - len(words) :] = words
    row[len(row) - len(words)] ^= ONES
    return row


def _folded(words: np.ndarray) -> np.ndarray:
    """One row that leaves the same remainder as all words."""
    width = 1 << LEVEL
    first = len(words) % width or width
    row = np.zeros(width, np.uint32)
    row[width - first :] = words[:first]
    row[width - first] ^= ONES
    low, high = _tables()
    index = np.empty(width, np.intp)
    from_low, from_high = np.empty_like(row), np.empty_like(row)
    mask, shift = np.uint32(0xFFFF), np.uint32(16)
    for following in words[first:].reshape(-1, width):
        np.bitwise_and(row, mask, out=index, casting="unsafe")
        low.take(index, out=from_low, mode="clip")
        np.right_shift(row, shift, out=index, casting="unsafe")
        high.take(index, out=from_high, mode="clip")
        np.bitwise_xor(from_low, from_high, out=row)
        np.bitwise_xor(row, following, out=row)
    return row


def _advance(level: int, words: np.ndarray) -> np.ndarray:
    """Each word past 2^level words of zeros."""
    advanced = np.zeros_like(words)
    for bit, column in enumerate(_columns(level)):
        advanced ^= ((words >> np.uint32(bit)) & np.uint32(1)) * column
    return advanced


@functools.cache
def _byte_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ (table & np.uint32(1)) * np.uint32(POLYNOMIAL)
    return table


@functools.cache
def _columns(level: int) -> np.ndarray:
    """What becomes of each single bit past 2^level words of zeros."""
    if level:
        return _advance(level - 1, _columns(level - 1))
    columns = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(4):
        columns = _byte_table()[columns & np.uint32(255)] ^ (columns >> np.uint32(8))
    return columns


@functools.cache
def _tables() -> tuple[np.ndarray, np.ndarray]:
    """What becomes of each low and of each high half of a word past 2^LEVEL words of zeros."""
    tables = []
    for first in (0, 16):
        table = np.zeros(1, np.uint32)
        for column in _columns(LEVEL)[first : first + 16]:
            table = np.concatenate([table, table ^ column])
        tables.append(table)
    return tables[0], tables[1]
