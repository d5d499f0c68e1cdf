"""Chinese sets: sentiment of reviews (ChnSentiCorp), questions that mean the same (LCQMC, AFQMC), topics (TNEWS).

Papers: Cui et al., 1906.08101 (ChnSentiCorp, LCQMC); Xu et al., CLUE, 2004.05986 (AFQMC, TNEWS).
Command: python -m experiments.finetune.chinese --set model.init=DIR --seeds=10 [--data=FOLDER] [--only=lcqmc]
Cost: LCQMC 22,400 steps of 32 pairs, TNEWS 5,000, AFQMC 3,200, ChnSentiCorp 900.
Expected: BERT-base of Google, Chinese, 10 runs, development sets, best / mean: ChnSentiCorp 94.7 / 94.3, LCQMC 89.4 /
88.4. Not run here.

Without --data the sets come from the hub; with it from a folder in their published layouts:

    chnsenticorp   chnsenticorp/{train,dev,test}.tsv      label and text_a, with tabs between
    lcqmc          lcqmc/{train,dev,test}.tsv             text_a, text_b and label, with or without a line of names
    afqmc          afqmc_public/{train,dev,test}.json     an object a line: sentence1, sentence2, label
    tnews          tnews_public/{train,dev,test}.json     an object a line: sentence, label (a number), label_desc

The files to test in CLUE have no labels: their predictions are in predictions_test.jsonl of each run.
"""

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.classify import Classify
from experiments.finetune.sets import Set, entries_of

SETS = {
    "chnsenticorp": Set(
        Classify(text="text", metric="accuracy"),
        Records(path="lansinuote/ChnSentiCorp", test="test"),
        Records(path="chnsenticorp", test="test"),
        {"best": 94.7, "mean": 94.3},
        {"text": "text_a"},
        {"length": 256},
    ),
    "lcqmc": Set(
        Classify(text="sentence1", pair="sentence2", label="score", metric="accuracy"),
        Records(path="C-MTEB/LCQMC", test="test"),
        Records(path="lcqmc", test="test", columns=("text_a", "text_b", "label")),
        {"best": 89.4, "mean": 88.4},
        {"text": "text_a", "pair": "text_b", "label": "label"},
    ),
    "afqmc": Set(
        Classify(text="sentence1", pair="sentence2", metric="accuracy"),
        Records(path="clue/clue", subset="afqmc", test="test"),
        Records(path="afqmc_public", test="test"),
    ),
    "tnews": Set(
        Classify(text="sentence", metric="accuracy"),
        Records(path="clue/clue", subset="tnews", test="test"),
        Records(path="tnews_public", test="test"),
    ),
}


def entries(data: str | None) -> dict[str, Entry]:
    """All sets."""
    return entries_of(SETS, data)


if __name__ == "__main__":
    suite.main(entries, workdir="runs/chinese")
