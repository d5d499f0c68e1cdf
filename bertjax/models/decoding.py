"""Writing a row token by token: greedily, with a beam, or by chance; compiled once, ended as soon as all rows are.

    greedy   y[t + 1] = the most probable token
    beam     the `beams` best beginnings go on side by side; the score of a text of n tokens is
             log p / ((5 + n) / 6)^penalty                                  (GNMT, 1609.08144, Section 7)
    sample   y[t + 1] is drawn from p^(1 / temperature), cut to the `top_k` best tokens (1805.04833) and to the fewest
             that hold a share `top_p` of it (1904.09751)

All three call `read(kept, tokens, place)`: logits of what follows one token of every row, and what is kept of all
tokens so far. `kept` is a tree of arrays [.. B M H K] (the keys and values of a decoder), rows in the fourth axis from
the end. A text ends with `Marks.end`, which counts as one of its tokens, or at the most that is allowed.

A beam keeps `beams` beginnings and `beams` finished texts. Of the 2 `beams` best continuations those that end count as
finished if they are among the first `beams`, as in fairseq and transformers; the best of the others go on. It stops
when no beginning can become better than the worst of the finished ones. What has not ended by then competes as it is.

The log-probability that is returned with a text is the model's own, whatever it was chosen by; a sample's draws depend
on its key alone, not on its place in a batch.
"""

import abc
import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.attention.base import Memory
from bertjax.types import Array, Float, Int, Tree

__all__ = [
    "SEARCHES",
    "Beam",
    "Greedy",
    "Marks",
    "Sample",
    "SearchOptions",
    "Written",
    "narrowed",
    "write_about",
]

Read = Callable[[Tree, Array, Array], tuple[Array, Tree]]
Apply = Callable[..., Any]  # a network with its parameters: (*inputs, method=, variables=, mutable=)
NEVER = -1e30  # a log-probability below all others, yet finite


@dataclasses.dataclass(frozen=True)
class Marks:
    """Tokens that mean something to a search."""

    start: int
    end: int
    pad: int
    never: tuple[int, ...] = ()  # no text holds them

    @classmethod
    def of(cls, vocabulary: Any) -> "Marks":
        """A text stands between the tokens that stand around a row (1907.12461), and holds no other special one."""
        v = vocabulary
        return cls(start=v.cls, end=v.sep, pad=v.pad, never=tuple(sorted({v.cls, v.pad, v.mask} - {v.sep})))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Written:
    """What was written about every row: the best text, or several, the best first."""

    tokens: Any  # int [B n T], behind the start mark; padding behind the end mark
    size: Any  # int [B n], tokens, the end mark among them
    logs: Any  # float [B n], log-probability
    score: Any  # float [B n], by which they are ordered


@dataclasses.dataclass(frozen=True)
class SearchOptions(abc.ABC):
    """Base of every search's options."""

    @abc.abstractmethod
    def write(
        self, read: Read, kept: Tree, marks: Marks, length: int, keys: Array, prefix: Array | None = None
    ) -> Written:
        """Texts of at most `length` tokens; `keys` has one for each row that is written about.

        `prefix` [B P] is what every text begins with, -1 where a row's ends; it is no part of the score.
        """

    @property
    def rows(self) -> int:
        """Texts that are written side by side about each row."""
        return 1


@dataclasses.dataclass(frozen=True)
class Greedy(SearchOptions):
    """The most probable token at every place."""

    def write(
        self, read: Read, kept: Tree, marks: Marks, length: int, keys: Array, prefix: Array | None = None
    ) -> Written:
        """One text a row."""
        return _write_each(lambda logs, place: logs.argmax(-1), read, kept, marks, length, len(keys), prefix)


@dataclasses.dataclass(frozen=True)
class Sample(SearchOptions):
    """Tokens drawn from the model's distribution."""

    temperature: float = 1.0
    """Below 1 makes probable tokens more so."""
    top_k: int | None = None
    """Only so many of the best tokens can be drawn; none for all."""
    top_p: float | None = None
    """Only the fewest tokens that together have this probability can be drawn; none for all."""
    seed: int = 0
    """Other draws."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        if self.temperature <= 0:
            raise ValueError(
                f"search.temperature={self.temperature} must be above 0, as 0.7; search=greedy is the limit"
            )
        if self.top_k is not None and self.top_k < 1:
            raise ValueError(f"search.top_k={self.top_k} must be at least 1, or none for all tokens")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise ValueError(f"search.top_p={self.top_p} is a probability: above 0 and at most 1, or none")

    def write(
        self, read: Read, kept: Tree, marks: Marks, length: int, keys: Array, prefix: Array | None = None
    ) -> Written:
        """One text a row."""
        own = jax.vmap(lambda key: jax.random.fold_in(key, self.seed))(keys)

        def draw(logs: Array, place: Array) -> Array:
            chances = narrowed(logs / self.temperature, self.top_k, self.top_p)
            return jax.vmap(lambda key, row: jax.random.categorical(jax.random.fold_in(key, place), row))(
                own, chances
            )

        return _write_each(draw, read, kept, marks, length, len(keys), prefix)


@dataclasses.dataclass(frozen=True)
class Beam(SearchOptions):
    """The best of several beginnings that are kept side by side."""

    beams: int = 4
    """Beginnings that are kept."""
    penalty: float = 0.6
    """Exponent of the length that a score is divided by; 0 prefers short texts."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none of their kind."""
        if self.beams < 1:
            raise ValueError(f"search.beams={self.beams} must be at least 1")
        if self.penalty < 0:
            raise ValueError(f"search.penalty={self.penalty} must not be negative; 0 prefers short texts")

    @property
    def rows(self) -> int:
        """The beginnings."""
        return self.beams

    def scale(self, size: Array | int) -> Array:
        """What the log-probability of a text of that many tokens is divided by."""
        return jnp.power((5.0 + jnp.asarray(size, jnp.float32)) / 6.0, self.penalty)

    def write(
        self, read: Read, kept: Tree, marks: Marks, length: int, keys: Array, prefix: Array | None = None
    ) -> Written:
        """As many texts a row as there are beams."""
        if prefix is not None:
            raise ValueError("search=beam goes on with no text that is given: use greedy or sample")
        rows, n = len(keys), self.beams
        first = jnp.where(jnp.arange(n) == 0, 0.0, NEVER)[None, :]  # all beginnings are one at first
        state = _Beams(
            place=jnp.zeros((), jnp.int32),
            tokens=_blank(rows, n, length, marks),
            logs=jnp.broadcast_to(first, (rows, n)),
            done=_blank(rows, n, length, marks),
            done_logs=jnp.full((rows, n), NEVER),
            done_score=jnp.full((rows, n), NEVER),
            done_size=jnp.zeros((rows, n), jnp.int32),
            kept=kept,
        )

        def unfinished(s: _Beams) -> Array:
            # Log-probabilities only fall, and no divisor is larger than the last.
            best = s.logs[:, 0]
            hope = (best > NEVER / 2) & (best / self.scale(length) > s.done_score.min(1))
            return (s.place < length) & hope.any()

        def step(s: _Beams) -> _Beams:
            logits, kept = read(s.kept, _at(s.tokens, s.place).reshape(-1), s.place)
            logs = _logs(logits, marks).reshape(rows, n, -1)
            size = logs.shape[-1]
            total, flat = jax.lax.top_k((s.logs[:, :, None] + logs).reshape(rows, -1), min(2 * n, n * size))
            parent, token = flat // size, flat % size
            row = _put(_pick(s.tokens, parent), s.place + 1, token)
            ends, written = token == marks.end, s.place + 1
            early = jnp.arange(total.shape[1])[None, :] < n
            ended = jnp.where(ends & early & (total > NEVER / 2), total, NEVER)
            score = jnp.where(ended > NEVER / 2, ended / self.scale(written), NEVER)
            done_score, best = jax.lax.top_k(jnp.concatenate([s.done_score, score], 1), n)
            done_logs = _pick(jnp.concatenate([s.done_logs, ended], 1), best)
            sizes = jnp.concatenate([s.done_size, jnp.full(score.shape, written, jnp.int32)], 1)
            logs, chosen = jax.lax.top_k(jnp.where(ends, NEVER, total), n)
            return _Beams(
                place=written,
                tokens=_pick(row, chosen),
                logs=logs,
                done=_pick(jnp.concatenate([s.done, row], 1), best),
                done_logs=done_logs,
                done_score=done_score,
                done_size=_pick(sizes, best),
                kept=jax.tree.map(lambda leaf: _follow(leaf, _pick(parent, chosen)), kept),
            )

        s = jax.lax.while_loop(unfinished, step, state)
        # Before the last place no beginning could have become better than what is finished.
        open_score = jnp.where((s.logs > NEVER / 2) & (s.place == length), s.logs / self.scale(length), NEVER)
        score, best = jax.lax.top_k(jnp.concatenate([s.done_score, open_score], 1), n)
        sizes = jnp.concatenate([s.done_size, jnp.full((rows, n), length, jnp.int32)], 1)
        tokens = _pick(jnp.concatenate([s.done, s.tokens], 1), best)[:, :, 1:]
        logs = _pick(jnp.concatenate([s.done_logs, s.logs], 1), best)
        return Written(tokens=tokens, size=_pick(sizes, best), logs=logs, score=score)


SEARCHES: dict[str, SearchOptions] = {"greedy": Greedy(), "beam": Beam(), "sample": Sample()}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Beams:
    """Beginnings and finished texts of every row, the best first."""

    place: Any  # int [], of the last token that was written
    tokens: Any  # int [B n T+1]
    logs: Any  # float [B n]
    done: Any
    done_logs: Any
    done_score: Any
    done_size: Any
    kept: Tree


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Rows:
    """One text a row."""

    place: Any
    tokens: Any  # int [B T+1]
    logs: Any  # float [B]
    size: Any  # int [B]
    ended: Any  # bool [B]
    kept: Tree


def _write_each(
    choose: Callable[[Array, Array], Array],
    read: Read,
    kept: Tree,
    marks: Marks,
    length: int,
    rows: int,
    prefix: Array | None,
) -> Written:
    """One text a row, each token chosen from the log-probabilities of all."""
    given = jnp.full((rows, length), -1, jnp.int32)
    if prefix is not None:
        given = given.at[:, : prefix.shape[1]].set(jnp.asarray(prefix)[:, :length])
    state = _Rows(
        place=jnp.zeros((), jnp.int32),
        tokens=_blank(rows, 1, length, marks)[:, 0],
        logs=jnp.zeros(rows),
        size=jnp.zeros(rows, jnp.int32),
        ended=jnp.zeros(rows, bool),
        kept=kept,
    )

    def unfinished(s: _Rows) -> Array:
        return (s.place < length) & ~s.ended.all()

    def step(s: _Rows) -> _Rows:
        logits, kept = read(s.kept, _at(s.tokens, s.place), s.place)
        logs = _logs(logits, marks)
        ordered = _at(given, s.place)
        free = ordered < 0
        token = jnp.where(free, choose(logs, s.place).astype(jnp.int32), ordered)
        gain = jnp.take_along_axis(logs, token[:, None], axis=1)[:, 0]
        return _Rows(
            place=s.place + 1,
            tokens=_put(s.tokens, s.place + 1, jnp.where(s.ended, marks.pad, token)),
            logs=s.logs + jnp.where(s.ended | ~free, 0.0, gain),
            size=s.size + ~s.ended,
            ended=s.ended | (free & (token == marks.end)),
            kept=kept,
        )

    s = jax.lax.while_loop(unfinished, step, state)
    logs = s.logs[:, None]
    return Written(tokens=s.tokens[:, None, 1:], size=s.size[:, None], logs=logs, score=logs)


def write_about(
    apply: Apply,
    head: str,
    memory: Memory | None,
    search: SearchOptions,
    marks: Marks,
    length: int,
    keys: Array,
    prefix: Array | None = None,
) -> Written:
    """What a decoder, the head of that name, writes about each row of the memory.

    Without a memory it is what the encoder, of one direction, and that head on it write by themselves.
    """
    rows = len(keys) * search.rows
    first, begin = jnp.full(rows, marks.start, jnp.int32), jnp.zeros((), jnp.int32)
    step = {"length": length, "method": "write"}
    # The first token is read twice: here, for the places where all others will be kept, and again by the search.
    _, made = apply(head, first, begin, memory, mutable=["cache", "memory"], **step)
    known = {"memory": made["memory"]} if "memory" in made else {}
    seen = None if memory is None else Memory(None, memory.mask)

    def read(cache: Tree, tokens: Array, place: Array) -> tuple[Array, Tree]:
        variables = {**known, "cache": cache}
        logits, changed = apply(head, tokens, place, seen, variables=variables, mutable=["cache"], **step)
        return logits, changed["cache"]

    return search.write(read, made["cache"], marks, length, keys, prefix)


def narrowed(logits: Float[Array, "B V"], top_k: int | None, top_p: float | None) -> Float[Array, "B V"]:
    """Logits of which only the best can be drawn; those that are equal to the last of them can be, too."""
    if top_k is not None and top_k < logits.shape[-1]:
        last = jax.lax.top_k(logits, top_k)[0][:, -1:]
        logits = jnp.where(logits < last, NEVER, logits)
    if top_p is not None:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        chances = jax.nn.softmax(ordered, axis=-1)
        before = jnp.cumsum(chances, axis=-1) - chances
        last = jnp.where(before < top_p, ordered, jnp.inf).min(-1, keepdims=True)
        logits = jnp.where(logits < last, NEVER, logits)
    return logits


def _logs(logits: Array, marks: Marks) -> Array:
    """The model's log-probabilities, without the tokens that no text holds."""
    logs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    if not marks.never:
        return logs
    return logs.at[:, jnp.asarray(marks.never)].set(NEVER)


def _blank(rows: int, beams: int, length: int, marks: Marks) -> Array:
    """Texts of nothing but their start."""
    tokens = jnp.full((rows, beams, length + 1), marks.pad, jnp.int32)
    return tokens.at[:, :, 0].set(marks.start)


def _at(tokens: Array, place: Array) -> Array:
    """The token of every row at a place."""
    return jax.lax.dynamic_index_in_dim(tokens, place, axis=tokens.ndim - 1, keepdims=False)


def _put(tokens: Array, place: Array, values: Array) -> Array:
    """Rows with other tokens at a place."""
    return jax.lax.dynamic_update_index_in_dim(
        tokens, values.astype(tokens.dtype), place, axis=tokens.ndim - 1
    )


def _pick(x: Array, which: Int[Array, "B n"]) -> Array:
    """Some of the texts of every row, [B m ..] at [B n]."""
    return jax.vmap(lambda values, index: values[index])(x, which)


def _follow(leaf: Array, parent: Int[Array, "B n"]) -> Array:
    """What is kept of the beginnings that go on: [.. B*n M H K], each beginning's own."""
    front, (total, *back) = leaf.shape[:-4], leaf.shape[-4:]
    rows, beams = parent.shape
    assert total == rows * beams, (leaf.shape, parent.shape)
    apart = leaf.reshape(-1, rows, beams, *back)
    return jax.vmap(lambda layer: _pick(layer, parent))(apart).reshape(*front, total, *back)
