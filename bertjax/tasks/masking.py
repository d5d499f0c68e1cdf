"""Which tokens of a row are predicted: tokens, whole words, n-grams or spans, as many as a budget allows.

Every kind gives each token a *word*, which is hidden whole or not at all, and each word a *group*, whose words are
hidden one after the other. The groups of a row are put in random order and their words are taken while they fit:

    kind        word            group                                                  a word that does not fit
    subword     one token       one token                                              -
    whole_word  one word        one word (BERT's whole-word masking)                   is passed over
    ngram       one word        1 to `longest` words, p(n) ~ 1/n (ALBERT, 1909.11942)  ends the choice
    span        one word        1 to `longest` words, p(n) ~ (1 - p)^n (SpanBERT, 1907.10529, Section 3.1)  likewise

So `subword` meets the budget exactly, `whole_word` is short of it only where no word that is left would fit (or after
a few attempts to find one), `ngram` and `span` cut the last group at a word, and are short by less than the word that
would have come next. Special tokens and padding are never hidden, and no group crosses a special token.

Groups of several words come from a tiling of the row: lengths are drawn one after the other, and one word stays
between two groups. The tiling is stationary: every word of a row is as likely to be in a group as any other (and to be
hidden, but for the end of the last group, which the budget may cut off). All of it is array arithmetic over whole
batches: two sorts of [B L] and a few running sums.

Deviations: in the papers the groups are drawn by rejection and two may touch; here a visible word always lies between
them, so that what is predicted together is what was drawn together, and the words at its edges can be read (which
SpanBERT's span boundary objective counts on). At most (mean length) / (1 + mean length) of a row can be hidden so:
79 % for SpanBERT's spans, 62 % for ALBERT's n-grams.
"""

import abc
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.types import Array, Bool, Float, Int

ATTEMPTS = 4  # rounds in which whole words are sought that still fit; room shrinks fast, so more would change nothing


class Chosen(NamedTuple):
    """The tokens to predict. Slots past the last are of weight False and name other positions of the row."""

    positions: Int[Array, "B S"]  # all different; ascending over the slots that count
    weights: Bool[Array, "B S"]
    together: Int[Array, "B S"]  # first position of what shares one fate: a span, or else the token itself


class Groups(NamedTuple):
    """How tokens hang together."""

    candidate: Bool[Array, "B L"]
    word: Int[Array, "B L"]  # first position of each token's word
    group: Int[Array, "B L"]  # first position of each token's group


@dataclasses.dataclass(frozen=True)
class MaskingOptions(abc.ABC):
    """Base of the kinds of masking."""

    @abc.abstractmethod
    def groups(
        self, draws: Float[Array, "B L"], starts: Bool[Array, "B L"], candidate: Bool[Array, "B L"]
    ) -> Groups:
        """What is hidden together, given where words start."""

    @property
    def passes_over(self) -> bool:
        """Whether a word that does not fit is passed over, or ends the choice."""
        return True

    @property
    def one_fate(self) -> bool:
        """Whether a group is replaced by one kind of token as a whole, or each token on its own."""
        return False


@dataclasses.dataclass(frozen=True)
class Subword(MaskingOptions):
    """Single tokens (BERT)."""

    def groups(
        self, draws: Float[Array, "B L"], starts: Bool[Array, "B L"], candidate: Bool[Array, "B L"]
    ) -> Groups:
        """Every token is a word and a group."""
        del draws
        index = jnp.broadcast_to(jnp.arange(starts.shape[1], dtype=jnp.int32), starts.shape)
        return Groups(candidate, index, index)


@dataclasses.dataclass(frozen=True)
class WholeWord(MaskingOptions):
    """All tokens of a word."""

    def groups(
        self, draws: Float[Array, "B L"], starts: Bool[Array, "B L"], candidate: Bool[Array, "B L"]
    ) -> Groups:
        """Every word is a group."""
        del draws
        word = latest(starts)
        return Groups(candidate, word, word)


class Tiled(MaskingOptions):
    """Groups of several words."""

    @abc.abstractmethod
    def shares(self) -> Float[np.ndarray, "N"]:
        """Probability of a group of 1, 2, ... words."""

    def groups(
        self, draws: Float[Array, "B L"], starts: Bool[Array, "B L"], candidate: Bool[Array, "B L"]
    ) -> Groups:
        """The tiles of each row; the words between them are no candidates."""
        tile, between = tiling(draws, self.shares())
        number = jnp.cumsum(starts, axis=1) - 1
        tile, between = jnp.take_along_axis(tile, number, 1), jnp.take_along_axis(between, number, 1)
        candidate = candidate & ~between
        changes = jnp.pad(
            (tile[:, 1:] != tile[:, :-1]) | (candidate[:, 1:] != candidate[:, :-1]), ((0, 0), (1, 0))
        )
        return Groups(candidate, latest(starts), latest(changes))

    @property
    def passes_over(self) -> bool:
        """The last group is cut."""
        return False


@dataclasses.dataclass(frozen=True)
class Ngram(Tiled):
    """Runs of words, the longer the rarer (ALBERT)."""

    longest: int = 3
    """Most words of an n-gram; n words have a probability proportional to 1/n."""

    def __post_init__(self) -> None:
        """Refuses an empty run."""
        if self.longest < 1:
            raise ValueError(f"masking.longest={self.longest} must be at least 1; ALBERT has 3")

    def shares(self) -> Float[np.ndarray, "N"]:
        """1/n, normalised."""
        share = 1.0 / np.arange(1, self.longest + 1)
        return share / share.sum()


@dataclasses.dataclass(frozen=True)
class Span(Tiled):
    """Geometrically distributed runs of words, each replaced as a whole (SpanBERT)."""

    p: float = 0.2
    """Chance that a span ends after each of its words: the lengths are geometric ..."""
    longest: int = 10
    """... up to so many words; longer ones are drawn again. With 0.2 and 10 the mean is 3.8 words."""

    def __post_init__(self) -> None:
        """Refuses what is no distribution."""
        if not 0 < self.p < 1:
            raise ValueError(f"masking.p={self.p} is no probability between 0 and 1; SpanBERT has 0.2")
        if self.longest < 1:
            raise ValueError(f"masking.longest={self.longest} must be at least 1; SpanBERT has 10")

    def shares(self) -> Float[np.ndarray, "N"]:
        """Proportional to (1 - p)^n."""
        share = self.p * (1 - self.p) ** np.arange(self.longest)
        return share / share.sum()

    @property
    def one_fate(self) -> bool:
        """A span is hidden, exchanged or kept as a whole."""
        return True


MASKINGS: dict[str, MaskingOptions] = {
    "subword": Subword(),
    "whole_word": WholeWord(),
    "ngram": Ngram(),
    "span": Span(),
}


def choose(
    options: MaskingOptions,
    draws: Float[Array, "B 2 L"],
    starts: Bool[Array, "B L"],
    candidate: Bool[Array, "B L"],
    budget: Int[Array, "B"],
    slots: int,
) -> Chosen:
    """At most `budget` candidates of each row, by random numbers from [0, 1); `slots` bounds every budget."""
    rows, length = candidate.shape
    # A word ends where the candidates do: neither special tokens nor the words between spans belong to one.
    edge = jnp.pad(candidate[:, 1:] != candidate[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    groups = options.groups(draws[:, 0], starts | edge, candidate)
    index = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))
    offset = index - groups.word
    first = offset == 0
    last = jnp.pad(first[:, 1:], ((0, 0), (0, 1)), constant_values=True)
    size = jax.lax.cummin(jnp.where(last, index, length), axis=1, reverse=True) - groups.word + 1

    score = jnp.where(groups.candidate, jnp.take_along_axis(draws[:, 1], groups.group, 1), 2.0)
    # Equal scores do no harm: the sort is stable and groups are contiguous, so none is torn apart.
    score, place, group, offset, size = jax.lax.sort(
        [score, index, jnp.asarray(groups.group), offset, size], dimension=1, is_stable=True, num_keys=1
    )
    free, room = score < 2.0, jnp.minimum(budget, slots)[:, None]
    taken = jnp.zeros_like(free)
    for _ in range(ATTEMPTS if options.passes_over else 1):
        fits = free & ~taken & (size <= room) if options.passes_over else free
        end = jnp.cumsum(fits, axis=1) - 1 - offset + size  # tokens taken when this token's word has been
        more = fits & (end <= room)
        taken, room = taken | more, room - more.sum(1, keepdims=True)

    ranked, group = jax.lax.sort((jnp.where(taken, place, place + length), group), dimension=1, num_keys=1)
    positions, together = ranked[:, :slots] % length, group[:, :slots]
    return Chosen(positions, ranked[:, :slots] < length, together if options.one_fate else positions)


def latest(marks: Bool[Array, "B L"]) -> Int[Array, "B L"]:
    """For every position the last marked one up to it, or the first of the row."""
    index = jnp.arange(marks.shape[1], dtype=jnp.int32)[None, :]
    return jax.lax.cummax(jnp.where(marks, index, 0), axis=1)


def tiling(
    draws: Float[Array, "B L"], shares: Float[np.ndarray, "N"]
) -> tuple[Int[Array, "B L"], Bool[Array, "B L"]]:
    """For every word the number of its tile, and whether it is the one word after that tile's end.

    Tile lengths are drawn independently. The first tile is drawn with a probability proportional to the words it takes
    up, and entered at a random one of them: so the tiling looks the same from every word.
    """
    length = draws.shape[1]
    taken_up = np.arange(2, len(shares) + 2)  # the word in between included
    stationary = shares * taken_up / (shares * taken_up).sum()
    count = min(length // 2 + 2, length - 1)  # tiles take up two words or more, the first perhaps one
    first, n = _lengths(draws[:, :1], stationary), _lengths(draws[:, 2 : count + 1], shares)
    n = jnp.concatenate([first, n], axis=1)
    entered = jnp.floor(draws[:, 1:2] * (first + 1)).astype(jnp.int32)
    begin = jnp.cumsum(n + 1, axis=1) - (n + 1) - entered

    # Row by row: the places of a whole batch in one index would be gathered from all devices.
    def place(begin: Array, end: Array) -> tuple[Array, Array]:
        mark = jnp.zeros(length, jnp.int32).at[jnp.maximum(begin, 0)].add(1, mode="drop")
        return mark, jnp.zeros(length, bool).at[end].set(True, mode="drop")

    mark, after = jax.vmap(place)(begin, begin + n)
    return jnp.cumsum(mark, axis=1), after


def _lengths(draws: Float[Array, "B n"], shares: Float[np.ndarray, "N"]) -> Int[Array, "B n"]:
    """1, 2, ... with the given probabilities, by inversion."""
    ends = jnp.asarray(np.cumsum(shares)[:-1].astype(np.float32))
    return 1 + (draws[:, :, None] >= ends[None, None, :]).sum(2, dtype=jnp.int32)
