"""All of GLUE, and its diagnostic set: every task over seeds beside a published run, and the files for the server.

Paper: Wang et al., 1804.07461; the recipe is that of BERT (1810.04805, Section 4.1): 3 epochs, batch 32, 128 tokens.
Command: python -m experiments.finetune.glue --set model.init=DIR --seeds=5 [--data=GLUE_FOLDER] [--only=cola,rte]
Cost: MNLI and QQP 37,000 and 34,000 steps of 32 rows, all others together about 28,000.
Expected, of bert-base-cased with 5 seeds in another JAX codebase (HF Flax), best / mean / sd where published: CoLA
60.57 / 59.04 / 1.06, SST-2 92.66 / 92.23 / .57, MRPC F1 89.90, STS-B Pearson 89.04, QQP accuracy 90.81, MNLI 84.10 /
83.80 / .16, QNLI 91.01, RTE 66.06, WNLI 46.48. Not run here.

Without --data the sets come from the hub (nyu-mll/glue); with it from a folder in the layout of GLUE's own download,
tables with tabs between and no quoting:

    cola    CoLA/{train,dev,test}.tsv, the first two without names of columns
    sst2    SST-2/{train,dev,test}.tsv          stsb    STS-B/{train,dev,test}.tsv
    mrpc    MRPC/{train,dev,test}.tsv           qnli    QNLI/{train,dev,test}.tsv
    qqp     QQP/{train,dev,test}.tsv            rte     RTE/{train,dev,test}.tsv
    mnli    MNLI/{train,dev_matched,dev_mismatched,test_matched,test_mismatched}.tsv; and AX/AX.tsv, or
            diagnostic/diagnostic.tsv
    wnli    WNLI/{train,dev,test}.tsv

The best run of each task predicts the test set, and WORKDIR/submission/ gets the files that the server takes, `index`
and `prediction` with a tab between; those of AX and of MNLI-mm come from the runs on MNLI.
"""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry, Extra
from bertjax.tasks.classify import Classify
from bertjax.tasks.labelled import LabelledTask
from bertjax.tasks.regress import Regress
from experiments.finetune.sets import Set, entries_of, write_lines

HUB = "nyu-mll/glue"
PAIR: dict[str, Any] = {"text": "sentence1", "pair": "sentence2"}


def _set(
    task: LabelledTask,
    subset: str,
    folder: str,
    published: Mapping[str, float],
    renamed: Mapping[str, str] | None = None,
    hub: Mapping[str, Any] | None = None,
    **files: Any,
) -> Set:
    places = (
        Records(HUB, subset, **{"test": "test", **(hub or {})}),
        Records(folder, **{"test": "test", **files}),
    )
    return Set(task, *places, published, renamed or {})


SETS = {
    "cola": _set(
        Classify(text="sentence", metric="matthews"),
        "cola",
        "CoLA",
        {"best": 60.57, "mean": 59.04, "sd": 1.06},
        columns=("source", "label", "mark", "sentence"),
    ),
    "sst2": _set(
        Classify(text="sentence", metric="accuracy"),
        "sst2",
        "SST-2",
        {"best": 92.66, "mean": 92.23, "sd": 0.57},
    ),
    "mrpc": _set(
        Classify(**PAIR, metric="f1"),
        "mrpc",
        "MRPC",
        {"best": 89.90},
        {"text": "#1 String", "pair": "#2 String", "label": "Quality"},
    ),
    "stsb": _set(Regress(**PAIR, metric="pearson"), "stsb", "STS-B", {"best": 89.04}, {"label": "score"}),
    "qqp": _set(
        Classify(text="question1", pair="question2", metric="accuracy"),
        "qqp",
        "QQP",
        {"best": 90.81},
        {"label": "is_duplicate"},
        bad_rows=100,  # a handful of lines are torn
    ),
    "mnli": _set(
        Classify(text="premise", pair="hypothesis", metric="accuracy"),
        "mnli",
        "MNLI",
        {"best": 84.10, "mean": 83.80, "sd": 0.16},
        {**PAIR, "label": "gold_label"},
        {"heldout": "validation_matched", "test": "test_matched"},
        heldout="dev_matched",
        test="test_matched",
    ),
    "qnli": _set(
        Classify(text="question", pair="sentence", metric="accuracy"), "qnli", "QNLI", {"best": 91.01}
    ),
    "rte": _set(Classify(**PAIR, metric="accuracy"), "rte", "RTE", {"best": 66.06}),
    "wnli": _set(Classify(**PAIR, metric="accuracy"), "wnli", "WNLI", {"best": 46.48}),
}
NAMED = ("mnli", "qnli", "rte")  # whose classes the server takes by name, the others by number


def entries(data: str | None) -> dict[str, Entry]:
    """All tasks."""
    return entries_of(SETS, data)


def finish(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> list[Extra]:
    """The files for the server, from the best run of a task."""
    (task,) = entry.config.tasks
    assert isinstance(task, LabelledTask)
    submit(name, task, folders[0], folders[0].parent.parent / "submission")
    return []


def submit(name: str, task: LabelledTask, folder: pathlib.Path, target: pathlib.Path) -> None:
    """The files of a task, from a run that has learned it: alone, or as one of several tasks by this name."""
    from bertjax.config import read_workdir
    from bertjax.finetune import predict_records
    from bertjax.tasks import labelled

    learned = labelled(read_workdir(str(folder))[0].tasks)
    several = name if len(learned) > 1 else None
    labels = next(getattr(one, "labels", ()) for one in learned if several in (None, one.name))
    file = "MNLI-m" if name == "mnli" else pathlib.Path(SETS[name].files.path).name
    write_submission(target / f"{file}.tsv", name, labels, suite.predictions_of(folder, several))
    if name != "mnli":
        return
    local = task.records.path != HUB
    more = {
        "MNLI-mm": dataclasses.replace(task.records, test="test_mismatched"),
        "AX": diagnostic(pathlib.Path(task.records.path).parent)
        if local
        else Records(HUB, "ax", test="test"),
    }
    for file, found in predict_records(str(folder), more, "test", several).items():
        write_submission(target / f"{file}.tsv", name, labels, found.predictions)


def diagnostic(folder: pathlib.Path) -> Records:
    """The set of AX below a folder of files, which two downloads name differently."""
    other = folder / "diagnostic"
    return (
        Records(str(other), test="diagnostic") if other.is_dir() else Records(str(folder / "AX"), test="AX")
    )


def write_submission(
    path: pathlib.Path, name: str, labels: Sequence[str], predictions: Sequence[Mapping[str, Any]]
) -> None:
    """A line for each record: the class where it has a name, its number, or the score from 0 to 5."""

    def said(prediction: Mapping[str, Any]) -> str:
        if "value" in prediction:
            return f"{min(max(float(prediction['value']), 0.0), 5.0):.3f}"
        label = prediction["label"]
        return str(label) if name in NAMED else str(labels.index(label))

    rows = (f"{index}\t{said(prediction)}" for index, prediction in enumerate(predictions))
    write_lines(path, ["index\tprediction", *rows])


if __name__ == "__main__":
    suite.main(entries, workdir="runs/glue", finish=finish)
