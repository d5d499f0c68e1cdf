"""What to hide together: subwords, whole words, or random spans, in pairs of segments with next sentences.

Paper: Joshi et al., 1907.10529, Section 6.1, Table 6. Its rows of named entities and noun phrases hide what a tagger
finds: with a corpus that is prepared with one (`prepare --segmenter=module:function`) that is the row whole_words.
Command: python -m experiments.ablations.spanbert_table6 --row=geometric_spans --workdir=runs/spanbert_table6/spans
Cost: 1.2e6 steps of 256 x 512 slots of BERT-large for each row, 157 billion slots.
Expected: F1 on SQuAD 2.0, NewsQA, TriviaQA and coreference, accuracy on MNLI-m and QNLI, GLUE average as in the rows.
Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.pairs import SegmentPair
from bertjax.experiment import Row
from bertjax.models.presets import PRESETS
from bertjax.tasks.masking import MaskingOptions, Span, Subword, WholeWord
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from experiments.pretrain import spanbert_base

METRICS = ("SQuAD 2.0", "NewsQA", "TriviaQA", "Coref", "MNLI-m", "QNLI", "GLUE")
ROWS: dict[str, tuple[MaskingOptions, tuple[float, ...]]] = {
    "subwords": (Subword(), (83.8, 72.0, 76.3, 77.7, 86.7, 92.5, 83.2)),
    "whole_words": (WholeWord(), (84.3, 72.8, 77.1, 76.6, 86.3, 92.8, 82.9)),
    "geometric_spans": (Span(), (85.4, 73.0, 78.8, 76.4, 87.0, 93.3, 83.4)),
}


def config() -> Config:
    """The large model, half as long as the final one."""
    base = spanbert_base.config()
    return dataclasses.replace(
        base,
        model=PRESETS["large"],
        data=dataclasses.replace(base.data, format=SegmentPair()),
        tasks=(Mlm(), Nsp()),
        train=dataclasses.replace(base.train, steps=1_200_000),
    )


def rows() -> dict[str, Row]:
    """Only the masking differs."""
    return {
        name: Row(
            dataclasses.replace(config(), tasks=(Mlm(masking=masking), Nsp())),
            dict(zip(METRICS, found, strict=True)),
        )
        for name, (masking, found) in ROWS.items()
    }


if __name__ == "__main__":
    experiment.main(rows())
