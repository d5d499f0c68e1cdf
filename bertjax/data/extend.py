"""Extending a WordPiece vocabulary by whole words of other text, so that old weights can go on with it.

    python -m bertjax tokenizer --extend=runs/bert --input='papers/*.txt' --vocab=32522 --out=tokenizers/papers

Old tokens keep their numbers; new words come after them. Added are the words that save most tokens, count times
(pieces - 1) with the pieces of the old tokenizer (a word unknown to it counts as two), among those with a letter that
occur `min_frequency` times or more.

A new word is matched as a whole only, before WordPiece looks at the text: "gene" leaves "genetics" as it was, which a
line more in a vocab.txt would not (WordPiece takes the longest beginning it knows). So a text without new words has the
tokens it had. What surrounds a word is judged by letters, digits and the underscore: in "gene_x" it is not found.
"""

import collections
from collections.abc import Iterable

from bertjax.data.fast_tokenizer import FastTokenizer
from bertjax.data.subword import Tokenizer

__all__ = ["extend"]


def extend(old: Tokenizer, text: Iterable[str], vocab: int, min_frequency: int) -> Tokenizer:
    """A tokenizer of `vocab` tokens, or of fewer where the text has not so many new words."""
    assert isinstance(old, FastTokenizer) and old.kind == "wordpiece"
    from tokenizers import AddedToken
    from tokenizers import Tokenizer as Fast

    words = new_words(old, text, min_frequency)[: vocab - old.vocabulary.size]
    fast = Fast.from_str(old.files["tokenizer.json"].decode())
    fast.add_tokens([AddedToken(word, single_word=True, normalized=True, special=False) for word in words])
    return FastTokenizer({"tokenizer.json": fast.to_str(pretty=True).encode()})


def new_words(old: FastTokenizer, text: Iterable[str], min_frequency: int) -> list[str]:
    """Words that the old tokenizer takes apart or does not know, those that save most tokens first."""
    # Normalising is slow, and words come again and again: it sees every one of them once.
    chunks = collections.Counter(chunk for document in text for chunk in document.split())
    counts: collections.Counter[str] = collections.Counter()
    for chunk, count in chunks.items():
        for word, _ in old.fast.pre_tokenizer.pre_tokenize_str(old.fast.normalizer.normalize_str(chunk)):
            counts[word] += count
    words = [
        word
        for word, count in counts.items()
        if count >= min_frequency and any(map(str.isalpha, word)) and old.token(word) is None
    ]
    pieces = old.encode_batch(words)
    saved = {word: counts[word] * max(len(tokens) - 1, 1) for word, tokens in zip(words, pieces, strict=True)}
    return sorted(words, key=lambda word: (-saved[word], word))
