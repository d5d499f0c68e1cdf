"""All of GLUE, and its diagnostic set: every task over seeds beside a published run, and the files for the server.

Paper: Wang et al., 1804.07461; the recipe is that of BERT (1810.04805, Section 4.1): 3 epochs, batch 32, 128 tokens.
Command: python -m experiments.finetune.glue --set model.init=DIR --seeds=5 [--data=GLUE_FOLDER] [--only=cola,rte]
Cost: MNLI and QQP 37,000 and 34,000 steps of 32 rows, all others together about 28,000.
Expected, of bert-base-cased with 5 seeds in another JAX codebase (HF Flax), best / mean / sd where published: CoLA
60.57 / 59.04 / 1.06, SST-2 92.66 / 92.23 / .57, MRPC F1 89.90, STS-B Pearson 89.04, QQP accuracy 90.81, MNLI 84.10 /
83.80 / .16, QNLI 91.01, RTE 66.06, WNLI 46.48. Not run here.

Without --data the sets come from the hub (nyu-mll/glue); with it from a folder in the layout of GLUE's own download:
CoLA/train.tsv, SST-2/dev.tsv, MNLI/dev_matched.tsv and so on. The best run of each task predicts the test set, and
WORKDIR/submission/ gets the files that the server takes; those of AX and of MNLI-mm come from the runs on MNLI.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.classify import Classify
from bertjax.tasks.labelled import LabelledTask
from bertjax.tasks.regress import Regress
from experiments.finetune.recipe import recipe

HUB = "nyu-mll/glue"


class Set(NamedTuple):
    """A task of GLUE: its columns on the hub and in the published files, what counts, and what was published."""

    folder: str
    hub: tuple[str, str | None, str]  # text, pair, label
    files: tuple[str, str | None, str]
    metric: str
    published: Mapping[str, float]
    columns: tuple[str, ...] = ()
    heldout: tuple[str, str] = ("validation", "dev")  # on the hub, in files
    test: tuple[str, str] = ("test", "test")
    bad_rows: int = 0


SETS = {
    "cola": Set(
        "CoLA",
        ("sentence", None, "label"),
        ("sentence", None, "label"),
        "matthews",
        {"best": 60.57, "mean": 59.04, "sd": 1.06},
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": Set(
        "SST-2",
        ("sentence", None, "label"),
        ("sentence", None, "label"),
        "accuracy",
        {"best": 92.66, "mean": 92.23, "sd": 0.57},
    ),
    "mrpc": Set(
        "MRPC",
        ("sentence1", "sentence2", "label"),
        ("#1 String", "#2 String", "Quality"),
        "f1",
        {"best": 89.90},
    ),
    "stsb": Set(
        "STS-B",
        ("sentence1", "sentence2", "label"),
        ("sentence1", "sentence2", "score"),
        "pearson",
        {"best": 89.04},
    ),
    "qqp": Set(
        "QQP",
        ("question1", "question2", "label"),
        ("question1", "question2", "is_duplicate"),
        "accuracy",
        {"best": 90.81},
        bad_rows=100,  # a handful of lines are torn
    ),
    "mnli": Set(
        "MNLI",
        ("premise", "hypothesis", "label"),
        ("sentence1", "sentence2", "gold_label"),
        "accuracy",
        {"best": 84.10, "mean": 83.80, "sd": 0.16},
        heldout=("validation_matched", "dev_matched"),
        test=("test_matched", "test_matched"),
    ),
    "qnli": Set(
        "QNLI",
        ("question", "sentence", "label"),
        ("question", "sentence", "label"),
        "accuracy",
        {"best": 91.01},
    ),
    "rte": Set(
        "RTE",
        ("sentence1", "sentence2", "label"),
        ("sentence1", "sentence2", "label"),
        "accuracy",
        {"best": 66.06},
    ),
    "wnli": Set(
        "WNLI",
        ("sentence1", "sentence2", "label"),
        ("sentence1", "sentence2", "label"),
        "accuracy",
        {"best": 46.48},
    ),
}


def task_of(name: str, data: str | None) -> LabelledTask:
    """A task of GLUE, from the hub or from files."""
    one = SETS[name]
    local = int(data is not None)
    records = Records(
        path=HUB if data is None else str(pathlib.Path(data) / one.folder),
        subset=None if data else name,
        heldout=one.heldout[local],
        test=one.test[local],
        columns=one.columns if data else (),
        bad_rows=one.bad_rows if data else 0,
    )
    text, pair, label = one.files if data else one.hub
    options = {"records": records, "text": text, "pair": pair, "label": label, "metric": one.metric}
    return Regress(**options) if name == "stsb" else Classify(**options)  # type: ignore[arg-type]


def entries(data: str | None) -> dict[str, Entry]:
    """All tasks."""
    return {name: Entry(recipe(task_of(name, data)), one.metric, one.published) for name, one in SETS.items()}


def finish(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> None:
    """The files for the server, from the best run of a task."""
    from bertjax.finetune import predict_records

    (task,) = entry.config.tasks
    assert isinstance(task, LabelledTask)
    target = folders[0].parent.parent / "submission"
    local = task.records.path != HUB
    write_submission(target / f"{'MNLI-m' if name == 'mnli' else SETS[name].folder}.tsv", name, folders[0])
    if name != "mnli":
        return
    for file, split in (("MNLI-mm", "test_mismatched"), ("AX", "test")):
        records = dataclasses.replace(task.records, test=split)
        if file == "AX":
            path = str(pathlib.Path(task.records.path).parent / "AX") if local else HUB
            records = dataclasses.replace(records, path=path, subset=None if local else "ax")
        predictions = predict_records(str(folders[0]), records, "test")
        write_submission(target / f"{file}.tsv", name, folders[0], predictions)


def write_submission(
    path: pathlib.Path,
    name: str,
    folder: pathlib.Path,
    predictions: Sequence[Mapping[str, object]] | None = None,
) -> None:
    """`index` and `prediction`, a line for each record: the class where it has a name, its number, or the score."""
    import json

    from bertjax.config import read_workdir

    if predictions is None:
        lines = (folder / "predictions_test.jsonl").read_text(encoding="utf-8").splitlines()
        predictions = [json.loads(line) for line in lines]
    (task,) = read_workdir(str(folder))[0].tasks
    labels = getattr(task, "labels", ())
    named = name in ("mnli", "qnli", "rte")
    rows = []
    for index, prediction in enumerate(predictions):
        if "value" in prediction:
            said = f"{min(max(float(str(prediction['value'])), 0.0), 5.0):.3f}"
        else:
            said = str(prediction["label"]) if named else str(labels.index(prediction["label"]))
        rows.append(f"{index}\t{said}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("index\tprediction\n" + "".join(rows), encoding="utf-8")


if __name__ == "__main__":
    suite.main(entries, workdir="runs/glue", finish=finish)
