"""SuperGLUE and its two diagnostic sets: every task over seeds, and the files for the server.

Paper: Wang et al., 1905.00537. The recipe is this project's: rate 1e-5, 10 epochs of the small sets and 3 of MultiRC
and ReCoRD, rows of 256 tokens (paragraphs of 512).
Command: python -m experiments.finetune.superglue --set model.init=DIR --seeds=5 [--data=FOLDER] [--only=rte,wic]
Cost: ReCoRD 84 thousand steps of 32 rows an epoch, MultiRC 850, BoolQ 590, all others less.
Expected: the row of BERT-large in the paper is of the *test* sets, which only the server can judge; it stands beside
held-out scores here: BoolQ 77.4, CB F1/accuracy 75.7/83.6, COPA 70.6, MultiRC F1a/exact 70.0/24.1, ReCoRD F1/exact
72.0/71.3, RTE 71.7, WiC 69.6, WSC 64.4, AX-b 23.0, AX-g parity/accuracy 97.8/51.7. Not run here.

Without --data the sets come from the hub (aps/super_glue); with it from a folder as SuperGLUE publishes them, an
object a line:

    boolq   BoolQ/{train,val,test}.jsonl        rte     RTE/{train,val,test}.jsonl, AX-b/AX-b.jsonl, AX-g/AX-g.jsonl
    cb      CB/{train,val,test}.jsonl           wic     WiC/{train,val,test}.jsonl
    copa    COPA/{train,val,test}.jsonl         wsc     WSC/{train,val,test}.jsonl
    multirc MultiRC/{train,val,test}.jsonl      record  ReCoRD/{train,val,test}.jsonl

In WiC and WSC the spans that are asked about are marked in the text. An option of MultiRC, and an entity of ReCoRD, is
a record to be judged right or wrong. The best run of each task predicts the test set, and WORKDIR/submission/ gets the
files that the server takes; the runs on RTE are judged on AX-b and AX-g too.
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.scores.superglue import gender_parity
from bertjax.suite import Entry, Extra
from bertjax.tasks.choose import Choose
from bertjax.tasks.classify import Classify
from bertjax.tasks.judge import Judge
from bertjax.tasks.labelled import LabelledTask
from experiments.finetune.sets import Set, entries_of, write_lines

HUB = "aps/super_glue"
SMALL: dict[str, Any] = {"length": 256, "epochs": 10, "batch_size": 16, "rate": 1e-5}
LARGE: dict[str, Any] = {"length": 512, "epochs": 3, "batch_size": 32, "rate": 1e-5}
NLI: dict[str, Any] = {"text": "premise", "pair": "hypothesis"}


def _set(
    task: LabelledTask, name: str, published: Mapping[str, float], recipe: Mapping[str, Any], **records: Any
) -> Set:
    return Set(
        task,
        Records(path=HUB, subset=name.lower(), test="test", **records),
        Records(path=name, test="test", **records),
        {f"BERT-large test {what}".rstrip(): number for what, number in published.items()},
        recipe=recipe,
    )


SETS = {
    "boolq": _set(Classify(text="question", pair="passage", metric="accuracy"), "BoolQ", {"": 77.4}, SMALL),
    "cb": _set(Classify(**NLI, metric="f1_macro"), "CB", {"F1": 75.7, "accuracy": 83.6}, SMALL),
    "copa": _set(
        Choose(text="premise", question="question", choices=("choice1", "choice2"), metric="accuracy"),
        "COPA",
        {"": 70.6},
        {**SMALL, "length": 64},
    ),
    "multirc": _set(
        Judge(pair="pair", metric="f1a"), "MultiRC", {"F1a": 70.0, "exact": 24.1}, LARGE, view="multirc"
    ),
    "record": _set(
        Judge(pair="pair", option="option", metric="f1"),
        "ReCoRD",
        {"F1": 72.0, "exact": 71.3},
        LARGE,
        view="record",
    ),
    "rte": _set(Classify(**NLI, metric="accuracy"), "RTE", {"": 71.7}, SMALL),
    "wic": _set(Classify(pair="pair", metric="accuracy"), "WiC", {"": 69.6}, SMALL, view="wic"),
    "wsc": _set(Classify(metric="accuracy"), "WSC", {"": 64.4}, SMALL, view="wsc"),
}
DIAGNOSTIC = {
    "AX-b": Set(
        Classify(text="sentence1", pair="sentence2"),
        Records(HUB, "axb", test="test"),
        Records("AX-b", test="AX-b"),
    ),
    "AX-g": Set(Classify(**NLI), Records(HUB, "axg", test="test"), Records("AX-g", test="AX-g")),
}


def entries(data: str | None) -> dict[str, Entry]:
    """All tasks."""
    return entries_of(SETS, data)


def finish(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> list[Extra]:
    """The files for the server, from the best run of a task; what the runs on RTE are worth on diagnostic sets."""
    from bertjax.config import read_workdir

    (task,), (learned,) = entry.config.tasks, read_workdir(str(folders[0]))[0].tasks
    assert isinstance(task, LabelledTask) and isinstance(learned, LabelledTask)
    target, found = folders[0].parent.parent / "submission", suite.predictions_of(folders[0])
    write_submission(target / f"{SETS[name].files.path}.jsonl", name, learned, task.read("test"), found)
    if name != "rte":
        return []
    data = None if task.records.path == HUB else str(pathlib.Path(task.records.path).parent)
    values: dict[str, list[float]] = {"matthews": [], "parity": [], "accuracy": []}
    for folder in folders:
        for key, value in _diagnose(folder, data, target if folder == folders[0] else None).items():
            values[key].append(value)
    return [
        Extra("AX-b", "matthews", {"BERT-large": 23.0}, values["matthews"]),
        Extra("AX-g", "parity", {"BERT-large": 97.8}, values["parity"]),
        Extra("AX-g", "accuracy", {"BERT-large": 51.7}, values["accuracy"]),
    ]


def _diagnose(folder: pathlib.Path, data: str | None, target: pathlib.Path | None) -> dict[str, float]:
    """The scores of a run on both diagnostic sets, in percent; their files go to `target`."""
    from bertjax.finetune import predict_records

    values: dict[str, float] = {}
    for name, one in DIAGNOSTIC.items():
        task = one.task_of(data)
        columns = {"text": task.text, "pair": task.pair} if isinstance(task, Classify) else {}
        found = predict_records(str(folder), {name: task.records}, "test", columns=columns)[name]
        if target is not None:
            write_submission(target / f"{name}.jsonl", "rte", found.task, found.split, found.predictions)
        scores = found.scores()
        if name == "AX-b":
            values["matthews"] = 100 * scores["matthews"]
        else:
            said = [prediction["label"] for prediction in found.predictions]
            values |= {"parity": 100 * gender_parity(said), "accuracy": 100 * scores["accuracy"]}
    return values


def write_submission(
    path: pathlib.Path,
    name: str,
    learned: LabelledTask,
    split: Split,
    predictions: Sequence[Mapping[str, Any]],
) -> None:
    """An object a line, `idx` and `label`; MultiRC's has its questions and their options inside."""
    places = split.column("idx", "records.path to SuperGLUE's files")
    if name == "multirc":
        assert isinstance(learned, Judge)
        return write_lines(path, _multirc_lines(learned, places, predictions))
    if name == "record":
        assert isinstance(learned, Judge)
        chosen = learned.chosen(predictions, split)
        return write_lines(path, ({"idx": int(place), "label": option} for place, option in chosen.items()))
    labels = getattr(learned, "labels", ())

    def said(prediction: Mapping[str, Any]) -> Any:
        match name:
            case "copa":
                return prediction["choice"]
            case "boolq" | "wic":
                return ("false", "true")[labels.index(prediction["label"])]
            case "wsc":
                return ("False", "True")[labels.index(prediction["label"])]
            case _:
                return prediction["label"]

    rows = zip(places, predictions, strict=True)
    return write_lines(path, ({"idx": int(place), "label": said(one)} for place, one in rows))


def _multirc_lines(
    task: Judge, places: Sequence[Mapping[str, int]], predictions: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """A passage a line."""
    passages: dict[int, dict[int, list[dict[str, int]]]] = {}
    for place, prediction in zip(places, predictions, strict=True):
        answers = passages.setdefault(int(place["paragraph"]), {}).setdefault(int(place["question"]), [])
        answers.append({"idx": int(place["answer"]), "label": task.labels.index(prediction["label"])})
    return [
        {"idx": idx, "passage": {"questions": [{"idx": q, "answers": some} for q, some in found.items()]}}
        for idx, found in passages.items()
    ]


if __name__ == "__main__":
    suite.main(entries, workdir="runs/superglue", finish=finish)
