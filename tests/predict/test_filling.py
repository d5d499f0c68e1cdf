"""fill-mask, perplexity, and the engine under them: what the model itself says, whatever batches are made."""

from collections.abc import Iterator

import numpy as np
import pytest

import bertjax
from bertjax.bundle import Bundle
from bertjax.predict import FillMask, Perplexity, RunOptions, fill_mask, perplexity, run
from bertjax.predict.filling import Filling, Order
from bertjax.predict.run import Line, engine, ladder
from bertjax.sharding import MeshConfig
from tests.convert.broken import refused
from tests.convert.models import VOCABULARY, write_published

pytestmark = pytest.mark.usefixtures("quick_compiles")
OPTIONS = RunOptions(batch=3, shapes=2, window=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_published(tmp_path_factory.mktemp("filling") / "model", vocabulary=VOCABULARY)


@pytest.fixture(scope="module")
def bundle(folder: str) -> Bundle:
    return bertjax.load(folder, mesh=MeshConfig(data=1))


def expected(bundle: Bundle, tokens: list[str]) -> np.ndarray:
    """The model's distribution at every [MASK] of a row."""
    row = np.array([[VOCABULARY.index(token) for token in tokens]])
    logits = np.asarray(bundle.outputs(row)["mlm"], np.float64)[0, :, : len(VOCABULARY)]
    odds = np.exp(logits - logits.max(-1, keepdims=True))
    return (odds / odds.sum(-1, keepdims=True))[[i for i, token in enumerate(tokens) if token == "[MASK]"]]


def test_several_gaps(bundle: Bundle) -> None:
    text = "A [MASK] cd  [MASK]e."
    (found,) = fill_mask(bundle, [text], top=3, options=OPTIONS)
    wanted = expected(bundle, ["[CLS]", "a", "[MASK]", "c", "##d", "[MASK]", "e", "[UNK]", "[SEP]"])
    assert [text[gap["start"] : gap["end"]] for gap in found["masks"]] == ["[MASK]", "[MASK]"]
    for gap, spread in zip(found["masks"], wanted, strict=True):
        best = np.argsort(-spread)[:3]
        assert [one["token"] for one in gap["candidates"]] == [VOCABULARY[i] for i in best]
        np.testing.assert_allclose([one["probability"] for one in gap["candidates"]], spread[best], atol=1e-5)


@pytest.mark.parametrize("order", ["left_to_right", "surest_first"])
def test_gaps_that_know_of_each_other(bundle: Bundle, order: Order) -> None:
    """By hand, a pass for each gap; and beside a text with another number of them."""
    texts = ["a [MASK] cd [MASK] [MASK] e", "[MASK]b", "[MASK]" * 9]
    row = ["[CLS]", "a", "[MASK]", "c", "##d", "[MASK]", "[MASK]", "e", "[SEP]"]
    left, chosen, product = [2, 5, 6], {}, 1.0
    while left:
        spreads = expected(bundle, row)
        turn = 0 if order == "left_to_right" else int(spreads.max(-1).argmax())
        place, best = left.pop(turn), int(spreads[turn].argmax())
        chosen[place], product = VOCABULARY[best], product * spreads[turn].max()
        row[place] = VOCABULARY[best]
    found, other = fill_mask(bundle, texts[:2], top=2, order=order, options=OPTIONS)
    assert [gap["candidates"][0]["token"] for gap in found["masks"]] == [chosen[at] for at in (2, 5, 6)]
    assert found["probability"] == pytest.approx(product, rel=1e-4)
    alone, alike = fill_mask(bundle, texts[:2], top=2, options=OPTIONS)
    assert other == {**alike, "probability": pytest.approx(alike["masks"][0]["candidates"][0]["probability"])}
    firsts = [[gap["candidates"][0]["probability"] for gap in one["masks"]] for one in (found, alone)]
    assert np.abs(np.subtract(*firsts)).max() > 1e-3 and "probability" not in alone
    with refused(f"the text has 9 gaps and order={order} fills at most 8"):
        fill_mask(bundle, texts, order=order, options=OPTIONS)


def test_the_filled_text(bundle: Bundle) -> None:
    """A token that continues a word stands behind it without a space."""
    text = "x [MASK] , [MASK]b"
    (found,) = fill_mask(bundle, [text], options=OPTIONS)
    work = engine(FillMask(), bundle, OPTIONS).work
    assert isinstance(work, Filling)
    best = [VOCABULARY.index(gap["candidates"][0]["token"]) for gap in found["masks"]]
    assert found["text"] == work._filled(text, found["masks"], best)
    number = VOCABULARY.index
    assert work._filled(text, found["masks"], [number("##d"), number("f")]) == "xd , fb"
    assert work._filled(text, found["masks"], [number("d"), number("##f")]) == "x d ,fb"
    assert work._filled(text, found["masks"], [number("[SEP]"), number("a")]) == "x [SEP] , ab"


def test_more_gaps_than_a_step_holds(bundle: Bundle) -> None:
    (found,) = fill_mask(bundle, ["[MASK] a " * 3 + "[MASK]" * 7], top=1, options=OPTIONS)
    wanted = expected(bundle, ["[CLS]", *["[MASK]", "a"] * 3, *["[MASK]"] * 7, "[SEP]"])
    assert [gap["start"] for gap in found["masks"]] == [0, 9, 18, *range(27, 69, 6)]
    np.testing.assert_allclose(
        [gap["candidates"][0]["probability"] for gap in found["masks"]], wanted.max(-1), atol=1e-5
    )


def test_a_long_text_is_read_around_its_gaps(bundle: Bundle) -> None:
    (found,) = fill_mask(bundle, ["a " * 50 + "[MASK]" + " b" * 50], top=1, options=OPTIONS)
    wanted = expected(bundle, ["[CLS]", *"aaaaaaa", "[MASK]", *"bbbbbbbb", "[SEP]"])
    assert found["warning"] == "the text has 101 tokens and only 16 around the gaps were read"
    assert found["masks"][0]["start"] == 100
    assert found["masks"][0]["candidates"][0]["probability"] == pytest.approx(wanted.max(), abs=1e-5)
    with refused(
        "record 2: the text has 102 tokens, 102 from the first gap to the last, and the model reads 16"
    ):
        fill_mask(bundle, ["[MASK]", "[MASK]" + " b" * 100 + " [MASK]"], options=OPTIONS)
    with refused("record 1: nothing to fill in ''"):
        fill_mask(bundle, [""], options=OPTIONS)


def test_perplexity(bundle: Bundle) -> None:
    """Against a loop over the model's own outputs, one masked row at a time."""
    texts = ["a b cd", "", "?? e", "fgh " * 9, "abc " * 5]  # the last two have 27 and 15 tokens, and a row 16
    found = perplexity(bundle, texts, tokens=True, options=OPTIONS)
    for text, answer in zip(texts, found, strict=True):
        (row,) = bundle.tokenize([text], length=99).tokens
        first, *inner, last = row[row != bundle.vocabulary.pad].tolist()
        logs = []
        for place, token in enumerate(inner):
            # Of 16 tokens there are eight before it, unless the text begins or ends nearer.
            start = max(min(place - 8, len(inner) - 16), 0)
            names = bundle.tokenizer.tokens([first, *inner[start : start + 16], last])
            names[1 + place - start] = "[MASK]"
            logs.append(np.log(expected(bundle, names)[0][token]))
        assert answer["tokens"] == len(logs)
        np.testing.assert_allclose([one["log_probability"] for one in answer["each"]], logs, atol=1e-4)
        assert answer["pll"] == pytest.approx(np.sum(logs), abs=1e-3)
        if logs:
            assert answer["perplexity"] == pytest.approx(np.exp(-np.mean(logs)), rel=1e-4)
    assert found[1] == {"pll": 0.0, "tokens": 0, "perplexity": None, "each": []}
    assert [texts[0][one["start"] : one["end"]] for one in found[0]["each"]] == ["a", "b", "c", "d"]
    assert [one["tokens"] for one in found[3:]] == [27, 15]
    (cut,) = run(Perplexity(characters=5), bundle, [{"text": "a b cd"}], OPTIONS)
    assert cut["tokens"] == 3 and "only the first 5 were read" in cut["warning"]
    assert "each" not in perplexity(bundle, ["a"], options=OPTIONS)[0]


def test_devices_and_batches_do_not_matter(folder: str, bundle: Bundle) -> None:
    """Eight devices, and batches of other sizes and lengths: the same answers in the same order."""
    texts = [f"{'abcdefgh'[i % 8]} " * (1 + 5 * i % 13) for i in range(29)]
    wanted = perplexity(bundle, texts, options=OPTIONS)
    eight = bertjax.load(folder, mesh=MeshConfig(data=8))
    for other, options in ((eight, RunOptions(batch=1, shapes=1, window=1)), (bundle, RunOptions(batch=40))):
        found = perplexity(other, texts, options=options)
        for one, two in zip(found, wanted, strict=True):
            assert one["pll"] == pytest.approx(two["pll"], rel=1e-5) and one["tokens"] == two["tokens"]


def test_few_programs_are_compiled(bundle: Bundle) -> None:
    """Every window has the same shapes, and a second call compiles nothing."""
    texts = [f"{'a ' * number}[MASK]" for number in range(1, 16)]
    options = RunOptions(batch=2, shapes=3, window=2)
    fill_mask(bundle, texts, options=options)
    step = engine(FillMask(), bundle, options)._step
    assert step._cache_size() <= 3
    before = step._cache_size()
    fill_mask(bundle, texts, options=options)
    assert engine(FillMask(), bundle, options)._step._cache_size() == before


@pytest.mark.parametrize(
    "length, number, wanted",
    [
        (512, 4, (64, 128, 256, 512)),
        (18, 2, (16, 18)),
        (40, 9, (8, 16, 24, 40)),
        (8, 4, (8,)),
        (7, 3, (7,)),
        (100, 1, (100,)),
    ],
)
def test_lengths_of_batches(length: int, number: int, wanted: tuple[int, ...]) -> None:
    assert ladder(length, number) == wanted


def test_memory_is_bounded(bundle: Bundle) -> None:
    """No more than two windows of lines are taken before the first answers come."""
    taken = [0]

    def lines() -> Iterator[Line]:
        for number in range(1, 500):
            taken[0] = number
            yield Line(number, {"text": "a [MASK]"} if number % 3 else {})

    answers = engine(FillMask(), bundle, OPTIONS).run(lines())
    first = next(answers)
    assert [told.line.number for told in first] == list(range(1, len(first) + 1)) and len(first) < 12
    answers.close()
    assert taken[0] < 40


def test_rows_of_another_length(bundle: Bundle) -> None:
    (found,) = fill_mask(bundle, ["a " * 20 + "[MASK]"], options=RunOptions(batch=3, length=9))
    assert "only 7 around the gaps" in found["warning"]
    with refused("length=19: this model reads rows of 8 to 18 tokens"):
        perplexity(bundle, ["a"], options=RunOptions(length=19))
