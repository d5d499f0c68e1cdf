"""What next sentences and both directions are worth: BERT-base without the one, then without the other.

Paper: Devlin et al., 1810.04805, Section 5.1, Table 5.
Command: python -m experiments.ablations.bert_table5 --row=no_nsp --workdir=runs/bert_table5/no_nsp
Cost: that of BERT-base for each row, 43 billion token slots.
Expected: dev accuracy on MNLI-m, QNLI, MRPC and SST-2 and F1 on SQuAD as in the rows. Not run here.

The last row of the paper puts a BiLSTM on the left-to-right model when that is fine-tuned (82.1, 84.1, 75.7, 91.6 and
84.9): python -m experiments.finetune.glue --set model.init=runs/bert_table5/ltr_no_nsp --only=mnli,qnli,mrpc,sst2
--set tasks.classify.pooling=first --set tasks.classify.features=bilstm, and the same with experiments.finetune.squad
--only=squad1 and tasks.answer.features=bilstm.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.pairs import SegmentPair
from bertjax.experiment import Row
from bertjax.tasks.clm import Clm
from bertjax.tasks.mlm import Mlm
from experiments.pretrain import bert_base

PUBLISHED = {
    "base": (84.4, 88.4, 86.7, 92.7, 88.5),
    "no_nsp": (83.9, 84.9, 86.5, 92.6, 87.9),
    "ltr_no_nsp": (82.1, 84.3, 77.5, 92.1, 77.8),
}


def config() -> Config:
    """Masked words and next sentences."""
    return bert_base.config()


def rows() -> dict[str, Row]:
    """The same pairs of segments in every row, so that only the objective differs."""
    base = config()
    data = dataclasses.replace(base.data, format=SegmentPair(negatives="none"))
    one_way = dataclasses.replace(base.model, direction="left_to_right")
    configs = {
        "base": base,
        "no_nsp": dataclasses.replace(base, data=data, tasks=(Mlm(duplicates=10),)),
        "ltr_no_nsp": dataclasses.replace(base, data=data, model=one_way, tasks=(Clm(),)),
    }
    metrics = ("MNLI-m", "QNLI", "MRPC", "SST-2", "SQuAD")
    return {name: Row(configs[name], dict(zip(metrics, PUBLISHED[name], strict=True))) for name in configs}


if __name__ == "__main__":
    experiment.main(rows())
