"""Records out of a random generator for every kind of labelled task, and a tokenizer for them: for smoke runs, tests.

A text is a run of made-up words. What there is to learn is visible in it: the topic of a text by its words, a number by
how many words of the second text are of the first topic, similarity by the words that two texts share, names by their
first syllable, the answer to a question by the word before it, and a translation has the words in reverse, each with
another consonant.
"""

import random
from collections.abc import Callable
from typing import Any

from bertjax.data.fast_tokenizer import FastTokenizer, wordpiece_json
from bertjax.data.labelled.split import Split

__all__ = ["SIZES", "make_up", "tokenizer"]

SIZES = {"train": 400, "heldout": 100, "test": 20}
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
ONSETS, RIMES = (
    ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z"),
    ("a", "e", "i", "o", "u", "an", "el"),
)
WORDS = tuple(onset + rime for onset in ONSETS for rime in RIMES)  # 98
NAMES = {
    "PER": tuple(f"{first}{second}" for first in ("kor", "mir") for second in ("da", "po", "shi")),
    "LOC": tuple(f"{first}{second}" for first in ("tas", "vin") for second in ("da", "po", "shi")),
}
TOPICS = 4

Make = Callable[[random.Random], dict[str, Any]]


def tokenizer() -> FastTokenizer:
    """WordPiece with one token for each made-up word but for names, which have two or more."""
    pieces = ["da", "po", "shi", *LETTERS]
    tokens = [
        *SPECIAL,
        *dict.fromkeys([*WORDS, "kor", "mir", "tas", "vin", "where", "is", "near", *LETTERS]),
    ]
    tokens += [f"##{piece}" for piece in pieces]
    numbered = {token: number for number, token in enumerate(tokens)}
    return FastTokenizer({"tokenizer.json": wordpiece_json(numbered, lowercase=True).encode()})


def make_up(kind: str, which: str) -> Split:
    """The records of a split for one kind of task."""
    make = MAKERS[kind]
    draws = random.Random(f"{kind} {which}")
    records = [make(draws) for _ in range(SIZES[which])]
    return Split(f"synthetic {which}", {name: [record[name] for record in records] for name in records[0]})


def _words(draws: random.Random, least: int, most: int, topic: int | None = None) -> list[str]:
    size = len(WORDS) // TOPICS
    pool = WORDS if topic is None else WORDS[topic * size : (topic + 1) * size]
    return [draws.choice(pool) for _ in range(draws.randint(least, most))]


def _topic(draws: random.Random) -> dict[str, Any]:
    topic = draws.randrange(TOPICS)
    words = _words(draws, 2, 8, topic) + _words(draws, 0, 4)
    draws.shuffle(words)
    return {"text": " ".join(words), "label": f"topic{topic}"}


def _topics(draws: random.Random) -> dict[str, Any]:
    chosen = sorted(draws.sample(range(TOPICS), draws.randint(0, 2)))
    words = [word for topic in chosen for word in _words(draws, 3, 5, topic)] or ["where"]
    draws.shuffle(words)
    return {"text": " ".join(words), "label": [f"topic{topic}" for topic in chosen]}


def _number(draws: random.Random) -> dict[str, Any]:
    words = _words(draws, 6, 6)
    of_topic = sum(word in WORDS[: len(WORDS) // TOPICS] for word in words)
    return {"text": " ".join(_words(draws, 1, 4)), "pair": " ".join(words), "label": float(of_topic)}


def _similarity(draws: random.Random) -> dict[str, Any]:
    first = _words(draws, 5, 5)
    kept = draws.randint(0, 5)
    second = first[:kept] + _words(draws, 5 - kept, 5 - kept)
    draws.shuffle(second)
    return {"text": " ".join(first), "pair": " ".join(second), "label": float(kept)}


def _names(draws: random.Random) -> dict[str, Any]:
    words, tags = [], []
    for word in _words(draws, 3, 8):
        words.append(word)
        tags.append("O")
        if draws.random() < 0.3:
            kind = draws.choice(list(NAMES))
            number = 1 if draws.random() < 0.8 else 2
            words += [draws.choice(NAMES[kind]) for _ in range(number)]
            tags += [f"B-{kind}", *[f"I-{kind}"] * (number - 1)]
    return {"words": words, "tags": tags}


def _question(draws: random.Random) -> dict[str, Any]:
    before, after, answer = _words(draws, 1, 6), _words(draws, 1, 6), draws.choice(NAMES["LOC"])
    answers, starts = [answer], [len(" ".join([*before, "near", ""]))]
    middle = ["near", answer]
    if draws.random() < 0.25:
        answers, starts, middle = [], [], []
    number = draws.getrandbits(40)
    context = " ".join([*before, *middle, *after])
    return {
        "id": f"{number:x}",
        "question": "where is",
        "context": context,
        "answers": answers,
        "starts": starts,
    }


def _choice(draws: random.Random) -> dict[str, Any]:
    topics = draws.sample(range(TOPICS), 3)
    right = draws.randrange(3)
    choices = [" ".join(_words(draws, 3, 6, topic)) for topic in topics]
    return {"text": " ".join(_words(draws, 3, 6, topics[right])), "choices": choices, "label": right}


def _option(draws: random.Random) -> dict[str, Any]:
    """An option of one of few questions: right where it is of the topic that the question is of."""
    question, topics = draws.randrange(30), [draws.randrange(TOPICS) for _ in range(2)]
    topics[1] = topics[0] if draws.random() < 0.4 else topics[1]
    option = " ".join(_words(draws, 3, 5, topics[1]))
    return {
        "text": " ".join(_words(draws, 3, 6, topics[0])),
        "pair": option,
        "option": option,
        "answers": [option] if topics[0] == topics[1] else ["where"],
        "group": f"question {question}",
        "label": str(topics[0] == topics[1]).lower(),
    }


def _translation(draws: random.Random) -> dict[str, Any]:
    words = [draws.choice(WORDS[: len(ONSETS)]) for _ in range(draws.randint(1, 4))]
    others = dict(zip(ONSETS, (*ONSETS[1:], ONSETS[0]), strict=True))
    return {
        "text": " ".join(words),
        "target": " ".join(others[word[0]] + word[1:] for word in reversed(words)),
    }


MAKERS: dict[str, Make] = {
    "classify": _topic,
    "several": _topics,
    "regress": _number,
    "embed": _similarity,
    "tag": _names,
    "answer": _question,
    "choose": _choice,
    "judge": _option,
    "translate": _translation,
}
