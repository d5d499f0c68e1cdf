"""Words of running text: what is one, and that nothing but white space lies between them."""

import random

import pytest

from bertjax.predict.words import words_of

CASES = {
    "Marie Curie, 1867.": ["Marie", "Curie", ",", "1867", "."],
    "  don't  e-mail\tsnake_case": ["don", "'", "t", "e", "-", "mail", "snake_case"],
    "cafe\u0301 naïve": ["cafe\u0301", "naïve"],
    "北京は2024年": ["北", "京", "は", "2024", "年"],
    "हिन्दी भाषा": ["हिन्दी", "भाषा"],
    "한국어 문장": ["한국어", "문장"],
    "I ❤️ it👩‍🚀!": ["I", "❤️", "it", "👩‍", "🚀", "!"],
    "co\u00adoperate": ["co\u00adoperate"],
    "\u0301x": ["\u0301x"],
    "": [],
    " \n\u3000": [],
}


@pytest.mark.parametrize("text", CASES)
def test_words(text: str) -> None:
    assert [text[start:end] for start, end in words_of(text)] == CASES[text]


def test_only_white_space_is_left_out() -> None:
    draw = random.Random(0)
    for _ in range(300):
        text = "".join(
            draw.choice("aZ9_ \n,-。北き한\u0301\u200d👩é\u3000") for _ in range(draw.randint(0, 12))
        )
        ends = [0, *(edge for place in words_of(text) for edge in place), len(text)]
        assert ends == sorted(ends) and all(start < end for start, end in words_of(text))
        between = zip(ends[::2], ends[1::2], strict=True)
        assert all(not text[start:end].strip() for start, end in between)
