"""Where A and B come from, whether the labels are true, and what else could tell them."""

import collections

import numpy as np
import pytest
from texts import Text, parts_of, random_text, unstacked

from bertjax.data.pairs import PairFormat, Pairs, SegmentPair, SentencePair
from bertjax.data.synthetic import SyntheticCorpus

FORMATS = [SegmentPair, SentencePair]
Row = tuple[list[int], list[int], int]  # A and B as positions in the corpus, and the label


def make(
    kind: type[PairFormat], corpus: Text | SyntheticCorpus, length: int, negatives: str, seed: int = 0
) -> Pairs:
    pairs = kind(negatives=negatives).examples(corpus, length, seed)  # type: ignore[arg-type]
    assert isinstance(pairs, Pairs)
    return pairs


def every(pairs: Pairs, epoch: int) -> list[Row]:
    rows = unstacked(pairs.rows([epoch] * len(pairs), range(len(pairs))))
    return [(*parts_of(row), int(row["pair_label"])) for row in rows]


def run(positions: list[int]) -> bool:
    return positions == list(range(positions[0], positions[-1] + 1))


@pytest.fixture(scope="module")
def corpus() -> Text:
    return random_text(300, seed=5, sentences=20, longest=9)


# ------------------------------------------------------------------------------------------ labels


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("epoch", [0, 1])
def test_next_sentence_labels_are_true_of_the_corpus(
    kind: type[PairFormat], epoch: int, corpus: Text
) -> None:
    pairs = make(kind, corpus, 40, "random")
    labels = []
    for index, (first, second, label) in enumerate(every(pairs, epoch)):
        assert run(first) and run(second)
        assert first[0] == pairs.starts[index]  # the row's chunk is its base, whatever the label
        homes = {corpus.document(position) for position in first}
        others = {corpus.document(position) for position in second}
        assert len(homes) == len(others) == 1
        if label:
            assert homes != others
        else:
            assert second[0] == first[-1] + 1 and second[-1] + 1 == pairs.starts[index + 1]
        labels.append(label)
    assert abs(np.mean(labels) - 0.5) < 3 * 0.5 / np.sqrt(len(labels))


@pytest.mark.parametrize("kind", FORMATS)
def test_sentence_order_labels_are_true_of_the_corpus(kind: type[PairFormat], corpus: Text) -> None:
    pairs = make(kind, corpus, 40, "swapped")
    labels = []
    for index, (first, second, label) in enumerate(every(pairs, 2)):
        earlier, later = (second, first) if label else (first, second)
        assert earlier + later == list(range(pairs.starts[index], pairs.starts[index + 1]))
        labels.append(label)
    assert abs(np.mean(labels) - 0.5) < 3 * 0.5 / np.sqrt(len(labels))


@pytest.mark.parametrize("kind", FORMATS)
def test_without_negatives_there_is_no_label(kind: type[PairFormat], corpus: Text) -> None:
    pairs = make(kind, corpus, 40, "none")
    for index, row in enumerate(unstacked(pairs.rows([0] * len(pairs), range(len(pairs))))):
        assert "pair_label" not in row
        first, second = parts_of(row)
        assert first + second == list(range(pairs.starts[index], pairs.starts[index + 1]))


@pytest.mark.parametrize("kind", FORMATS)
def test_epochs_and_seeds_draw_other_cuts_labels_and_partners(kind: type[PairFormat], corpus: Text) -> None:
    one = every(make(kind, corpus, 60, "random"), 0)
    for other in (
        every(make(kind, corpus, 60, "random"), 1),
        every(make(kind, corpus, 60, "random", seed=1), 0),
    ):
        same = [a[2] == b[2] for a, b in zip(one, other, strict=False)]
        assert 0.3 < np.mean(same) < 0.7
        negatives = [(a[1], b[1]) for a, b in zip(one, other, strict=False) if a[2] and b[2]]
        assert np.mean([a == b for a, b in negatives]) < 0.2
    cuts = [a[0] == b[0] for a, b in zip(one, every(make(kind, corpus, 60, "random"), 1), strict=True)]
    # Chunks of two sentences have one place for a cut, the others several.
    assert np.mean(cuts) < 0.5 if kind is SegmentPair else np.mean(cuts) > 0.5


def test_random_parts_come_from_everywhere(corpus: Text) -> None:
    pairs = make(SegmentPair, corpus, 40, "random")
    seen = collections.Counter(
        corpus.document(second[0]) for epoch in range(6) for _, second, label in every(pairs, epoch) if label
    )
    assert len(seen) > 270  # of 300, one of them with a chunk of one sentence here and there
    assert seen.most_common(1)[0][1] < 0.03 * seen.total()


# ------------------------------------------------------------------------------------------ what may not tell


def independence(values: np.ndarray, labels: np.ndarray, groups: int = 5) -> float:
    """Chi-square of label against quantile of a value, in standard deviations above its mean."""
    edges = np.quantile(values, np.linspace(0, 1, groups + 1)[1:-1])
    which = np.searchsorted(edges, values)
    statistic, degrees = 0.0, -1
    for group in np.unique(which):
        here = labels[which == group]
        expected = labels.mean() * here.size
        statistic += (here.sum() - expected) ** 2 / (expected * (1 - labels.mean()))
        degrees += 1
    return (statistic - degrees) / np.sqrt(2 * max(degrees, 1))


@pytest.mark.parametrize("kind", FORMATS)
def test_lengths_and_borders_do_not_tell_the_label(kind: type[PairFormat]) -> None:
    """Documents of very different lengths, many shorter than the row: there a B that fills it stands out."""
    random = np.random.default_rng(6)
    documents = [
        random.integers(2, 12, random.integers(2, random.choice([4, 40]))).tolist() for _ in range(700)
    ]
    corpus = Text(documents)
    borders, turns = corpus.borders(), set(corpus.sentence_offsets[corpus.document_offsets].tolist())
    pairs = make(kind, corpus, 128, "random")
    rows = [row for epoch in range(6) for row in every(pairs, epoch)]
    labels = np.array([label for _, _, label in rows])
    # Each row is as long as its chunk, which was cut before the coin was tossed.
    sizes = np.array([len(first) + len(second) for first, second, _ in rows])
    assert (sizes == np.tile(np.diff(pairs.starts), 6)).mean() > 0.98
    features = {
        "A": np.array([len(first) for first, _, _ in rows]),
        "B": np.array([len(second) for _, second, _ in rows]),
        "both": sizes,
        "share": np.array([len(first) / (len(first) + len(second)) for first, second, _ in rows]),
    }
    for name, values in features.items():
        assert independence(values, labels) < 5, name
    whole = np.array([second[0] in borders and second[-1] + 1 in borders for _, second, _ in rows])
    assert whole.all()
    assert not any(second[0] in turns for _, second, _ in rows)  # no B opens a document, true or random
    ends = np.array([second[-1] + 1 in turns for _, second, _ in rows])
    assert abs(ends[labels == 1].mean() - ends[labels == 0].mean()) < 0.03
    sentences = np.array([sum(position in borders for position in second) for _, second, _ in rows])
    assert abs(sentences[labels == 1].mean() / sentences[labels == 0].mean() - 1) < 0.06


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("length", [64, 512])
def test_nearly_all_partners_agree_in_length(kind: type[PairFormat], length: int) -> None:
    pairs = make(kind, SyntheticCorpus(2000, 101, seed=2), length, "random")
    costs = np.array([choice.cost for choice in pairs.choose(np.zeros(500, int), np.arange(500))])
    assert (costs == 0).mean() > 0.95
    assert costs.max() < length  # the rest differ by a few tokens


# ------------------------------------------------------------------------------------------ chunks and cuts


def test_segment_pairs_fill_the_row() -> None:
    corpus = Text([[5] * 200] * 3)
    lengths = np.diff(make(SegmentPair, corpus, 103, "none").starts)
    full = SegmentPair(negatives="none", short_probability=0.0).examples(corpus, 103, 0)
    assert isinstance(full, Pairs)
    assert np.diff(full.starts).tolist() == [100] * 30
    assert (lengths < 100).any()


def test_short_chunks_come_as_often_and_as_short_as_asked() -> None:
    corpus = Text([[1] * 60_000] * 2)
    for probability in (0.1, 0.6):
        pairs = SegmentPair(negatives="none", short_probability=probability).examples(corpus, 53, 4)
        assert isinstance(pairs, Pairs)
        lengths = np.diff(pairs.starts)
        share = probability * 48 / 49  # the greatest short target is no shorter
        assert abs(np.mean(lengths < 50) - share) < 4 * np.sqrt(share / len(lengths))
        short = lengths[lengths < 50]
        assert short.min() == 2 and abs(short.mean() - 25.5) < 4 * 14 / np.sqrt(short.size)
    with pytest.raises(ValueError, match=r"short_probability=1.5 .* 0.0 to 1.0"):
        SegmentPair(short_probability=1.5).examples(corpus, 53, 0)


def test_cuts_are_uniform_over_the_sentence_borders() -> None:
    corpus = Text([[3, 9, 1, 4, 6]] * 2)
    pairs = SegmentPair(negatives="none", short_probability=0.0).examples(corpus, 50, 0)
    rows = unstacked(pairs.rows(range(2000), [0] * 2000))
    cuts = collections.Counter(len(parts_of(row)[0]) for row in rows)
    assert set(cuts) == {3, 12, 13, 17}
    assert max(abs(count - 500) for count in cuts.values()) < 5 * np.sqrt(500 * 0.75)


def test_sentence_pairs_are_two_sentences_and_the_last_of_an_odd_document_three() -> None:
    corpus = Text([[2, 3, 4, 5], [6, 7, 8], [1, 2, 3, 4, 5], [9, 9]])
    chunks = np.diff(make(SentencePair, corpus, 60, "none").starts).tolist()
    assert chunks == [5, 9, 21, 3, 12, 18]
    tight = np.diff(make(SentencePair, corpus, 21, "none").starts).tolist()
    assert tight == [5, 9, 13, 8, 3, 12, 18]  # 6 + 7 + 8 would not fit 21 - 3


def test_the_end_of_a_document_keeps_two_sentences() -> None:
    pairs = SegmentPair(negatives="none", short_probability=0.0).examples(Text([[4] * 11]), 43, 0)
    assert isinstance(pairs, Pairs)
    assert np.diff(pairs.starts).tolist() == [36, 8]
    random = np.random.default_rng(7)
    corpus = Text([random.integers(2, 9, random.integers(2, 30)).tolist() for _ in range(300)])
    starts = SegmentPair(negatives="none", short_probability=0.5).examples(corpus, 60, 0).starts  # type: ignore[attr-defined]
    borders = corpus.sentence_offsets
    sentences = np.searchsorted(borders, starts[1:]) - np.searchsorted(borders, starts[:-1])
    assert sentences.min() == 2


@pytest.mark.parametrize("negatives", ["random", "swapped", "none"])
@pytest.mark.parametrize("kind", FORMATS)
def test_one_sentence_is_cut_where_a_word_starts(kind: type[PairFormat], negatives: str) -> None:
    corpus = Text([[12]] * 40, continues=3)
    pairs = make(kind, corpus, 30, negatives)
    begins = collections.Counter()
    for epoch in range(10):
        for row in unstacked(pairs.rows([epoch] * len(pairs), range(len(pairs)))):
            first, second = parts_of(row)
            assert len(first) + len(second) == 12
            begins[max(second[0], first[0]) % 12 if negatives != "random" else second[0] % 12] += 1
    assert set(begins) == {3, 6, 9}
    assert max(begins.values()) < 1.4 * min(begins.values())


def test_one_word_is_cut_anywhere() -> None:
    pairs = make(SegmentPair, Text([[5], [5]], continues=5), 30, "none")
    assert {len(parts_of(pairs.example(epoch, 0))[0]) for epoch in range(60)} == {1, 2, 3, 4}


def test_one_token_cannot_be_cut() -> None:
    corpus = Text([[1], [4, 4], [1]])
    for index, alone in ((0, [0]), (2, [9])):
        for epoch in range(20):
            first, second, label = every(make(SegmentPair, corpus, 20, "random"), epoch)[index]
            assert first == alone and label == 1 and run(second)
            assert corpus.document(second[0]) != corpus.document(first[0])
            assert every(make(SegmentPair, corpus, 20, "swapped"), epoch)[index] == (alone, [], 0)
    row = make(SegmentPair, corpus, 20, "none").example(0, 0)
    assert row["tokens"][:5].tolist() == [2, 5, 3, 3, 0] and row["types"][:5].tolist() == [0, 0, 0, 1, 0]


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("length", [5, 6, 9, 30])
def test_odd_corpora_fit_and_are_labelled_truly(kind: type[PairFormat], length: int) -> None:
    for documents in ([[1], [1]], [[50], [2]], [[100, 3], [41], [20, 20, 95, 1], [2, 2]], [[3, 3], [], [1]]):
        corpus = Text(documents)
        pairs = make(kind, corpus, length, "random")
        for epoch in range(2):
            for first, second, label in every(pairs, epoch):
                assert first and second and run(first) and run(second)
                assert len(first) + len(second) + 3 <= length
                assert (corpus.document(first[0]) != corpus.document(second[0])) == bool(label)


def test_random_text_needs_another_document() -> None:
    with pytest.raises(
        ValueError, match="another document and the corpus has one only: set negatives=swapped"
    ):
        SegmentPair().examples(Text([[3, 4, 5], []]), 20, 0)
