"""Randomness without state: a counter-based hash, and a keyed permutation of range(n) that costs no memory.

Whatever is random about an example is a hash of what identifies it, `mix(seed, epoch, index, purpose)`, so
it can be computed anywhere, in any order, on any number of hosts, and there is no generator state to save.

    mix       state <- scramble(state + golden ratio + part) over the parts in order, where scramble is the
              finaliser of SplitMix64 (Steele, Lea and Flood 2014): every input bit moves every output bit
    permute   a Feistel network on the k = ceil(log2 n) bits of a position, two halves changing in turn by
              a hash of the other; a result of n or more is put through again (cycle walking; Black and
              Rogaway 2002), less than one more time on average since 2^k < 2 n. A few positions are
              sorted by a hash of each instead: networks on a handful of bits prefer some orders
"""

import numpy as np

from bertjax.types import Int

__all__ = ["below", "chance", "draws", "mix", "mix_many", "permute"]

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FIRST = 0xBF58476D1CE4E5B9
_SECOND = 0x94D049BB133111EB
_ROUNDS = 8
_FEW = 256


def mix(*parts: int) -> int:
    """A 64-bit hash of a tuple of integers; the order of the parts matters."""
    state = 0
    for part in parts:
        state = (state + _GOLDEN + part) & _MASK
        state = ((state ^ (state >> 30)) * _FIRST) & _MASK
        state = ((state ^ (state >> 27)) * _SECOND) & _MASK
        state ^= state >> 31
    return state


def mix_many(*parts: int | np.ndarray) -> Int[np.ndarray, "..."]:
    """`mix` of every tuple in the arrays broadcast together; uint64."""
    first = next(number for number, part in enumerate(parts) if isinstance(part, np.ndarray))
    state = np.full(
        1, mix(*(int(part) for part in parts[:first])), np.uint64
    )  # not a scalar: those warn on overflow
    for part in parts[first:]:
        state = _scramble(state + np.uint64(_GOLDEN) + np.atleast_1d(part).astype(np.uint64))
    return state


def _scramble(state: np.ndarray) -> np.ndarray:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    state ^= state >> np.uint64(31)
    return state


def below(n: int, *parts: int) -> int:
    """A uniform integer in [0, n), the same for the same parts."""
    return (mix(*parts) * n) >> 64


def draws(n: int | np.ndarray, hashes: np.ndarray) -> Int[np.ndarray, "..."]:
    """The uniform integers in [0, n) that hashes stand for, n below 2**32; int64."""
    return ((hashes >> np.uint64(32)) * np.asarray(n, np.uint64) >> np.uint64(32)).astype(np.int64)


def chance(probability: float, *parts: int) -> bool:
    """True with that probability, the same for the same parts."""
    return mix(*parts) < int(probability * 2.0**64)


def permute(positions: Int[np.ndarray, "m"], n: int, key: int) -> Int[np.ndarray, "m"]:
    """Where a keyed permutation of range(n) sends each position; int64."""
    positions = np.asarray(positions, np.int64)
    assert positions.size == 0 or 0 <= positions.min() <= positions.max() < n, "positions lie in range(n)"
    if n <= _FEW:
        return np.argsort(mix_many(key, np.arange(n)), kind="stable")[positions]
    bits = (n - 1).bit_length()
    low_bits = np.uint64(bits - bits // 2)
    low_mask, high_mask = np.uint64((1 << (bits - bits // 2)) - 1), np.uint64((1 << (bits // 2)) - 1)
    keys = [np.uint64(mix(key, number)) for number in range(_ROUNDS)]
    result, outside = positions.astype(np.uint64), np.arange(positions.size)
    while outside.size:
        high, low = result[outside] >> low_bits, result[outside] & low_mask
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            high = high ^ (_scramble(low + even) & high_mask)
            low = low ^ (_scramble(high + odd) & low_mask)
        result[outside] = (high << low_bits) | low
        outside = outside[result[outside] >= n]
    return result.astype(np.int64)
