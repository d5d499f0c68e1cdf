"""Tags, spans and entity scores: equal to seqeval's, in its default and in its strict mode."""

import random
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from seqeval import scheme as standard_schemes
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores

from bertjax.scores import entities, tags
from bertjax.scores.tags import SCHEMES, Span

STANDARD = {
    "IOB1": standard_schemes.IOB1,
    "IOB2": standard_schemes.IOB2,
    "IOE2": standard_schemes.IOE2,
    "BIOES": standard_schemes.IOBES,
    "BILOU": standard_schemes.BILOU,
}

# Three spans that touch: one of two tokens and one of one token of the same type, one of another type.
TOUCHING = [Span("P", 0, 2), Span("P", 2, 3), Span("L", 3, 4), Span("L", 5, 7)]
WRITTEN = {
    "IOB1": "I-P I-P B-P I-L O I-L I-L",
    "IOB2": "B-P I-P B-P B-L O B-L I-L",
    "IOE1": "I-P E-P I-P I-L O I-L I-L",
    "IOE2": "I-P E-P E-P E-L O I-L E-L",
    "BIOES": "B-P E-P S-P S-L O B-L E-L",
    "BILOU": "B-P L-P U-P U-L O B-L L-L",
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """seqeval warns about the ratios of 0 by 0 that these tests are about."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def noise(letters: str, seed: int, *, sentences: int = 600, types: str = "XY") -> list[list[str]]:
    """Sentences of arbitrary tags, most of them invalid in any scheme."""
    draw = random.Random(seed)
    return [
        [
            "O" if letter == "O" else f"{letter}-{draw.choice(types)}"
            for letter in draw.choices("O" + letters, k=place % 9)
        ]
        for place in range(sentences)
    ]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_schemes_by_hand(scheme: Any) -> None:
    written = WRITTEN[scheme].split()
    assert tags.encode(TOUCHING, 7, scheme) == written
    assert tags.spans(written) == TOUCHING
    assert tags.spans(written, scheme) == TOUCHING


def test_every_sequence_is_read_as_seqeval_does() -> None:
    for sentence in noise("BIES", 0, sentences=2000):
        want = [Span(kind, start, last + 1) for kind, start, last in get_entities(sentence)]
        assert tags.spans(sentence) == want, sentence


@pytest.mark.parametrize("scheme", STANDARD)
def test_strict_reading_is_seqevals(scheme: Any) -> None:
    for sentence in noise(SCHEMES[scheme], 1, sentences=2000):
        found = standard_schemes.Tokens(sentence, STANDARD[scheme]).entities
        want = [Span(entity.tag, entity.start, entity.end) for entity in found]
        assert tags.spans(sentence, scheme) == want, sentence


@pytest.mark.parametrize("source", SCHEMES)
@pytest.mark.parametrize("target", SCHEMES)
def test_conversion_keeps_the_spans_and_comes_back(source: Any, target: Any) -> None:
    for sentence in noise("BIES", 2):
        valid = tags.convert(sentence, source)
        converted = tags.convert(valid, target, source=source)
        assert tags.spans(converted, target) == tags.spans(valid, source) == tags.spans(sentence)
        assert tags.convert(converted, source) == valid


@pytest.mark.parametrize("scheme", [scheme for scheme in SCHEMES if scheme != "IOB1"])
def test_strict_spans_are_those_written_as_the_scheme_writes_them(scheme: Any) -> None:
    # In IOB1 a stray B spoils what stands beside it, too, as in seqeval.
    for sentence in noise(SCHEMES[scheme], 10):
        right = tags.convert(sentence, scheme)
        want = [
            span for span in tags.spans(sentence) if sentence[slice(*span[1:])] == right[slice(*span[1:])]
        ]
        assert tags.spans(sentence, scheme) == want, sentence


def test_repair_of_invalid_sequences() -> None:
    assert tags.convert(["O", "I-P", "I-P", "I-L", "O"], "IOB2") == ["O", "B-P", "I-P", "B-L", "O"]
    assert tags.convert(["B-P", "I-P", "O", "E-L", "I-L", "S-L"], "BIOES") == [
        "B-P",
        "E-P",
        "O",
        "S-L",
        "S-L",
        "S-L",
    ]
    assert tags.spans(["O", "I-P", "I-P"], "IOB2") == []
    assert tags.convert(["B-P", "E-P"], "IOB2") == ["B-P", "I-P"]


def test_a_repaired_sequence_of_a_scheme_is_valid_in_it() -> None:
    for scheme in SCHEMES:
        for sentence in noise(SCHEMES[scheme], 3):
            repaired = tags.convert(sentence, scheme)  # type: ignore[arg-type]
            assert tags.spans(repaired, scheme) == tags.spans(sentence)  # type: ignore[arg-type]
            assert tags.convert(repaired, scheme) == repaired  # type: ignore[arg-type]


def test_tags_without_a_type_and_types_with_hyphens() -> None:
    assert tags.spans(["B", "I", "O", "I"]) == [Span("_", 0, 2), Span("_", 3, 4)]
    assert tags.convert(["I", "I"], "BIOES") == ["B", "E"]
    assert tags.spans(["B-a-b", "I-a-b"]) == [Span("a-b", 0, 2)]
    assert tags.spans([]) == [] and tags.convert([], "IOB2") == []


def check_against_seqeval(
    predictions: list[list[str]], references: list[list[str]], scheme: Any = None
) -> None:
    found = entities.counts(predictions, references, scheme=scheme)
    averages = ("micro", "macro", "weighted") if found.names else ("micro", "weighted")
    for average in averages:
        if scheme is None:
            want = precision_recall_fscore_support(references, predictions, average=average)
        else:
            want = strict_scores(references, predictions, average=average, scheme=STANDARD[scheme])
        got = (found.precision(average), found.recall(average), found.f1(average))  # type: ignore[arg-type]
        assert got == pytest.approx(want[:3], abs=1e-12), average
    if scheme is None:
        columns = precision_recall_fscore_support(references, predictions)
        for row, *want in zip(found.table().values(), *columns, strict=True):
            assert list(row.values()) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("letters", ["BI", "IE", "BIES"])
def test_scores_are_seqevals(letters: str) -> None:
    references = noise(letters, 4, types="XYZ")
    predictions = [list(sentence) for sentence in references]
    for sentence, other in zip(predictions[::2], noise(letters, 5)[::2], strict=True):
        sentence[:3] = other[:3]
    check_against_seqeval(predictions, references)


@pytest.mark.parametrize("scheme", STANDARD)
def test_strict_scores_are_seqevals(scheme: Any) -> None:
    references = [tags.convert(sentence, scheme) for sentence in noise("BIES", 6, types="XYZ")]
    predictions = [list(sentence) for sentence in references]
    for sentence, other in zip(predictions[::2], noise(SCHEMES[scheme], 7)[::2], strict=True):
        sentence[1:4] = other[1:4]
    check_against_seqeval(predictions, references, scheme)


DEGENERATE = {
    "no entities": ([["O", "O"], ["O"]], [["O", "O"], ["O"]]),
    "none predicted": ([["O", "O"]], [["B-X", "B-Y"]]),
    "none there": ([["B-X", "I-X"]], [["O", "O"]]),
    "empty sentences": ([[], ["B-X"], []], [[], ["B-X"], []]),
    "other types": ([["B-X", "I-X"]], [["B-Y", "I-Y"]]),
    "one sentence right": ([["B-X", "I-X"], ["O"]], [["B-X", "I-X"], ["O"]]),
    "over the end of a sentence": ([["B-X"], ["I-X"]], [["B-X"], ["B-X"]]),
    "too long": ([["B-X", "I-X"]], [["B-X", "O"]]),
}


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_inputs(name: str) -> None:
    check_against_seqeval(*DEGENERATE[name])


def test_no_entities_is_zero_in_every_average() -> None:
    found = entities.counts([["O"]], [["O"]])
    assert [found.f1("micro"), found.f1("macro"), found.f1("weighted"), found.table()] == [0.0, 0.0, 0.0, {}]


def test_counts_of_sentences_add_up() -> None:
    references, predictions = noise("BI", 8), noise("BI", 9)
    rows = entities.sentence_counts(predictions, references)
    found = entities.counts(predictions, references)
    assert rows.shape == (600, 3)
    assert rows.sum(0).tolist() == [found.hits.sum(), found.predicted.sum(), found.actual.sum()]
    for place in (8, 17, 26):
        alone = entities.counts([predictions[place]], [references[place]])
        assert rows[place].tolist() == [alone.hits.sum(), alone.predicted.sum(), alone.actual.sum()]
    assert entities.micro_f1(rows) == found.f1() > 0


BAD = {
    "sentences": (lambda: entities.counts([["O"]], []), "1 predictions for 0 references"),
    "tokens": (
        lambda: entities.counts([["O"], ["O"]], [["O"], ["O", "O"]]),
        "sentence 1 has 1 predicted tags for 2",
    ),
    "nothing": (lambda: entities.counts([], []), "no score"),
    "tag": (lambda: tags.spans(["X-P"]), "tag 'X-P': a scheme has O and B, I, E, S, L, U"),
    "glued": (lambda: tags.spans(["BP"]), "tag 'BP'"),
    "other scheme": (
        lambda: tags.spans(["S-P"], "IOB2"),
        "tag 'S-P': IOB2 has O and B, I with a type, as in 'B-PER'",
    ),
    "scheme": (lambda: tags.spans(["O"], "IOB3"), "did you mean 'IOB"),  # type: ignore[arg-type]
    "overlap": (lambda: tags.encode([Span("P", 0, 2), Span("P", 1, 3)], 5, "IOB2"), "do not overlap"),
    "outside": (lambda: tags.encode([Span("P", 3, 6)], 5, "IOB2"), "lie inside"),
    "empty span": (lambda: tags.encode([Span("P", 3, 3)], 5, "IOB2"), "span"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line(name: str) -> None:
    call, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_types_are_named_in_one_order() -> None:
    found = entities.counts([["B-Z", "B-A"]], [["B-M", "B-A"]])
    assert found.names == ("A", "M", "Z")
    np.testing.assert_array_equal(found.hits, [1, 0, 0])
