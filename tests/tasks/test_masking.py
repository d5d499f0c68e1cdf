"""Every kind of masking against its definition, over more than a hundred thousand tokens."""

import dataclasses
import re

import jax
import numpy as np
import pytest

from bertjax import settings
from bertjax.config import CHOICES, Config
from bertjax.data.singles import FullSentences
from bertjax.tasks.masking import MASKINGS, MaskingOptions, Ngram, Span, Subword, Tiled, WholeWord, tiling
from bertjax.tasks.mlm import Mlm
from tests.tasks.rows import VOCABULARY, chosen_positions, corrupt, make_rows, real_text, runs

ROWS = make_rows(1280)
KINDS = list(MASKINGS.values())
pytestmark = pytest.mark.usefixtures("quick_compiles")

TILED = [kind for kind in KINDS if isinstance(kind, Tiled)]
named = pytest.mark.parametrize("kind", KINDS, ids=list(MASKINGS))


def words_of(batch, starts=None):
    """The number of each token's word, [B L]; special tokens and padding are words of their own."""
    text = real_text(batch)
    starts = VOCABULARY.starts_word[batch.tokens] if starts is None else starts
    edge = np.pad(text[:, 1:] != text[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return np.cumsum(starts | edge | ~text, axis=1)


def budget(batch, rate):
    """The number of predictions that the definition allows each row."""
    return np.array([max(1, round(rate * int(n))) for n in batch.mask.sum(1)])


def test_there_is_enough_text_to_count():
    assert real_text(ROWS).sum() > 100_000


@named
def test_only_real_text_is_hidden_and_labels_are_what_stood_there(kind: MaskingOptions):
    out = corrupt(Mlm(masking=kind), ROWS)
    chosen, target = chosen_positions(out), out.targets["mlm"]
    assert chosen.any() and not (chosen & ~real_text(ROWS)).any()
    assert (np.sort(target["positions"], 1)[:, 1:] != np.sort(target["positions"], 1)[:, :-1]).all()
    assert (target["labels"] == np.take_along_axis(ROWS.tokens, target["positions"], 1)).all()
    assert (out.tokens == ROWS.tokens)[~chosen].all()
    assert set(np.unique(target["weights"])) == {0.0, 1.0}


@pytest.mark.parametrize("rate", [0.15, 0.3, 0.5])
def test_tokens_meet_the_budget_exactly(rate: float):
    batch = ROWS.replace(mask=ROWS.mask & (np.arange(128)[None] < np.arange(1280)[:, None] % 127 + 2))
    chosen = chosen_positions(corrupt(Mlm(rate=rate), batch)).sum(1)
    assert (chosen == np.minimum(budget(batch, rate), real_text(batch).sum(1))).all()


def test_the_budget_is_rounded_as_python_rounds():
    numbers = np.asarray(Mlm().numbers(jax.numpy.asarray(0), 512))
    assert numbers.tolist() == [round(0.15 * n) for n in range(513)]  # 0.15 * 190 is a half
    with_one = corrupt(Mlm(), ROWS.replace(mask=ROWS.mask & (np.arange(128) < 3)[None]))
    assert (chosen_positions(with_one).sum(1) == 1).all()


@pytest.mark.parametrize("kind", KINDS[1:], ids=list(MASKINGS)[1:])
@pytest.mark.parametrize("rate", [0.15, 0.4])
def test_words_are_hidden_whole_and_within_the_budget(kind: MaskingOptions, rate: float):
    chosen, words = chosen_positions(corrupt(Mlm(rate=rate, masking=kind), ROWS)), words_of(ROWS)
    same_word = words[:, 1:] == words[:, :-1]
    assert same_word.sum() > 20_000
    assert (chosen[:, 1:] == chosen[:, :-1])[same_word].all()
    assert (chosen.sum(1) <= budget(ROWS, rate)).all()


def test_whole_words_fall_short_only_where_none_would_fit():
    chosen, words = chosen_positions(corrupt(Mlm(masking=WholeWord()), ROWS)), words_of(ROWS)
    room = budget(ROWS, 0.15) - chosen.sum(1)
    for row in np.flatnonzero(room):
        left = real_text(ROWS)[row] & ~chosen[row]
        _, sizes = np.unique(words[row][left], return_counts=True)
        assert (sizes > room[row]).all()
    assert (room > 0).mean() < 0.05


@pytest.mark.parametrize("kind", TILED, ids=["ngram", "span"])
def test_groups_fall_short_by_less_than_a_word(kind: Tiled):
    chosen, words = chosen_positions(corrupt(Mlm(masking=kind), ROWS)), words_of(ROWS)
    room = budget(ROWS, 0.15) - chosen.sum(1)
    longest = np.array([np.bincount(row[row > 0]).max() for row in words * real_text(ROWS)])
    long_enough = real_text(ROWS).sum(1) > 40  # shorter rows can be used up
    assert (room < longest)[long_enough].all()
    assert (room == 0).mean() > 0.5


def test_the_lengths_are_those_of_the_papers():
    assert Span().shares() @ np.arange(1, 11) == pytest.approx(3.8, abs=0.01)  # SpanBERT, Section 3.1
    np.testing.assert_allclose(Span().shares()[1:] / Span().shares()[:-1], 0.8)
    np.testing.assert_allclose(Ngram().shares(), np.array([6, 3, 2]) / 11)  # ALBERT, Section 4.1
    for kind in TILED:
        assert kind.shares().sum() == pytest.approx(1)


@pytest.mark.parametrize("kind", TILED, ids=["ngram", "span"])
def test_tiles_follow_the_distribution_and_look_the_same_from_everywhere(kind: Tiled):
    rows, length, shares = 4000, 60, kind.shares()
    tile, after = map(np.asarray, tiling(jax.random.uniform(jax.random.key(3), (rows, length)), shares))
    counts = np.zeros(len(shares))
    for row in range(rows):
        ends = np.flatnonzero(after[row])
        counts += np.bincount(np.diff(ends) - 2, minlength=len(shares))
        assert (np.diff(tile[row])[ends[:-1]] == 1).all()  # the next word begins the next tile
    # A tile of n words is seen whole between two ends if it begins at one of length - n - 1 places.
    expected = shares * (length - 1 - np.arange(1, len(shares) + 1))
    expected *= counts.sum() / expected.sum()
    assert counts.sum() > 30_000
    assert ((counts - expected) ** 2 / expected).sum() < 30  # chi square: 9 degrees of freedom, p < 0.0005
    share = 1 / (1 + shares @ np.arange(1, len(shares) + 1))
    deviation = (after.mean(0) - share) / np.sqrt(share * (1 - share) / rows)
    assert np.abs(deviation).max() < 4.5


@pytest.mark.parametrize("kind", TILED, ids=["ngram", "span"])
def test_hidden_runs_are_whole_groups_of_these_lengths(kind: Tiled):
    batch = make_rows(300, format=FullSentences(), length=512)
    text, words = real_text(batch), words_of(batch)
    assert text.sum() > 130_000
    everything = runs(chosen_positions(corrupt(Mlm(rate=0.99, masking=kind), batch)))
    hidden = runs(chosen_positions(corrupt(Mlm(masking=kind), batch)))
    whole = set(everything)
    cut = [row for row, start, stop in hidden if (row, start, stop) not in whole]
    assert len(cut) == len(set(cut))  # the budget cuts one group a row at most ...
    ends = {(row, start): stop for row, start, stop in everything}
    assert all(stop <= ends[row, start] for row, start, stop in hidden)  # ... at its end

    def lengths(found: list[tuple[int, int, int]]) -> np.ndarray:
        inside = [
            (row, start, stop) for row, start, stop in found if text[row, start - 1] and text[row, stop]
        ]
        counts = [words[row, stop - 1] - words[row, start] for row, start, stop in inside]
        return np.bincount(counts, minlength=len(kind.shares()))

    counts, shares = lengths(everything), kind.shares()
    error = (counts - counts.sum() * shares) / np.sqrt(counts.sum() * shares)
    assert counts.sum() > 15_000 and (error**2).sum() < 30  # chi square of at most 9 degrees of freedom
    counts = lengths(hidden)
    # One group in fifteen is cut, a long one more likely: a little less than SpanBERT's 3.8 words are left on average.
    assert 0.5 * np.abs(counts / counts.sum() - shares).sum() < 0.04
    numbers = np.arange(1, len(shares) + 1)
    assert counts @ numbers / counts.sum() == pytest.approx(shares @ numbers, rel=0.07)


@named
def test_no_place_is_preferred(kind: MaskingOptions):
    batch = make_rows(600, format=FullSentences(), length=256)
    chosen, text = chosen_positions(corrupt(Mlm(masking=kind), batch)), real_text(batch)
    share = np.array([chosen[:, i : i + 8][text[:, i : i + 8]].mean() for i in range(1, 248, 8)])
    # 4800 tokens a bin, but hidden in spans of five or so: standard deviation 0.011 at most.
    assert np.abs(share - share.mean()).max() < 0.045


SHARES = [(0.8, 0.1), (1.0, 0.0), (0.8, 0.2), (0.8, 0.0), (0.0, 0.8), (0.0, 1.0), (0.0, 0.0)]


@pytest.mark.parametrize(
    "mask, random, kind",
    [*((mask, random, Subword()) for mask, random in SHARES), (0.8, 0.1, Span()), (0.8, 0.1, WholeWord())],
)
def test_shares_of_mask_random_and_same(mask: float, random: float, kind: MaskingOptions):
    batch = make_rows(4096, length=64)
    out = corrupt(Mlm(rate=0.5, mask=mask, random=random, masking=kind), batch)
    chosen = chosen_positions(out)
    now, before = out.tokens[chosen], batch.tokens[chosen]
    masked, same = now == VOCABULARY.mask, now == before
    number = len(now)
    assert number > 75_000
    ordinary = (~VOCABULARY.special).sum()
    # One fate a span: as many independent draws as there are spans, of at most ten words.
    spread = 5 * np.sqrt((8 if kind == Span() else 1) * 0.25 / number)
    assert masked.mean() == pytest.approx(mask, abs=spread)
    assert same.mean() == pytest.approx(1 - mask - random + random / ordinary, abs=spread)
    changed = now[~masked & ~same]
    assert not VOCABULARY.special[changed].any()
    if random:
        counts = np.bincount(changed, minlength=VOCABULARY.size)[~VOCABULARY.special]
        assert counts.min() > 0.3 * counts.mean() and counts.max() < 2 * counts.mean()


def test_a_span_has_one_fate_and_a_word_has_not():
    def mixed(kind: MaskingOptions) -> float:
        out = corrupt(Mlm(mask=0.5, random=0.0, masking=kind), ROWS)
        groups = [
            out.tokens[row, a:b] == VOCABULARY.mask for row, a, b in runs(chosen_positions(out)) if b - a > 1
        ]
        return float(np.mean([g.any() and not g.all() for g in groups]))

    assert mixed(Span()) == 0
    assert mixed(WholeWord()) > 0.3 and mixed(Ngram()) > 0.3


@named
def test_a_choice_depends_on_example_and_epoch_alone(kind: MaskingOptions):
    task = Mlm(masking=kind)
    out = corrupt(task, ROWS)
    order = np.random.default_rng(0).permutation(1280)
    moved = corrupt(task, jax.tree.map(lambda x: x[order], ROWS))
    assert (moved.tokens == out.tokens[order]).all()
    later = corrupt(task, ROWS.replace(epoch=ROWS.epoch + 1))
    assert (chosen_positions(later) == chosen_positions(out)).all(1).mean() < 0.02
    assert (corrupt(task, ROWS, step=17).tokens == out.tokens).all()


def test_static_masking_repeats_after_its_duplicates():
    task = Mlm(duplicates=3)
    tokens = [corrupt(task, ROWS.replace(epoch=ROWS.epoch + epoch)).tokens for epoch in range(6)]
    for epoch in range(3):
        assert (tokens[epoch] == tokens[epoch + 3]).all()
        assert (tokens[epoch] != tokens[(epoch + 1) % 3]).any(1).mean() > 0.98


def test_words_may_come_from_a_segmenter():
    starts = np.arange(128)[None] % 5 == 0  # words of five tokens, whatever the vocabulary says
    starts = np.broadcast_to(starts, ROWS.tokens.shape)
    batch = ROWS.with_targets("words", starts=starts)
    chosen, words = chosen_positions(corrupt(Mlm(masking=WholeWord()), batch)), words_of(ROWS, starts)
    same_word = words[:, 1:] == words[:, :-1]
    assert (chosen[:, 1:] == chosen[:, :-1])[same_word].all()
    split = (chosen[:, 1:] != chosen[:, :-1])[words_of(ROWS)[:, 1:] == words_of(ROWS)[:, :-1]]
    assert split.any()


def test_the_rate_follows_its_schedule():
    task = Mlm(rate=0.3, final_rate=0.1, rate_steps=100)
    for step, rate in ((0, 0.3), (50, 0.2), (100, 0.1), (1000, 0.1)):
        chosen = chosen_positions(corrupt(task, ROWS, step=step)).sum(1)
        assert np.abs(chosen - rate * ROWS.mask.sum(1)).max() <= 0.51
    assert corrupt(task, ROWS).targets["mlm"]["positions"].shape[1] == round(0.3 * 128)
    rising = corrupt(Mlm(rate=0.1, final_rate=0.3, rate_steps=10), ROWS, step=10)
    assert rising.targets["mlm"]["positions"].shape[1] == round(0.3 * 128)


@named
def test_empty_rows_and_rows_without_text_hide_nothing(kind: MaskingOptions):
    mask = ROWS.mask.copy()
    mask[0] = False
    tokens = ROWS.tokens.copy()
    tokens[1] = VOCABULARY.sep
    out = corrupt(Mlm(masking=kind), ROWS.replace(mask=mask, tokens=tokens))
    assert (out.targets["mlm"]["weights"][:2] == 0).all()
    assert (out.tokens[:2] == tokens[:2]).all()


def test_a_kind_is_chosen_by_name():
    config = settings.override(Config(), ["tasks.mlm.masking=span", "tasks.mlm.masking.longest=4"], CHOICES)
    assert config.tasks[0] == Mlm(masking=Span(longest=4))
    data = settings.to_dict(config, CHOICES)
    assert settings.from_dict(Config, data, CHOICES) == config
    with pytest.raises(ValueError, match="did you mean 'whole_word'"):
        settings.override(Config(), ["tasks.mlm.masking=whole_words"], CHOICES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rate": 0.0},
        {"rate": 1.1},
        {"mask": 0.9, "random": 0.2},
        {"mask": -0.1},
        {"duplicates": 0},
        {"final_rate": 2.0, "rate_steps": 9},
        {"rate_steps": 0, "final_rate": 0.5},
        {"final_rate": 0.3},
    ],
)
def test_shares_that_are_none_are_refused(wrong: dict):
    with pytest.raises(ValueError, match=re.escape(f"tasks.mlm.{next(iter(wrong))}=")) as error:
        Mlm(**wrong)
    assert "\n" not in str(error.value)


def test_a_schedule_needs_both_ends():
    with pytest.raises(ValueError, match="set both or none"):
        Mlm(rate_steps=9)
    assert Mlm(final_rate=0.3, rate_steps=9).final_rate == 0.3


@pytest.mark.parametrize("make", [lambda: Span(p=1.0), lambda: Span(longest=0), lambda: Ngram(longest=0)])
def test_distributions_that_are_none_are_refused(make):
    with pytest.raises(ValueError, match="masking"):
        make()


def test_every_kind_is_frozen_data():
    for kind in KINDS:
        assert dataclasses.is_dataclass(kind) and hash(kind) == hash(dataclasses.replace(kind))
