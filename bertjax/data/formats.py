"""The input formats by name: how text becomes rows.

padded          one document a row, padded                                      bertjax/data/singles.py
full_sentences  whole sentences, across documents (RoBERTa)                     bertjax/data/singles.py
doc_sentences   whole sentences of one document (RoBERTa)                       bertjax/data/singles.py
segment_pair    two runs of sentences, with NSP or SOP labels (BERT, ALBERT)    bertjax/data/pairs.py
sentence_pair   two sentences, with NSP or SOP labels (RoBERTa)                 bertjax/data/pairs.py
best_fit        several documents a row, none of which sees another             bertjax/data/packing.py
"""

from bertjax.data.examples import Examples, Format
from bertjax.data.packing import BestFit
from bertjax.data.pairs import SegmentPair, SentencePair
from bertjax.data.singles import DocSentences, FullSentences, Padded

__all__ = ["FORMATS", "Examples", "Format"]

FORMATS: dict[str, Format] = {
    "padded": Padded(),
    "full_sentences": FullSentences(),
    "doc_sentences": DocSentences(),
    "segment_pair": SegmentPair(),
    "sentence_pair": SentencePair(),
    "best_fit": BestFit(),
}
