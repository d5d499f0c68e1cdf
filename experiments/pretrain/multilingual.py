"""A multilingual BERT: one vocabulary, a corpus for each language, small languages brought forward.

Paper: Devlin et al., 1810.04805, the multilingual models of its repository: languages are drawn with the power 0.7 of
their sizes. XLM-R has 0.3 (1911.02116): --set data.temperature=3.33. A tokenizer is trained on all languages together
(`tokenizer --input='text/*.txt'`), and each corpus is prepared with it.
Command: python -m experiments.pretrain.multilingual --workdir=runs/multilingual --set data.corpus=corpora/en,corpora/zh
Cost: that of BERT-base, 43 billion token slots.
Expected: no number is published for this choice of languages; `tokens_seen/LANGUAGE` in result.json goes with the power
0.7 of the sizes. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from experiments.pretrain import bert_base

LANGUAGES = ("ar", "de", "en", "es", "fr", "hi", "ja", "ru", "sw", "zh")


def config() -> Config:
    """BERT-base over ten languages; 119,547 tokens are those of the published model for 104."""
    base = bert_base.config()
    corpora = ",".join(f"corpora/{language}" for language in LANGUAGES)
    return dataclasses.replace(
        base,
        model=dataclasses.replace(base.model, vocab=119_547),
        data=dataclasses.replace(base.data, corpus=corpora, temperature=1 / 0.7),
    )


if __name__ == "__main__":
    experiment.main(config())
