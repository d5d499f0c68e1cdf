"""All of GLUE at once: one encoder, a head for each task, batches of one task each (MT-DNN).

Paper: Liu et al., 1901.11504; its first stage, without the further fine-tuning on each task and without its special
heads for answers and pairs: rate 5e-5, 5 epochs, batch 32, and sets sampled by their size.
Command: python -m experiments.finetune.multitask --set model.init=DIR [--seeds=5] [--data=GLUE_FOLDER] [--only=all]
Cost: 165,000 steps of 32 rows for `all`, 80,000 for `inference`.
Expected: no published row of this setting is held against it; beside each task stands the row of single-task runs of
glue.py. Not run here.

`all` learns the nine tasks, `inference` MNLI, QNLI, RTE and WNLI. A set of n batches an epoch is drawn in proportion to
n^alpha with alpha = 1 / data.temperature: 1 as in the paper, and small sets come forward with --set data.temperature=2.
Folders and files are those of glue.py. WORKDIR/submission/NAME/ gets the files that the server takes.
"""

import dataclasses
import json
import pathlib
from collections.abc import Sequence

from bertjax import suite
from bertjax.suite import Entry, Extra
from bertjax.tasks.labelled import LabelledTask
from experiments.finetune import glue
from experiments.finetune.recipe import recipe

GROUPS = {"all": tuple(glue.SETS), "inference": ("mnli", "qnli", "rte", "wnli")}


def entries(data: str | None) -> dict[str, Entry]:
    """A run for each group; what counts is the mean of its tasks' scores."""
    found = {}
    for group, names in GROUPS.items():
        tasks = (dataclasses.replace(glue.SETS[name].task_of(data), called=name) for name in names)
        found[group] = Entry(recipe(*tasks, epochs=5, rate=5e-5), "score")
    return found


def finish(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> list[Extra]:
    """A line for each task, and the files for the server from the best run."""
    found = []
    for task in entry.config.tasks:
        assert isinstance(task, LabelledTask)
        glue.submit(task.name, task, folders[0], folders[0].parent.parent / "submission" / name)
        values = [
            100
            * json.loads((folder / "result.json").read_text())["metrics"][
                f"heldout_{task.name}_{task.metric}"
            ]
            for folder in folders
        ]
        found.append(Extra(f"{name}: {task.name}", task.metric, glue.SETS[task.name].published, values))
    return found


if __name__ == "__main__":
    suite.main(entries, workdir="runs/multitask", finish=finish)
