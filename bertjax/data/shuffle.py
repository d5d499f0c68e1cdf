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


def mix_many(key: int, counters: Int[np.ndarray, "n"]) -> Int[np.ndarray, "n"]:
    """`mix(*parts, counter)` for every counter at once, where `key = mix(*parts)`; uint64."""
    state = counters.astype(np.uint64) + np.uint64((key + _GOLDEN) & _MASK)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(_FIRST)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(_SECOND)
    return state ^ (state >> np.uint64(31))


def below(n: int, *parts: int) -> int:
    """A uniform integer in [0, n), the same for the same parts."""
    return (mix(*parts) * n) >> 64


def draws(n: int, count: int, key: int) -> Int[np.ndarray, "count"]:
    """So many uniform integers in [0, n), n below 2**32; int64."""
    high = mix_many(key, np.arange(count)) >> np.uint64(32)
    return (high * np.uint64(n) >> np.uint64(32)).astype(np.int64)


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
    keys = [mix(key, number) for number in range(_ROUNDS)]
    result, outside = positions.astype(np.uint64), np.arange(positions.size)
    while outside.size:
        high, low = result[outside] >> low_bits, result[outside] & low_mask
        for even, odd in zip(keys[::2], keys[1::2], strict=True):
            high = high ^ (mix_many(even, low) & high_mask)
            low = low ^ (mix_many(odd, high) & low_mask)
        result[outside] = (high << low_bits) | low
        outside = outside[result[outside] >= n]
    return result.astype(np.int64)
