"""What else to learn with hidden spans: next sentences, nothing, or the span from its boundary.

Paper: Joshi et al., 1907.10529, Section 6.2, Table 7.
Command: python -m experiments.ablations.spanbert_table7 --row=one_segment_sbo --workdir=runs/spanbert_table7/sbo
Cost: 1.2e6 steps of 256 x 512 slots of BERT-large for each row, 157 billion slots.
Expected: F1 on SQuAD 2.0, NewsQA, TriviaQA and coreference, accuracy on MNLI-m and QNLI, GLUE average as in the rows.
Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.singles import DocSentences
from bertjax.experiment import Row
from bertjax.tasks.masking import Span
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.sbo import Sbo
from experiments.ablations import spanbert_table6


def config() -> Config:
    """Spans in pairs of segments, with next sentences."""
    return spanbert_table6.rows()["geometric_spans"].config


def rows() -> dict[str, Row]:
    """The first row is the last of Table 6."""
    base = config()
    single = dataclasses.replace(base, data=dataclasses.replace(base.data, format=DocSentences()))
    published = {
        "one_segment": (86.7, 73.4, 80.0, 76.3, 87.3, 93.8, 83.8),
        "one_segment_sbo": (86.8, 74.1, 80.3, 79.0, 87.6, 93.9, 84.0),
    }
    tasks = {"one_segment": (Mlm(masking=Span()),), "one_segment_sbo": (Mlm(masking=Span()), Sbo())}
    return {
        "two_segments_nsp": spanbert_table6.rows()["geometric_spans"],
        **{
            name: Row(
                dataclasses.replace(single, tasks=tasks[name]),
                dict(zip(spanbert_table6.METRICS, found, strict=True)),
            )
            for name, found in published.items()
        },
    }


if __name__ == "__main__":
    experiment.main(rows())
