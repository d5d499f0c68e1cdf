from collections.abc import Iterator

import numpy as np
import pytest

from bertjax.data.synthetic import SyntheticCorpus


@pytest.fixture(scope="module")
def synthetic() -> Iterator[SyntheticCorpus]:
    yield SyntheticCorpus(400, 101, seed=9)


def test_the_synthetic_corpus_is_a_corpus(synthetic: SyntheticCorpus) -> None:
    assert synthetic.documents == 400 and synthetic.sentence_offsets[-1] == synthetic.tokens
    assert synthetic.document_offsets[-1] == synthetic.sentences
    text = synthetic.read(0, synthetic.tokens)
    assert text.dtype == np.int32 and text.min() == 5 and text.max() < 101
    assert not synthetic.vocabulary.special[text].any()
    again, other = SyntheticCorpus(400, 101, seed=9), SyntheticCorpus(400, 101, seed=8)
    assert again.digest == synthetic.digest != other.digest
    assert np.array_equal(again.read(0, again.tokens), text)
    assert np.array_equal(
        synthetic.word_starts(7, 50), synthetic.vocabulary.starts_word[synthetic.read(7, 50)]
    )
    with pytest.raises(ValueError, match="vocab=20 is too small: set documents=1 and vocab=21 or more"):
        SyntheticCorpus(1, 20, 0)


def test_the_synthetic_corpus_has_something_to_learn(synthetic: SyntheticCorpus) -> None:
    text = synthetic.read(0, synthetic.tokens)
    pairs = np.zeros((101, 101))
    np.add.at(pairs, (text[:-1], text[1:]), 1)
    assert pairs.max(1).sum() / pairs.sum() > 0.45  # the best guess from the token before
    assert np.bincount(text).max() / text.size < 0.15  # the best guess from nothing
    bounds = synthetic.sentence_offsets[synthetic.document_offsets]
    histograms = np.array([np.bincount(part, minlength=101) for part in np.split(text, bounds[1:-1])])
    rare = histograms[:, 5 + 20 :]  # beyond the tokens that are everywhere, documents differ
    overlap = np.corrcoef(rare)
    long = [part for part in np.split(text, bounds[1:-1]) if len(part) > 60]
    halves = [[np.bincount(half, minlength=101)[25:] for half in np.array_split(part, 2)] for part in long]
    own = [np.corrcoef(first, second)[0, 1] for first, second in halves]
    assert np.mean(own) > np.mean(overlap) + 0.2
