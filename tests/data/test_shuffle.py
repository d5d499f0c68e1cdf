import collections
import math

import numpy as np
import pytest

from bertjax.data.shuffle import below, chance, draws, mix, mix_many, permute


def chi_square(counts: np.ndarray, expected: float) -> float:
    """Deviation from the mean of a chi-square variable, in its standard deviations."""
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return (statistic - (counts.size - 1)) / math.sqrt(2 * (counts.size - 1))


def test_the_hash_is_pinned() -> None:
    # The first outputs of the published SplitMix64 started at 0.
    assert [mix(0), mix(0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    # The order of every run's data follows from these: another value here makes old runs unresumable.
    assert mix(1, 2, 3) == 0x6AE515C1C0AC7E37
    assert permute(np.arange(10), 10, 7).tolist() == [4, 1, 8, 6, 7, 9, 0, 5, 2, 3]
    assert permute(np.arange(8), 1000, 7).tolist() == [490, 807, 639, 84, 83, 692, 597, 874]


def test_many_hashes_at_once_are_the_hashes() -> None:
    counters = np.array([0, 1, 5, 2**40, 2**63 - 1])
    assert mix_many(11, 12, counters).tolist() == [mix(11, 12, int(c)) for c in counters]
    grid = mix_many(-3, counters[:, None], 4, np.arange(3))
    assert grid.tolist() == [[mix(-3, int(c), 4, k) for k in range(3)] for c in counters]


def test_parts_are_told_apart() -> None:
    tuples = [(a, b, c) for a in range(20) for b in range(20) for c in range(20)]
    assert len({mix(*parts) for parts in tuples}) == len(tuples)
    assert mix(1, 2) != mix(2, 1) != mix(1, 2, 0)
    assert mix(-1) == mix(2**64 - 1)  # negative seeds are as good as any


def test_every_bit_moves_every_bit() -> None:
    flips = np.zeros((64, 64))
    for trial in range(200):
        value = mix(trial)
        for bit in range(64):
            changed = mix(trial * 2**20, value) ^ mix(trial * 2**20, value ^ (1 << bit))
            flips[bit] += [changed >> place & 1 for place in range(64)]
    assert abs(flips / 200 - 0.5).max() < 0.22  # 6 standard deviations


@pytest.mark.parametrize("n", [1, 2, 3, 7, 10, 1000])
def test_draws_are_uniform(n: int) -> None:
    each = np.bincount([below(n, 3, i) for i in range(20000)], minlength=n)
    many = np.bincount(draws(n, mix_many(5, np.arange(20000))), minlength=n)
    assert each.size == many.size == n
    if n > 1:
        assert abs(chi_square(each, 20000 / n)) < 5
        assert abs(chi_square(many, 20000 / n)) < 5


def test_chances() -> None:
    assert not any(chance(0.0, i) for i in range(100))
    assert all(chance(1.0, i) for i in range(100))
    assert abs(np.mean([chance(0.3, 9, i) for i in range(40000)]) - 0.3) < 0.01


@pytest.mark.parametrize(
    "n",
    [*range(1, 20), 63, 64, 65, 127, 128, 129, 255, 256, 257, 258, 511, 512, 513, 1000, 1023, 1025, 99991],
)
def test_a_permutation_has_every_place_once(n: int) -> None:
    for key in (0, 1, mix(4)):
        assert np.array_equal(np.sort(permute(np.arange(n), n, key)), np.arange(n))


def test_a_permutation_needs_no_neighbours() -> None:
    whole = permute(np.arange(1000), 1000, 3)
    assert all(permute(np.array([i]), 1000, 3)[0] == whole[i] for i in range(0, 1000, 7))
    assert np.array_equal(permute(np.array([5, 5, 2]), 1000, 3), whole[[5, 5, 2]])
    assert permute(np.array([], np.int64), 1000, 3).shape == (0,)


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_every_order_is_as_likely(n: int) -> None:
    trials = 50 * math.factorial(n)
    orders = collections.Counter(
        tuple(permute(np.arange(n), n, mix(8, key)).tolist()) for key in range(trials)
    )
    counts = np.array(list(orders.values()) + [0] * (math.factorial(n) - len(orders)))
    assert abs(chi_square(counts, 50)) < 5


@pytest.mark.parametrize("n", [23, 257])
def test_where_a_position_goes_is_uniform_and_independent_of_its_neighbour(n: int) -> None:
    keys = max(5 * n, 1000)
    images = np.array([permute(np.array([4, 5]), n, mix(2, key)) for key in range(keys)])
    for column in images.T:
        assert abs(chi_square(np.bincount(column, minlength=n), keys / n)) < 5
    gaps = np.bincount((images[:, 1] - images[:, 0]) % n, minlength=n)[1:]
    assert abs(chi_square(gaps, keys / (n - 1))) < 5


def test_neighbours_are_scattered() -> None:
    n = 100_003
    order = permute(np.arange(n), n, 12)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
    assert np.sum(order == np.arange(n)) < 10  # one fixed point is expected
