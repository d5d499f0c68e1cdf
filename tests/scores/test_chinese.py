"""CMRC's exact match and F1: by hand, and against a table of common runs filled cell by cell."""

import random
import re

import pytest
from nltk.tokenize import NLTKWordTokenizer

from bertjax.scores import chinese

PIECES = [*"北京大学的中文，。…“、-. %\n", "1998", "3.5", "1,000", "Abc", "don't"]


def text(draw: random.Random) -> str:
    return "".join(draw.choices(PIECES, k=draw.randint(1, 8)))


def plain_tokens(value: str) -> list[str]:
    dropped = "-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』"
    kept = "".join(letter for letter in value.lower().strip() if letter not in dropped)
    found: list[str] = []
    for chinese_letter, other in re.findall("([\u4e00-\u9fa5])|([^\u4e00-\u9fa5]+)", kept):
        found += [chinese_letter] if chinese_letter else NLTKWordTokenizer().tokenize(other)
    return found


def plain_f1(prediction: str, answer: str) -> float:
    found, wanted = plain_tokens(prediction), plain_tokens(answer)
    table = [[0] * (len(wanted) + 1) for _ in range(len(found) + 1)]
    for i, one in enumerate(found):
        for j, other in enumerate(wanted):
            table[i + 1][j + 1] = table[i][j] + 1 if one == other else 0
    run = max(max(row) for row in table)
    if run == 0:
        return 0.0
    precision, recall = run / len(found), run / len(wanted)
    return 2 * precision * recall / (precision + recall)


def test_against_a_plain_implementation() -> None:
    draw = random.Random(0)
    tokenize = NLTKWordTokenizer().tokenize
    for _ in range(2000):
        prediction, answer = text(draw), text(draw)
        if draw.random() < 0.3:
            prediction = answer + prediction
        assert chinese.f1(prediction, answer, tokenize=tokenize) == pytest.approx(
            plain_f1(prediction, answer)
        )


def test_by_hand() -> None:
    assert chinese.tokens("《北京》1998年,ABC def3.5%") == [
        *"北京",
        "1998",
        "年",
        ",",
        "abc",
        "def3",
        ".",
        "5",
        "%",
    ]
    assert chinese.tokens("3.5 1,000. x") == ["3.5", "1,000", ".", "x"]
    assert chinese.f1("在北京大学", "北京大学。") == pytest.approx(2 * 4 / (5 + 4))
    assert chinese.f1("北大京学", "北京大学") == pytest.approx(
        2 * 1 / 8
    )  # a run, not a subsequence and not a bag
    assert chinese.f1("上海", "北京") == chinese.f1("", "北京") == chinese.f1("，", "，") == 0.0
    assert chinese.exact(" “北京”，ABC", "北京abc") == 1.0 and chinese.exact("北京…", "北京") == 0.0
    assert chinese.exact("", "。") == 1.0


def test_the_set() -> None:
    found = chinese.score(
        {"a": "北京", "b": "大学"}, {"a": ["上海", "北京。"], "b": ["北京大学"], "c": ["x"]}
    )
    assert found["exact"] == pytest.approx(1 / 3) and found["f1"] == pytest.approx((1 + 4 / 6) / 3)
    assert found["average"] == pytest.approx((found["exact"] + found["f1"]) / 2) and found["missing"] == 1
    assert "missing" not in chinese.score({"a": "x"}, {"a": ["x"]})


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="0 questions have no score"):
        chinese.score({}, {})
    with pytest.raises(ValueError, match="the answers to 'a' are '北京': give a list"):
        chinese.score({"a": "北京"}, {"a": "北京"})
    with pytest.raises(ValueError, match=r"the answers to 'a' are \[\]"):
        chinese.score({"a": "北京"}, {"a": []})
