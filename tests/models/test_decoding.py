"""Searches over made-up distributions, in which every token depends on all before it, against searches by hand."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.models.decoding import Beam, Greedy, Marks, Sample, SearchOptions, Written, narrowed

MARKS = Marks(start=0, end=1, pad=0, never=(0,))
ROWS, LENGTH, TOKENS, STATES = 2, 3, 5, 101
TABLE = 2.0 * np.random.default_rng(0).normal(size=(ROWS, STATES, TOKENS)).astype(np.float32)
WEIGHTS = np.array([7, 31, 57, 5], np.int32)
KEYS = jax.vmap(jax.random.key)(jnp.arange(ROWS))


def read(kept: Any, tokens: Any, place: Any) -> Any:
    """Logits of a row of the table that all tokens so far decide; `kept` holds those, as keys would be kept."""
    kept = jax.lax.dynamic_update_slice(kept, tokens.reshape(-1, 1, 1, 1).astype(jnp.int32), (0, place, 0, 0))
    state = (kept[:, :, 0, 0] * WEIGHTS[None, : kept.shape[1]]).sum(1) % STATES
    beams = len(tokens) // ROWS
    return jnp.asarray(TABLE)[jnp.repeat(jnp.arange(ROWS), beams), state], kept


def logs_after(row: int, tokens: tuple[int, ...]) -> np.ndarray:
    """The same by hand: log-probabilities of what follows tokens behind the start mark."""
    state = int((np.array((0, *tokens)) * WEIGHTS[: len(tokens) + 1]).sum() % STATES)
    logits = TABLE[row, state].astype(np.float64)
    return logits - np.log(np.exp(logits).sum())


def probability(row: int, text: tuple[int, ...]) -> float:
    return float(sum(logs_after(row, text[:i])[token] for i, token in enumerate(text)))


def search(options: SearchOptions, length: int = LENGTH, **more: Any) -> Written:
    kept = jnp.zeros((ROWS * options.rows, length, 1, 1), jnp.int32)
    run = jax.jit(lambda keys: options.write(read, kept, MARKS, length, keys, **more))
    return jax.device_get(run(more.pop("keys", KEYS)))


def texts(written: Written, row: int) -> list[tuple[int, ...]]:
    sizes = written.size[row]
    return [tuple(text[:size].tolist()) for text, size in zip(written.tokens[row], sizes, strict=True)]


def everything(length: int = LENGTH) -> list[tuple[int, ...]]:
    """All texts: those that end, and those that are as long as they may be."""
    words = (2, 3, 4)
    ended = [(*front, 1) for n in range(length) for front in itertools.product(words, repeat=n)]
    return ended + list(itertools.product(words, repeat=length))


def greedy_by_hand(row: int, length: int) -> tuple[int, ...]:
    text: tuple[int, ...] = ()
    while len(text) < length and text[-1:] != (1,):
        logs = logs_after(row, text)
        logs[0] = -math.inf
        text += (int(logs.argmax()),)
    return text


def test_greedy_takes_the_best_token_at_every_place() -> None:
    written = search(Greedy())
    for row in range(ROWS):
        (text,) = texts(written, row)
        assert text == greedy_by_hand(row, LENGTH)
        assert written.logs[row, 0] == pytest.approx(probability(row, text), abs=1e-5)
        assert (written.tokens[row, 0, len(text) :] == MARKS.pad).all()
    assert len({texts(written, row)[0] for row in range(ROWS)}) == ROWS, "the rows should differ"


def test_one_beam_is_greedy() -> None:
    greedy, beam = search(Greedy()), search(Beam(beams=1, penalty=0.0))
    np.testing.assert_array_equal(beam.tokens, greedy.tokens)
    np.testing.assert_allclose(beam.logs, greedy.logs, atol=1e-5)


@pytest.mark.parametrize("penalty", [0.0, 0.6, 2.0])
def test_enough_beams_find_the_best_of_all_texts(penalty: float) -> None:
    written = search(Beam(beams=40, penalty=penalty))
    for row in range(ROWS):
        every = {text: probability(row, text) / ((5 + len(text)) / 6) ** penalty for text in everything()}
        wanted = sorted(every, key=lambda text: -every[text])
        found = texts(written, row)[: len(wanted)]
        assert found == wanted
        np.testing.assert_allclose(written.score[row, : len(wanted)], [every[t] for t in wanted], atol=1e-4)
        logs = [probability(row, text) for text in wanted]
        np.testing.assert_allclose(written.logs[row, : len(wanted)], logs, atol=1e-4)


def beam_by_hand(row: int, beams: int, penalty: float, length: int) -> list[tuple[float, tuple[int, ...]]]:
    """As the module's docstring says, in lists."""
    scale = lambda n: ((5 + n) / 6) ** penalty  # noqa: E731
    live: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    done: list[tuple[float, tuple[int, ...]]] = []
    for size in range(1, length + 1):
        if len(done) == beams and (not live or live[0][0] / scale(length) <= done[-1][0]):
            return done
        more = sorted(
            (
                (value + logs_after(row, text)[token], (*text, token))
                for value, text in live
                for token in range(1, TOKENS)
            ),
            reverse=True,
        )[: 2 * beams]
        ended = [(value / scale(size), text) for value, text in more[:beams] if text[-1] == 1]
        done = sorted(done + ended, reverse=True)[:beams]
        live = [(value, text) for value, text in more if text[-1] != 1][:beams]
    return sorted(done + [(value / scale(length), text) for value, text in live], reverse=True)[:beams]


@pytest.mark.parametrize("beams, penalty", [(2, 0.0), (3, 1.0)])
def test_few_beams_do_as_the_rules_say(beams: int, penalty: float) -> None:
    length = 4
    written = search(Beam(beams=beams, penalty=penalty), length)
    for row in range(ROWS):
        wanted = beam_by_hand(row, beams, penalty, length)
        assert texts(written, row) == [text for _, text in wanted]
        np.testing.assert_allclose(written.score[row], [value for value, _ in wanted], atol=1e-4)


def test_a_search_ends_with_its_last_row() -> None:
    """No row is read again once all have ended, and a beam stops when nothing can become better."""
    reads = []

    def ending(kept: Any, tokens: Any, place: Any) -> Any:
        jax.debug.callback(lambda at: reads.append(int(at)), place)
        last = jnp.where(place == 1, 30.0, -30.0)
        return jnp.broadcast_to(
            jnp.array([-30.0, 0.0, 20.0, 10.0, 0.0]).at[1].set(last), (len(tokens), 5)
        ), kept

    for options in (Greedy(), Beam(beams=1), Sample()):
        reads.clear()
        kept = jnp.zeros((ROWS, 50, 1, 1), jnp.int32)
        written = jax.jit(lambda keys, o=options, k=kept: o.write(ending, k, MARKS, 50, keys))(KEYS)
        jax.effects_barrier()
        assert written.size.tolist() == [[2], [2]] and sorted(reads) == [0, 1], options


def test_draws_are_as_frequent_as_probable() -> None:
    """The first two tokens of many texts, by chi square."""
    number = 4000
    keys = jax.vmap(jax.random.key)(jnp.arange(2 * number)).reshape(number, ROWS)
    options, kept = Sample(temperature=0.8), jnp.zeros((ROWS, 2, 1, 1), jnp.int32)
    draw = jax.jit(jax.vmap(lambda k: options.write(read, kept, MARKS, 2, k).tokens[:, 0]))
    tokens = np.asarray(draw(keys))
    assert len(np.unique(tokens[:, 0, 0])) > 2
    for row in range(ROWS):
        expected = {}
        for text in everything(2):
            chance = 1.0
            for i, token in enumerate(text):
                weights = np.exp(np.where(np.arange(TOKENS) == 0, -np.inf, logs_after(row, text[:i]) / 0.8))
                chance *= weights[token] / weights.sum()
            expected[text] = number * chance
        found = dict.fromkeys(expected, 0)
        for text in tokens[:, row].tolist():
            found[(1,) if text[0] == 1 else tuple(text)] += 1
        kept_texts = [text for text in expected if expected[text] > 5]
        chi = sum((found[text] - expected[text]) ** 2 / expected[text] for text in kept_texts)
        assert chi < len(kept_texts) + 5 * math.sqrt(2 * len(kept_texts)), (chi, found, expected)


def test_a_sample_depends_on_its_key_alone() -> None:
    same = search(Sample(), keys=jnp.stack([KEYS[0], KEYS[1]]))
    again = search(Sample(), keys=jnp.stack([KEYS[0], KEYS[0]]))
    np.testing.assert_array_equal(same.tokens[0], again.tokens[0])
    others = [search(Sample(seed=seed)).tokens for seed in range(6)]
    assert any((other != others[0]).any() for other in others)
    np.testing.assert_allclose(
        same.logs[0, 0], probability(0, texts(same, 0)[0]), atol=1e-5
    )  # the model's own, not the narrowed one


def test_only_the_best_tokens_can_be_drawn() -> None:
    logits = np.log(np.array([[0.5, 0.3, 0.15, 0.05], [0.05, 0.05, 0.1, 0.8]], np.float32))
    able = lambda *cut: (np.asarray(narrowed(logits, *cut)) > -1e20).tolist()  # noqa: E731
    assert able(None, None) == [[True] * 4] * 2 and able(9, 1.0) == [[True] * 4] * 2
    assert able(2, None) == [[True, True, False, False], [False, False, True, True]]
    assert able(None, 0.75) == [[True, True, False, False], [False, False, False, True]]
    assert able(None, 0.85) == [[True, True, True, False], [False, False, True, True]]
    assert able(1, 0.99) == [[True, False, False, False], [False, False, False, True]]


def test_a_text_may_begin_as_given() -> None:
    prefix = np.array([[3, 2], [4, -1]], np.int32)
    for options in (Greedy(), Sample()):
        written = search(options, prefix=prefix)
        for row, given in ((0, (3, 2)), (1, (4,))):
            (text,) = texts(written, row)
            assert text[: len(given)] == given
            rest = probability(row, text) - probability(row, given)
            assert written.logs[row, 0] == pytest.approx(rest, abs=1e-5)
    with pytest.raises(ValueError, match="search=beam goes on with no text that is given"):
        search(Beam(), prefix=prefix)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: Beam(beams=0), "search.beams=0 must be at least 1"),
        (lambda: Beam(penalty=-1.0), "search.penalty=-1.0 must not be negative"),
        (lambda: Sample(temperature=0.0), "search.temperature=0.0 must be above 0"),
        (lambda: Sample(top_k=0), "search.top_k=0 must be at least 1"),
        (lambda: Sample(top_p=1.5), "search.top_p=1.5 is a probability"),
    ],
)
def test_searches_without_sense(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
