"""Using a trained model: a bundle and texts in, plain Python values out. One file a use, one line each below.

    bundle = bertjax.load("runs/quickstart")
    fill_mask(bundle, ["The [MASK] is empty."], top=3)
    perplexity(bundle, ["The list is empty.", "The list are empty."])

The same from a command line, over files of any size: `python -m bertjax predict KIND --help`. What a pipeline can do
besides, `run(Classify(stride=16), bundle, records)` does.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from bertjax.bundle import Bundle
from bertjax.models.task_heads import Pooling
from bertjax.predict.answering import FindAnswer
from bertjax.predict.base import Answer, Pipeline
from bertjax.predict.classes import Classify
from bertjax.predict.comparing import Rerank, Similar
from bertjax.predict.filling import FillMask, Order
from bertjax.predict.likelihood import Perplexity
from bertjax.predict.run import RunOptions, run
from bertjax.predict.tagging import Tag
from bertjax.predict.vectors import Embed
from bertjax.predict.writing import Generate, Translate

__all__ = [
    "PIPELINES",
    "Classify",
    "Embed",
    "FillMask",
    "FindAnswer",
    "Generate",
    "Perplexity",
    "Pipeline",
    "Rerank",
    "RunOptions",
    "Similar",
    "Tag",
    "Translate",
    "answer",
    "classify",
    "embed",
    "fill_mask",
    "generate",
    "perplexity",
    "rerank",
    "run",
    "similar",
    "tag",
    "translate",
]

PIPELINES: dict[str, Pipeline] = {
    "fill-mask": FillMask(),
    "classify": Classify(),
    "tag": Tag(),
    "answer": FindAnswer(),
    "embed": Embed(),
    "similar": Similar(),
    "rerank": Rerank(),
    "perplexity": Perplexity(),
    "translate": Translate(),
    "generate": Generate(),
}


def fill_mask(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    top: int = 5,
    order: Order = "at_once",
    options: RunOptions | None = None,
) -> list[Answer]:
    """The likeliest tokens at every [MASK] of every text; `order` says what gaps of one text know of each other."""
    return run(FillMask(top=top, order=order), bundle, ({"text": text} for text in texts), options)


def classify(
    bundle: Bundle,
    texts: Sequence[str | tuple[str, str]],
    *,
    top: int | None = None,
    options: RunOptions | None = None,
) -> list[Answer]:
    """The class of every text, or pair of texts, and the probabilities of all."""
    records = [
        {"text": text[0], "pair": text[1]} if isinstance(text, tuple) else {"text": text} for text in texts
    ]
    return run(Classify(top=top), bundle, records, options)


def tag(
    bundle: Bundle, texts: Sequence[str | list[str]], *, options: RunOptions | None = None
) -> list[Answer]:
    """The entities of every text, or of every list of words, with their places."""
    records = [{"words" if isinstance(text, list) else "text": text} for text in texts]
    return run(Tag(), bundle, records, options)


def answer(
    bundle: Bundle, questions: Sequence[tuple[str, str]], *, top: int = 3, options: RunOptions | None = None
) -> list[Answer]:
    """The answer to every (question, context), by its place in the context."""
    records = ({"question": question, "context": context} for question, context in questions)
    return run(FindAnswer(top=top), bundle, records, options)


def embed(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    pooling: Pooling | None = None,
    normalise: bool | None = None,
    options: RunOptions | None = None,
) -> np.ndarray:
    """A vector of every text, [texts D] in float32."""
    pipeline = Embed(pooling=pooling, normalise=normalise)
    found = run(pipeline, bundle, ({"text": text} for text in texts), options)
    if not found:
        return np.zeros((0, bundle.config.model.width), np.float32)
    return np.stack([one["embedding"] for one in found])


def similar(
    bundle: Bundle,
    pairs: Sequence[tuple[str, str]],
    *,
    label: str | None = None,
    pooling: Pooling | None = None,
    options: RunOptions | None = None,
) -> list[float]:
    """How alike the texts of every pair are."""
    records = ({"text": text, "pair": pair} for text, pair in pairs)
    found = run(Similar(label=label, pooling=pooling), bundle, records, options)
    return [one["similarity"] for one in found]


def rerank(
    bundle: Bundle,
    query: str,
    candidates: Sequence[str],
    *,
    top: int | None = None,
    label: str | None = None,
    pooling: Pooling | None = None,
    options: RunOptions | None = None,
) -> list[Answer]:
    """The candidates in the order in which they go with the query, best first, with their scores."""
    records = [{"query": query, "candidates": list(candidates)}]
    (found,) = run(Rerank(top=top, label=label, pooling=pooling), bundle, records, options)
    ranking: list[Answer] = found["ranking"]
    return ranking


def perplexity(
    bundle: Bundle, texts: Sequence[str], *, tokens: bool = False, options: RunOptions | None = None
) -> list[Answer]:
    """The pseudo-log-likelihood and the perplexity of every text."""
    return run(Perplexity(tokens=tokens), bundle, ({"text": text} for text in texts), options)


def translate(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    search: Literal["greedy", "beam", "sample"] | None = None,
    options: RunOptions | None = None,
) -> list[Answer]:
    """What a decoder writes about every text, with the probability of it."""
    return run(Translate(search=search), bundle, ({"text": text} for text in texts), options)


def generate(
    bundle: Bundle,
    texts: Sequence[str],
    *,
    search: Literal["greedy", "sample"] | None = None,
    tokens: int | None = None,
    seed: int = 0,
    options: RunOptions | None = None,
) -> list[Answer]:
    """How every text goes on, or what a decoder writes about it, by chance."""
    pipeline = Generate(search=search, tokens=tokens, seed=seed)
    return run(pipeline, bundle, ({"text": text} for text in texts), options)
