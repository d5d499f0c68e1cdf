"""BERT as features for named entities: a frozen encoder, some of its layers, and a BiLSTM that reads them.

Paper: Devlin et al., 1810.04805, Section 5.3, Table 7: BERT-base on CoNLL-2003, fine-tuned and feature-based.
Command: python -m experiments.ablations.bert_table7 --row=concat_last_four --workdir=runs/bert_table7/concat_last_four
         --set model.init=DIR --set tasks.tag.records.path=CONLL_FOLDER
Cost: the fine-tuned row 1,760 steps of 32 sentences; the others 8,800 steps without a backward pass of the encoder.
Expected: dev F1 as in the rows. Not run here.

The paper tells the two layers of the BiLSTM, their width of 768, and that the encoder is not tuned; rate and epochs of
the feature-based rows are this project's. DIR holds BERT-base, cased; its rows have document context, ours sentences.
"""

import dataclasses

from bertjax import experiment
from bertjax.config import Config
from bertjax.experiment import Row
from bertjax.models.features import FEATURES
from bertjax.tasks.tag import Tag
from bertjax.tune import TuneConfig
from experiments.finetune import ner

PUBLISHED = {
    "embeddings": 91.0,
    "second_to_last": 95.6,
    "last": 94.9,
    "sum_last_four": 95.9,
    "concat_last_four": 96.1,
    "sum_all": 95.5,
}


def config() -> Config:
    """Fine-tuned as a whole."""
    return ner.entries(None)["conll2003"].config


def rows() -> dict[str, Row]:
    """Only the layers that are read differ between the rows that tune nothing but the head."""
    base = config()
    (task,) = base.tasks
    assert isinstance(task, Tag)
    table = {"fine_tuned": Row(base, {"F1": 96.4})}
    for name, found in PUBLISHED.items():
        features = dataclasses.replace(FEATURES[name], lstm=2, lstm_width=768)
        changed = dataclasses.replace(
            base,
            tasks=(dataclasses.replace(task, features=features),),
            tune=TuneConfig(trained="heads"),
            optim=dataclasses.replace(base.optim, learning_rate=1e-3),
            train=dataclasses.replace(base.train, epochs=20.0),
        )
        table[name] = Row(changed, {"F1": found})
    return table


if __name__ == "__main__":
    experiment.main(rows())
