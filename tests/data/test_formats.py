"""Which text each format puts where. In these corpora every token is its own position (see texts.py)."""

import time

import numpy as np
import pytest
from texts import FIRST, Text, positions_in, random_text, unstacked

from bertjax import settings
from bertjax.data import cutting
from bertjax.data.examples import Documents, Examples, Format
from bertjax.data.formats import FORMATS
from bertjax.data.packing import best_fit_decreasing
from bertjax.data.pairs import PairFormat, SegmentPair
from bertjax.data.synthetic import SyntheticCorpus

SINGLE = [name for name, prototype in FORMATS.items() if not isinstance(prototype, PairFormat)]
ODD = {
    "mixed": random_text(60, seed=1),
    "one sentence each": Text([[7], [30], [1], [12], [5]]),
    "one token each": Text([[1], [1], [1]]),
    "long sentences": Text([[100, 3], [41], [20, 20, 95, 1], [2, 2]]),
    "one document": Text([[4, 5, 6, 7, 3, 9]]),
    "an empty document": Text([[3, 4], [], [5], []]),
    "one token": Text([[1]]),
}


def every(examples: Examples, epoch: int = 0) -> list[dict[str, np.ndarray]]:
    return unstacked(examples.rows([epoch] * len(examples), range(len(examples))))


def make(name: str, corpus: Documents, length: int, seed: int = 0) -> Examples:
    """The examples of a format; pairs without negatives, which every corpus has."""
    prototype = FORMATS[name]
    if isinstance(prototype, PairFormat):
        prototype = type(prototype)(negatives="none")
    return prototype.examples(corpus, length, seed)


# ------------------------------------------------------------------------------------------ all formats


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("length", [5, 17, 40])
def test_every_token_is_in_exactly_one_row_of_an_epoch(name: str, kind: str, length: int) -> None:
    corpus = ODD[kind]
    for epoch in (0, 3):
        seen = [p for row in every(make(name, corpus, length), epoch) for p in positions_in(row["tokens"])]
        assert sorted(seen) == list(range(corpus.size))


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("kind", ["mixed", "long sentences"])
def test_rows_are_laid_out_as_documented(name: str, kind: str) -> None:
    length = 23
    for row in every(make(name, ODD[kind], length)):
        tokens, mask, types, positions, segments = (
            row[n] for n in ("tokens", "mask", "types", "positions", "segments")
        )
        assert {array.shape for array in (tokens, mask, types, positions, segments)} == {(length,)}
        assert {array.dtype for array in (tokens, types, positions, segments)} == {np.dtype(np.int32)}
        assert mask.dtype == bool
        real = int(mask.sum())
        assert mask[:real].all() and real >= 3
        assert not tokens[real:].any() and not types[real:].any()
        assert not positions[real:].any() and not segments[real:].any()
        assert np.array_equal(np.unique(segments[:real]), np.arange(1, segments.max() + 1))
        assert (np.diff(segments[:real]) >= 0).all()
        for number in range(1, segments.max() + 1):
            here = segments == number
            assert positions[here].tolist() == list(range(here.sum()))
            assert tokens[here][0] == 2 and tokens[here][-1] == 3
            assert (tokens[here] == 2).sum() == 1 and here.sum() >= 3
        if isinstance(FORMATS[name], PairFormat):
            first, second = np.flatnonzero(tokens == 3)
            assert second == real - 1
            assert types[: first + 1].max() == 0 and types[first + 1 : real].min() == 1
        else:
            assert not types.any()
        if name != "best_fit":
            assert segments.max() == 1


@pytest.mark.parametrize("name", FORMATS)
def test_a_row_depends_on_nothing_but_seed_epoch_and_index(name: str) -> None:
    corpus = random_text(40, seed=2)
    one, other = FORMATS[name].examples(corpus, 31, 7), FORMATS[name].examples(corpus, 31, 7)
    every(one, epoch=5)
    for index, row in reversed(
        list(enumerate(every(other, epoch=2)))
    ):  # all at once, and one by one backwards
        for key, array in one.example(2, index).items():
            assert np.array_equal(array, row[key]), key


@pytest.mark.parametrize("name", FORMATS)
def test_the_efficiency_is_that_of_the_rows(name: str) -> None:
    examples = make(name, ODD["mixed"], 40)
    real = sum(int(row["mask"].sum()) for row in every(examples))
    assert examples.efficiency == pytest.approx(real / (len(examples) * 40))


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_the_single_ones_and_minus_one_is_empty(name: str) -> None:
    examples = FORMATS[name].examples(ODD["mixed"], 29, 0)
    rows = examples.rows([0, 0, 4], [1, -1, 2])
    for key, array in examples.example(4, 2).items():
        assert np.array_equal(rows[key][2], array)
    assert rows["example_id"].tolist() == [1, -1, 2] and rows["epoch"].tolist() == [0, 0, 4]
    assert not any(rows[key][1].any() for key in rows if key not in ("example_id", "starts_word"))


@pytest.mark.parametrize("name", FORMATS)
def test_bad_lengths_and_indices_are_refused(name: str) -> None:
    least = 5 if isinstance(FORMATS[name], PairFormat) else 3
    with pytest.raises(ValueError, match=f"length={least - 1} leaves no room .* set it to {least} or more"):
        FORMATS[name].examples(ODD["mixed"], least - 1, 0)
    examples = FORMATS[name].examples(ODD["mixed"], least, 0)
    for index in (-1, len(examples)):
        with pytest.raises(IndexError):
            examples.example(0, index)
    with pytest.raises(ValueError, match="no text"):
        FORMATS[name].examples(Text([[], []]), 20, 0)


@pytest.mark.parametrize("name", FORMATS)
def test_word_starts_of_a_segmenter_travel_with_the_tokens(name: str) -> None:
    corpus = random_text(20, seed=4)
    assert "starts_word" not in make(name, corpus, 21).example(0, 0)
    corpus.segmented = True
    corpus.word_starts = lambda start, stop: np.arange(start, stop) % 3 == 0  # type: ignore[method-assign]
    for row in every(make(name, corpus, 21)):
        text = row["tokens"] >= FIRST
        assert np.array_equal(row["starts_word"][text], (row["tokens"][text] - FIRST) % 3 == 0)
        assert row["starts_word"][~text].all()


def test_formats_are_settings() -> None:
    choices = {Format: FORMATS}
    for name, prototype in FORMATS.items():
        assert settings.kind_of(prototype, choices) == name
        data = settings.to_dict(prototype, choices)
        assert data["kind"] == name and settings.from_dict(Format, data, choices) == prototype
        assert set(settings.field_docs(type(prototype))) == set(settings.field_types(type(prototype)))
    assert FORMATS["segment_pair"] == SegmentPair(negatives="random", short_probability=0.1)


# ------------------------------------------------------------------------------------------ single rows


def naive_runs(corpus: Text, limit: int, *, across: bool) -> list[list[int]]:
    """Bounds of greedily filled runs, sentence by sentence: a run's own, and those of documents inside it."""
    units: list[tuple[int, int, int]] = []
    for document, first in enumerate(corpus.document_offsets[:-1]):
        for sentence in range(first, corpus.document_offsets[document + 1]):
            start, stop = (int(corpus.sentence_offsets[sentence + i]) for i in (0, 1))
            pieces = -(-(stop - start) // limit)
            bounds = [start + (stop - start) * piece // pieces for piece in range(pieces + 1)]
            units += [(document, *pair) for pair in zip(bounds[:-1], bounds[1:], strict=True)]
    runs: list[list[int]] = []
    last, used = -1, 0
    for document, start, stop in units:
        new = document != last
        if not runs or used + (stop - start) + new > limit or (new and not across):
            runs.append([start, stop])
            used = stop - start
        else:
            runs[-1][-1:] = [start, stop] if new else [stop]
            used += stop - start + new
        last = document
    return runs


@pytest.mark.parametrize("block", [1 << 20, 10])
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("limit", [1, 9, 26, 200])
def test_doc_sentences_fills_rows_greedily(
    block: int, kind: str, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cutting, "_BLOCK", block)  # the blocks do not show
    rows = every(FORMATS["doc_sentences"].examples(ODD[kind], limit + 2, 0))
    expected = naive_runs(ODD[kind], limit, across=False)
    assert [positions_in(row["tokens"]) for row in rows] == [list(range(*run)) for run in expected]


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("limit", [1, 9, 26, 200])
def test_full_sentences_fills_rows_across_documents(kind: str, limit: int) -> None:
    rows = every(FORMATS["full_sentences"].examples(ODD[kind], limit + 2, 0))
    for row, bounds in zip(rows, naive_runs(ODD[kind], limit, across=True), strict=True):
        expected = [2]
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            expected += [*range(start + FIRST, stop + FIRST), 3]
        assert row["tokens"][row["mask"]].tolist() == expected


def test_full_sentences_in_blocks_still_has_every_token_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cutting, "_BLOCK", 10)
    corpus = ODD["mixed"]
    seen = [p for row in every(make("full_sentences", corpus, 30)) for p in positions_in(row["tokens"])]
    assert seen == list(range(corpus.size))


def test_padded_has_a_document_to_a_row_and_divides_long_ones_evenly() -> None:
    corpus = Text([[3, 4], [20], [1], [9, 9, 9]])
    rows = [positions_in(row["tokens"]) for row in every(FORMATS["padded"].examples(corpus, 12, 0))]
    assert list(map(len, rows)) == [7, 10, 10, 1, 9, 9, 9]


@pytest.mark.parametrize("name", ["padded", "doc_sentences", "best_fit"])
def test_no_sequence_holds_two_documents(name: str) -> None:
    corpus = ODD["mixed"]
    several = 0
    for row in every(FORMATS[name].examples(corpus, 64, 0)):
        several += int(row["segments"].max() > 1)
        for number in range(1, row["segments"].max() + 1):
            held = positions_in(row["tokens"][row["segments"] == number])
            assert len({corpus.document(position) for position in held}) == 1
            assert held == list(range(held[0], held[-1] + 1))
    assert (several > 0) == (name == "best_fit")


# ------------------------------------------------------------------------------------------ packing


def naive_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Sorted room left in the rows when items are placed one by one."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        fits = [room for room in rooms if room >= length]
        if fits:
            rooms[rooms.index(min(fits))] -= length
        else:
            rooms.append(capacity - length)
    return sorted(rooms)


@pytest.mark.parametrize("seed", range(6))
def test_packing_by_groups_is_packing_one_by_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    capacity = int(random.integers(5, 60))
    lengths = random.integers(1, capacity + 1, 300)
    if seed % 2:
        lengths = np.maximum(1, lengths // 5)  # many short ones
    rows = best_fit_decreasing(lengths, capacity)
    loads = np.bincount(rows, weights=lengths)
    assert np.unique(rows).size == len(loads)  # no row is empty
    assert sorted((capacity - loads).tolist()) == naive_best_fit(lengths.tolist(), capacity)


def test_packing_short_documents_is_98_percent_efficient_at_512() -> None:
    examples = FORMATS["best_fit"].examples(SyntheticCorpus(2000, 101, seed=3), 512, 0)
    rows = examples.rows([0] * len(examples), range(len(examples)))
    assert rows["mask"].mean() == pytest.approx(examples.efficiency)
    assert examples.efficiency > 0.98


def test_packing_in_blocks_keeps_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjax.data.packing._BLOCK", 16)
    corpus = ODD["mixed"]
    examples = FORMATS["best_fit"].examples(corpus, 40, 0)
    seen = sorted(p for row in every(examples) for p in positions_in(row["tokens"]))
    assert seen == list(range(corpus.size))
    assert examples.efficiency > FORMATS["doc_sentences"].examples(corpus, 40, 0).efficiency


def test_plans_for_a_large_corpus_take_seconds() -> None:
    random = np.random.default_rng(0)
    begin = time.perf_counter()
    rows = best_fit_decreasing(random.integers(3, 513, 1_000_000), 512)
    assert rows.max() < 600_000
    assert time.perf_counter() - begin < 30  # about 0.3 s alone; placing one by one in Python takes minutes
