"""Using a trained model. Every function takes a bundle and texts, and gives plain Python values."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bertjax.bundle import Bundle
from bertjax.types import Batch

MASK = "[MASK]"


@dataclasses.dataclass(frozen=True)
class Filled:
    """What a model would write into one gap: tokens with their probabilities, best first, and the whole text."""

    candidates: tuple[tuple[str, float], ...]
    text: str


def fill_mask(bundle: Bundle, texts: Sequence[str], *, top: int = 5) -> list[list[Filled]]:
    """The likeliest tokens at every [MASK] of every text; several gaps of one text are judged independently."""
    if "mlm" not in bundle.model.heads:
        raise ValueError(
            f"this model has no masked-LM head: its tasks are {', '.join(t.name for t in bundle.config.tasks)}"
        )
    if bundle.tokenizer is None:
        raise ValueError("this model has no tokenizer: its corpus was made up")
    vocabulary = bundle.tokenizer.vocabulary
    rows = [_with_masks(bundle, text) for text in texts]
    probabilities = _mlm_probabilities(bundle, rows)
    results = []
    for text, row, distribution in zip(texts, rows, probabilities, strict=True):
        filled = []
        for gap, where in enumerate(np.flatnonzero(row == vocabulary.mask)):
            best = np.argsort(-distribution[where])[:top]
            words = bundle.tokenizer.tokens(best)
            filled.append(
                Filled(
                    tuple((word, float(distribution[where, i])) for word, i in zip(words, best, strict=True)),
                    _replace_mask(text, gap, words[0]),
                )
            )
        results.append(filled)
    return results


def _with_masks(bundle: Bundle, text: str) -> np.ndarray:
    """[CLS] text [SEP] with the mask token at every literal [MASK]."""
    vocabulary, length = bundle.tokenizer.vocabulary, bundle.config.data.length
    if MASK not in text:
        raise ValueError(f"nothing to fill in {text[:60]!r}: write {MASK} where a word is missing")
    parts = bundle.tokenizer.encode_batch([part.strip() for part in text.split(MASK)])
    ids = [vocabulary.cls, *parts[0]]
    for part in parts[1:]:
        ids += [vocabulary.mask, *part]
    ids.append(vocabulary.sep)
    if len(ids) > length:
        raise ValueError(
            f"the text {text[:60]!r}... has {len(ids)} tokens and the model reads {length}: shorten it"
        )
    return np.array(ids, np.int32)


def _replace_mask(text: str, gap: int, word: str) -> str:
    parts = text.split(MASK)
    return MASK.join(parts[: gap + 1]) + word + MASK.join(["", *parts[gap + 1 :]])[len(MASK) :]


def _mlm_probabilities(bundle: Bundle, rows: Sequence[np.ndarray]) -> list[np.ndarray]:
    """[L V] for every row, computed in batches of one row a device and of one shape."""
    vocabulary, size, length = bundle.tokenizer.vocabulary, bundle.replicas, bundle.config.data.length

    def run(params: object, tokens: jax.Array, mask: jax.Array) -> jax.Array:
        zeros, positions = jnp.zeros_like(tokens), jnp.broadcast_to(jnp.arange(length), tokens.shape)
        row = jnp.arange(size)
        batch = Batch(tokens, mask, zeros, positions, None, {}, example_id=row, epoch=jnp.zeros_like(row))
        logits = bundle.model.apply({"params": params}, batch, train=False)["mlm"]
        return jax.nn.softmax(logits[..., : vocabulary.size])

    results: list[np.ndarray] = []
    with bundle.active():
        compiled = jax.jit(run)
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            tokens = np.full((size, length), vocabulary.pad, np.int32)
            for i, row in enumerate(chunk):
                tokens[i, : len(row)] = row
            mask = (
                np.arange(length)[None, :]
                < np.array([len(r) for r in chunk] + [0] * (size - len(chunk)))[:, None]
            )
            out = np.asarray(compiled(bundle.params, tokens, mask))
            results += [out[i, : len(row)] for i, row in enumerate(chunk)]
    return results
