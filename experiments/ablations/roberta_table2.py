"""Input formats: pairs of segments or sentences with next sentences; full sentences, or those of one document, without.

Paper: Liu et al., 1907.11692, Section 4.2, Table 2. Where rows are short (sentence_pair, doc_sentences) the paper
enlarges the batch to as many tokens; here train.batch_size stays, and the banner says by how much rows are full.
Command: python -m experiments.ablations.roberta_table2 --row=full_sentences --workdir=runs/roberta_table2/full
Cost: 1e6 steps of 256 x 512 slots for each row, 131 billion slots.
Expected: F1 on SQuAD 1.1 and 2.0, accuracy on MNLI-m, SST-2 and RACE as in the rows. Not run here.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.examples import Format
from bertjax.data.pairs import SegmentPair, SentencePair
from bertjax.data.singles import DocSentences, FullSentences
from bertjax.experiment import Row
from bertjax.tasks.base import Task
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.nsp import Nsp
from experiments.ablations import roberta_table1

ROWS: dict[str, tuple[Format, tuple[Task, ...], tuple[float, ...]]] = {
    "segment_pair": (SegmentPair(), (Mlm(), Nsp()), (90.4, 78.7, 84.0, 92.9, 64.2)),
    "sentence_pair": (SentencePair(), (Mlm(), Nsp()), (88.7, 76.2, 82.9, 92.1, 63.0)),
    "full_sentences": (FullSentences(), (Mlm(),), (90.4, 79.1, 84.7, 92.5, 64.8)),
    "doc_sentences": (DocSentences(), (Mlm(),), (90.6, 79.7, 84.7, 92.7, 65.6)),
}


def config() -> Config:
    """BERT-base at 512 tokens, masked dynamically."""
    return roberta_table1.rows()["dynamic"].config


def rows() -> dict[str, Row]:
    """The format and whether there are pairs to be judged."""
    base, metrics, table = config(), ("SQuAD 1.1", "SQuAD 2.0", "MNLI-m", "SST-2", "RACE"), {}
    for name, (format, tasks, found) in ROWS.items():
        data = dataclasses.replace(base.data, format=format)
        changed = dataclasses.replace(base, data=data, tasks=tasks)
        table[name] = Row(changed, dict(zip(metrics, found, strict=True)))
    return table


if __name__ == "__main__":
    experiment.main(rows())
