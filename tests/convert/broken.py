"""What every reader owes to a broken file: one line that names it, and nothing else."""

import contextlib
import os
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest

from bertjax.convert.readers import open_weights


@contextlib.contextmanager
def refused(*parts: str) -> Iterator[None]:
    """The block ends in a ValueError of one printable line in which all parts stand."""
    with pytest.raises(ValueError) as caught:
        yield
    message = str(caught.value)
    assert "\n" not in message and len(message) < 500, message
    for part in parts:
        assert part in message, message


def read_all(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every tensor of a file or folder; each has what its entry says."""
    with open_weights(os.fspath(path)) as weights:
        found = {name: weights.read(name) for name in weights}
        for name, array in found.items():
            assert (array.shape, array.dtype) == (weights[name].shape, weights[name].dtype)
    return found


def same(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> bool:
    """Whether names, dtypes and bits are the same, NaNs with them."""
    return found.keys() == expected.keys() and all(
        found[name].dtype == array.dtype
        and found[name].shape == array.shape
        and found[name].tobytes() == array.tobytes()
        for name, array in expected.items()
    )


def mutated(content: bytes, draw: np.random.Generator) -> bytes:
    """The content with a few changes: flipped bits, other bytes, cut or repeated or moved pieces."""
    data = bytearray(content)
    for _ in range(int(draw.integers(1, 4))):
        if not data:
            break
        # Headers lie at the ends, so half of the changes do.
        at = int(draw.integers(len(data)))
        if draw.random() < 0.5:
            at = int(min(len(data) - 1, draw.exponential(40.0)))
            at = at if draw.random() < 0.5 else len(data) - 1 - at
        length = int(draw.integers(1, 9))
        match int(draw.integers(6)):
            case 0:
                data[at] ^= 1 << int(draw.integers(8))
            case 1:
                data[at : at + length] = draw.bytes(len(data[at : at + length]))
            case 2:
                data[at : at + length] = bytes([int(draw.choice([0, 0x7F, 0x80, 0xFF]))]) * len(
                    data[at : at + length]
                )
            case 3:
                del data[at : at + length]
            case 4:
                data[at:at] = data[at : at + length]
            case 5:
                del data[at:]
    return bytes(data)


def fuzz(path: pathlib.Path, times: int, *, seed: int, read: Callable[[], object] | None = None) -> int:
    """Reads a file `times` times with random changes: it is refused in one line, or what is read has its entries."""
    content, draw, refusals = path.read_bytes(), np.random.default_rng(seed), 0
    try:
        for _ in range(times):
            changed = mutated(content, draw)
            path.write_bytes(changed)
            try:
                (read or (lambda: read_all(path)))()
            except ValueError as error:
                message = str(error)
                assert "\n" not in message and len(message) < 500, message
                refusals += 1
    finally:
        path.write_bytes(content)
    return refusals
