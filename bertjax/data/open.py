"""From the name of a corpus and a format to rows."""

from bertjax.data.corpus import Vocabulary, open_corpus
from bertjax.data.examples import Documents, Examples, Format
from bertjax.data.synthetic import SyntheticCorpus

SYNTHETIC = "synthetic"
_DOCUMENTS = {"train": 2000, "heldout": 200}


def open_documents(corpus: str, split: str, vocab: int) -> Documents:
    """One split of a prepared corpus, or of the one that is made up over `vocab` tokens."""
    if corpus == SYNTHETIC:
        return SyntheticCorpus(_DOCUMENTS[split], vocab, seed=list(_DOCUMENTS).index(split))
    return open_corpus(corpus, split)


def open_examples(corpus: str, split: str, *, format: Format, length: int, seed: int, vocab: int) -> Examples:
    """The rows of one split."""
    return format.examples(open_documents(corpus, split, vocab), length, seed)


def open_vocabulary(corpus: str, vocab: int) -> Vocabulary:
    """What training needs to know of the corpus's tokenizer."""
    return open_documents(corpus, "train", vocab).vocabulary
