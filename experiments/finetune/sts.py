"""Similarity of sentences: STS-B learned by an encoder that reads each sentence apart, and by one that reads both.

Paper: Reimers and Gurevych, 1908.10084, Section 4; the sets of SemEval 2012 to 2016 are only judged, without training.
Command: python -m experiments.finetune.sts --set model.init=DIR [--seeds=10] [--data=FOLDER] [--only=bi_encoder]
Cost: 1,440 steps of 16 pairs each.
Expected: cross_encoder, bert-base-cased in another JAX codebase (HF Flax): Pearson 89.04 (best of 5 seeds), here beside
Spearman; no published row is held against the others here. Not run here.

Without --data the sets come from the hub; with it from a folder:

    bi_encoder, cross_encoder   STS-B/{train,dev}.tsv                                     as in GLUE
    sts12 ... sts16             STS/STS12-en-test/STS.input.*.txt with STS.gs.*.txt ...   as SemEval publishes them

A year counts as one set: Spearman over all its pairs together. Years whose folder is not there are left out.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry, Extra
from bertjax.tasks.embed import Embed
from bertjax.tasks.labelled import LabelledTask
from bertjax.tasks.regress import Regress
from experiments.finetune.sets import Set, entries_of

RECORDS = Records(path="nyu-mll/glue", subset="stsb"), Records(path="STS-B")
PAIR: dict[str, Any] = {"text": "sentence1", "pair": "sentence2"}
RECIPE = {"epochs": 4, "batch_size": 16, "rate": 2e-5}
SETS = {
    "bi_encoder": Set(
        Embed(**PAIR, metric="spearman"),
        *RECORDS,
        renamed={"label": "score"},
        recipe=RECIPE,
    ),
    "cross_encoder": Set(
        Regress(**PAIR, metric="spearman"),
        *RECORDS,
        {"HF Flax Pearson": 89.04},
        {"label": "score"},
        RECIPE,
    ),
}
YEARS = {f"sts{year}": f"STS{year}-en-test" for year in range(12, 17)}


def entries(data: str | None) -> dict[str, Entry]:
    """Both ways."""
    return entries_of(SETS, data)


def finish(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> list[Extra]:
    """What the runs are worth on the sets of SemEval."""
    from bertjax.finetune import predict_records

    (task,) = entry.config.tasks
    assert isinstance(task, LabelledTask)
    hub = task.records.path == RECORDS[0].path
    root = pathlib.Path(task.records.path).parent / "STS"
    sets = {
        year: Records(path=f"mteb/{year}-sts" if hub else str(root / folder), test="test")
        for year, folder in YEARS.items()
        if hub or (root / folder).is_dir()
    }
    if not sets:
        return []
    columns = {**PAIR, "label": "score"}
    found = [predict_records(str(folder), sets, "test", columns=columns) for folder in folders]
    return [
        Extra(f"{name} on {year}", "spearman", {}, [100 * one[year].scores()["spearman"] for one in found])
        for year in sets
    ]


if __name__ == "__main__":
    suite.main(entries, workdir="runs/sts", finish=finish)
