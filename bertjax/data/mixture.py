"""Several corpora in one stream of rows: weights and a temperature, each source at its own pace.

Source i supplies the share p_i ~ w_i^(1/T) of the rows; w_i is its number of tokens unless weights are
given. T=1 keeps the sizes, a greater T brings small sources forward, and T without end makes all equal
(google-research/bert's multilingual models have 1/T = 0.7, XLM-R 0.3, Conneau et al. 2020, arXiv
1911.02116).

The stream is divided into periods of P rows. Source i has exactly k_i ~ p_i P of them, and a keyed
permutation of the period says which. So what is asked for row g is found in the period it falls into: its
source, and that it is the source's row number period * k_i + (those before it in the period). The source
then goes through its own examples, epoch after epoch: sources have epochs, the mixture has none.

The examples of all sources are numbered through, so `example_id` stays unique.
"""

import functools
from collections.abc import Mapping, Sequence

import numpy as np

from bertjax.data.examples import Examples, Ints, Rows
from bertjax.data.shuffle import mix, permute
from bertjax.settings import digest
from bertjax.types import Int

__all__ = ["Mixture"]

_PERIOD = 1 << 16
_SOURCES, _ONCE = 2, 3  # purposes of hashes


class Mixture(Examples):
    """Examples drawn from several sources in fixed proportions."""

    def __init__(
        self,
        sources: Mapping[str, Examples],
        *,
        weights: Mapping[str, float] | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.names, self.sources = list(sources), list(sources.values())
        _check_alike(self.names, self.sources)
        self.shares = shares({name: source.tokens for name, source in sources.items()}, weights, temperature)
        """Share of the rows that each source supplies."""
        self.quota = _quota(self.shares)
        first = self.sources[0]
        self.vocabulary, self.length, self.labelled = first.vocabulary, first.length, first.labelled
        self.segmented, self.packed = first.segmented, first.packed
        self.digest = digest([[source.digest, self.shares[name]] for name, source in sources.items()])
        self.bounds = np.cumsum(
            [0, *(len(source) for source in self.sources)]
        )  # of each source's example ids
        self.size, self.tokens = int(self.bounds[-1]), sum(source.tokens for source in self.sources)
        if self.size >= 2**31:
            raise ValueError(
                f"{self.size} examples are more than an example id counts ({2**31 - 1}): mix fewer"
            )
        self._slots = tuple(
            np.cumsum([0, *self.quota]).tolist()
        )  # of a period, those that belong to each source

    @property
    def efficiency(self) -> float:
        """Real tokens over slots of the stream."""
        parts = zip(self.shares.values(), self.sources, strict=True)
        return sum(share * source.efficiency for share, source in parts)

    def order(
        self, rows: Int[np.ndarray, "B"], seed: int
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """Each row's epoch in its source, and the number of its example."""
        which, turns = self._turns(rows, seed)
        epochs, indices = np.empty_like(rows), np.empty_like(rows)
        for number, source in enumerate(self.sources):
            here = which == number
            epochs[here], own = source.order(turns[here], mix(seed, _SOURCES, number))
            indices[here] = own + self.bounds[number]
        return epochs, indices

    def once(self, positions: Int[np.ndarray, "B"]) -> Int[np.ndarray, "B"]:
        """All sources mixed, so that an evaluation that ends early has read of all of them."""
        return permute(positions, self.size, mix(0, _ONCE))

    def fill(self, rows: Rows, where: Ints, epochs: Ints, indices: Ints) -> None:
        """Writes each example of the source that its number belongs to."""
        which = np.searchsorted(self.bounds, indices, side="right") - 1
        for number in np.unique(which):
            here = which == number
            self.sources[number].fill(rows, where[here], epochs[here], indices[here] - self.bounds[number])

    def seen(self, rows: int, seed: int) -> dict[str, dict[str, float]]:
        """Of the first `rows` rows: how many each source supplied, its epochs, and its tokens.

        The rows are exact, the tokens so many times the mean of the source.
        """
        whole, rest = divmod(rows, _PERIOD)
        which, _ = _period(self._slots, mix(seed, _SOURCES, whole, len(self.sources)))
        counts = np.array(self.quota) * whole + np.bincount(which[:rest], minlength=len(self.sources))
        return {
            name: {
                "rows": int(count),
                "epochs": int(count) / len(source),
                "tokens": int(count) * source.tokens / len(source),
            }
            for name, source, count in zip(self.names, self.sources, counts, strict=True)
        }

    def _turns(
        self, rows: Int[np.ndarray, "B"], seed: int
    ) -> tuple[Int[np.ndarray, "B"], Int[np.ndarray, "B"]]:
        """The source of each row, and which of that source's rows it is."""
        which, turns = np.empty_like(rows), np.empty_like(rows)
        quota = np.array(self.quota)
        for period in np.unique(rows // _PERIOD):
            here = rows // _PERIOD == period
            sources, before = _period(self._slots, mix(seed, _SOURCES, int(period), len(self.sources)))
            which[here] = sources[rows[here] % _PERIOD]
            turns[here] = period * quota[which[here]] + before[rows[here] % _PERIOD]
        return which, turns


@functools.lru_cache(maxsize=8)
def _period(slots: tuple[int, ...], key: int) -> tuple[Int[np.ndarray, "P"], Int[np.ndarray, "P"]]:
    """The source of every row of a period, and how many of that source's rows come before it there."""
    which = np.searchsorted(slots, permute(np.arange(_PERIOD), _PERIOD, key), side="right") - 1
    before = np.empty_like(which)
    before[np.argsort(which, kind="stable")] = np.arange(_PERIOD)
    return which, before - np.array(slots)[which]


def shares(
    tokens: Mapping[str, int], weights: Mapping[str, float] | None, temperature: float
) -> dict[str, float]:
    """p_i ~ w_i^(1/T), w_i the number of tokens unless weights are given."""
    if temperature <= 0:
        raise ValueError(f"temperature={temperature}: it must be above 0; 1.0 keeps the weights as they are")
    if weights is not None and set(weights) != set(tokens):
        raise ValueError(
            f"weights name {', '.join(weights)}, the corpora are {', '.join(tokens)}: name each once"
        )
    for name, weight in (weights or {}).items():
        if not weight > 0:
            raise ValueError(f"weight {weight} of {name}: it must be above 0; leave the corpus out instead")
    logs = np.log([float((weights or tokens)[name]) for name in tokens]) / temperature
    powers = np.exp(logs - logs.max())
    return {name: float(power) for name, power in zip(tokens, powers / powers.sum(), strict=True)}


def _quota(shares: Mapping[str, float]) -> list[int]:
    """Rows of each source in a period: the nearest whole numbers that add up (largest remainders)."""
    exact = np.array(list(shares.values())) * _PERIOD
    rows = np.floor(exact).astype(np.int64)
    rows[np.argsort(rows - exact, kind="stable")[: _PERIOD - int(rows.sum())]] += 1
    for (name, share), count in zip(shares.items(), rows.tolist(), strict=True):
        if count == 0:
            raise ValueError(
                f"{name} has the share {share:.2g} of a mixture and the least is {1 / _PERIOD:.2g}: "
                "set a greater weight or temperature"
            )
    return rows.tolist()


def _check_alike(names: Sequence[str], sources: Sequence[Examples]) -> None:
    if not sources:
        raise ValueError("a mixture needs one corpus or more")
    first = sources[0]
    for name, other in zip(names[1:], sources[1:], strict=True):
        for what in ("length", "packed", "labelled", "segmented"):
            ours, theirs = getattr(first, what), getattr(other, what)
            if ours != theirs:
                raise ValueError(
                    f"{names[0]} has {what}={ours} and {name} has {what}={theirs}: "
                    "corpora in a mixture must be prepared and formatted alike"
                )
        mine, its = vars(first.vocabulary), vars(other.vocabulary)
        for what in mine:
            if not np.array_equal(mine[what], its[what]):
                raise ValueError(
                    f"{names[0]} and {name} have vocabularies that differ in {what}: "
                    "prepare both with the same tokenizer"
                )
