"""Scores of generated texts: BLEU and chrF are sacrebleu's, ROUGE is rouge-score's."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import sacrebleu
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

from bertjax.scores import summary, translation

WORDS = [
    "The",
    "the",
    "cats",
    "sat,",
    "sitting",
    "on",
    "a",
    "mat.",
    "Über",
    "3.5",
    "don't",
    "running",
    "\n",
    "\n\n",
]
KINDS = ("rouge1", "rouge2", "rouge5", "rougeL", "rougeLsum")


def text(draw: random.Random, most: int = 12) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(0, most)))


def pairs(seed: int, size: int = 40) -> tuple[list[str], list[list[str]]]:
    draw = random.Random(seed)
    references = [[text(draw) for _ in range(draw.randint(1, 3))] for _ in range(size)]
    references[0] = ["the cats sat on a mat"]
    predictions = [draw.choice(given) if draw.random() < 0.2 else text(draw) for given in references]
    return predictions, references


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("tokenize", ["13a", "char", "zh", "none"])
def test_bleu(tokenize: str, seed: int) -> None:
    predictions, references = pairs(seed)
    first = [given[0] for given in references]
    found = translation.bleu(predictions, first, tokenize=tokenize)
    want = sacrebleu.corpus_bleu(predictions, [first], tokenize=tokenize)
    assert found.score == pytest.approx(want.score / 100) and 0 < found.score < 1
    assert f"tok:{tokenize}" in found.signature and "nrefs:1" in found.signature


def test_several_references_are_those_of_each_example() -> None:
    predictions, references = pairs(4)
    two = [given[:1] * 2 if len(given) < 2 else given[:2] for given in references]
    streams = [[given[0] for given in two], [given[1] for given in two]]
    assert translation.bleu(predictions, two).score == pytest.approx(
        sacrebleu.corpus_bleu(predictions, streams).score / 100
    )
    assert translation.chrf(predictions, two).score == pytest.approx(
        sacrebleu.corpus_chrf(predictions, streams).score / 100
    )
    # Examples may have different numbers of references: repeating one changes nothing for chrF, which takes the best.
    padded = [[*given, *given[:1] * (3 - len(given))] for given in references]
    assert translation.chrf(predictions, references).score == pytest.approx(
        translation.chrf(predictions, padded).score
    )


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf(word_order: int) -> None:
    predictions, references = pairs(5)
    first = [given[0] for given in references]
    found = translation.chrf(predictions, first, word_order=word_order)
    want = sacrebleu.corpus_chrf(predictions, [first], word_order=word_order)
    assert found.score == pytest.approx(want.score / 100) and f"nw:{word_order}" in found.signature


def test_lower_case() -> None:
    assert translation.bleu(["THE CAT SAT ON"], ["the cat sat on"]).score == 0
    assert translation.bleu(["THE CAT SAT ON"], ["the cat sat on"], lowercase=True).score == pytest.approx(1)


def test_degenerate_translations() -> None:
    assert translation.bleu([""], ["the cat"]).score == translation.chrf([""], ["the cat"]).score == 0
    assert translation.bleu(["the cat sat on it"], ["the cat sat on it"]).score == pytest.approx(1)
    for score in (translation.bleu, translation.chrf):
        with pytest.raises(ValueError, match="1 predictions for 2 references"):
            score(["a"], ["a", "b"])
        with pytest.raises(ValueError, match="have no score"):
            score([], [])
        with pytest.raises(ValueError, match="example 1 has 0 references"):
            score(["a", "b"], [["a"], []])
    with pytest.raises(ValueError, match="tokenize='13b': choose from 13a, "):
        translation.bleu(["a"], ["a"], tokenize="13b")


def porter(value: str) -> list[str]:
    stemmer = PorterStemmer()
    return [stemmer.stem(word) if len(word) > 3 else word for word in summary.words(value)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("tokenize", [summary.words, porter])
def test_rouge(tokenize: Callable[[str], list[str]], seed: int) -> None:
    predictions, references = pairs(seed)
    scorer = rouge_scorer.RougeScorer(list(KINDS), use_stemmer=tokenize is porter)
    found = summary.grade(predictions, references, kinds=KINDS, tokenize=tokenize)
    for place, (prediction, given) in enumerate(zip(predictions, references, strict=True)):
        want = scorer.score_multi(given, prediction)
        for kind in KINDS:
            np.testing.assert_allclose(found[kind][place, 2], want[kind].fmeasure, atol=1e-12, err_msg=kind)
            if len(given) == 1:
                np.testing.assert_allclose(found[kind][place], want[kind], atol=1e-12, err_msg=kind)


def test_rouge_lsum_of_many_lines_of_few_words() -> None:
    # Many longest subsequences are equally long: the union depends on which of them is taken.
    draw = random.Random(6)
    scorer = rouge_scorer.RougeScorer(["rougeLsum"])
    for _ in range(300):
        first, second = (
            "\n".join(" ".join(draw.choices("abc", k=draw.randint(0, 7))) for _ in range(3)) for _ in range(2)
        )
        if first.strip():
            found = summary.grade([second], [first], kinds=["rougeLsum"])["rougeLsum"][0]
            np.testing.assert_allclose(found, scorer.score(first, second)["rougeLsum"], atol=1e-12)


def test_rouge_by_hand() -> None:
    found = summary.score(["the cat was under the bed"], ["the cat under the big bed"], kinds=KINDS)
    assert found["rouge1"] == pytest.approx(10 / 12)
    assert found["rouge2"] == pytest.approx(2 * 2 / 10)  # "the cat", "under the"
    assert found["rougeL"] == found["rougeLsum"] == pytest.approx(10 / 12) and found["rouge5"] == 0
    assert summary.score(["b a"], ["a b"], kinds=["rougeL"])["rougeL"] == 0.5
    assert summary.score(["", "a"], ["a", "a"]) == {"rouge1": 0.5, "rouge2": 0.0, "rougeL": 0.5}
    assert list(summary.grade(["a b"], ["a b c d"])["rouge1"][0]) == pytest.approx([1, 0.5, 2 / 3])


def test_other_scripts_need_another_tokenize() -> None:
    with pytest.raises(ValueError, match="no reference holds a word, the first is '北京大学'"):
        summary.score(["北京大学"], ["北京大学"])
    found = summary.score(["在北京"], ["北京大学"], tokenize=list)
    assert found["rouge1"] == found["rougeL"] == pytest.approx(2 * 2 / 7)


def test_bad_summaries() -> None:
    with pytest.raises(ValueError, match="kind 'rouge-L' of ROUGE: did you mean 'rougeL'"):
        summary.score(["a"], ["a"], kinds=["rouge-L"])
    with pytest.raises(ValueError, match="1 predictions for 2 references"):
        summary.score(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="have no score"):
        summary.score([], [])
    with pytest.raises(ValueError, match="example 0 has 0 references"):
        summary.score(["a"], [[]])
