"""From the names of corpora and a format to rows.

corpora/wiki               a folder written by `python -m bertjax prepare`
corpora/en,corpora/de      several, mixed
synthetic, synthetic:1     one that is made up in memory, and another one
"""

import os
from collections.abc import Sequence

from bertjax.data.corpus import Vocabulary, open_corpus
from bertjax.data.examples import Documents, Examples, Format
from bertjax.data.mixture import Mixture
from bertjax.data.synthetic import SyntheticCorpus

SYNTHETIC = "synthetic"
_DOCUMENTS = {"train": 2000, "heldout": 200}


def corpus_names(corpora: str) -> list[str]:
    """The single names in what may name several with commas between; a folder may have a comma in its own."""
    if os.path.isdir(corpora):
        return [corpora]
    return [name.strip() for name in corpora.split(",") if name.strip()]


def open_documents(corpora: str, split: str, vocab: int) -> Documents:
    """One split of a prepared corpus, or of one that is made up over `vocab` tokens; of several the first."""
    corpus = corpus_names(corpora)[0]
    kind, _, number = corpus.partition(":")
    if kind == SYNTHETIC and (number.isdigit() or number == ""):
        seed = len(_DOCUMENTS) * int(number or 0) + list(_DOCUMENTS).index(split)
        return SyntheticCorpus(_DOCUMENTS[split], vocab, seed=seed)
    return open_corpus(corpus, split)


def open_examples(
    corpora: str,
    split: str,
    *,
    format: Format,
    length: int,
    seed: int,
    vocab: int,
    weights: Sequence[float] = (),
    temperature: float = 1.0,
) -> Examples:
    """The rows of one split; of several corpora mixed by weights, or by their sizes where there are none."""
    names = corpus_names(corpora)
    rows = {name: format.examples(open_documents(name, split, vocab), length, seed) for name in names}
    if len(names) == 1:
        return rows[names[0]]
    given = dict(zip(names, weights, strict=True)) if weights else None
    return Mixture(rows, weights=given, temperature=temperature)


def open_vocabulary(corpora: str, vocab: int) -> Vocabulary:
    """What training needs to know of the tokenizer."""
    return open_documents(corpora, "train", vocab).vocabulary
