"""Similarity of sentences (STS-B) by one encoder that reads each sentence apart.

Paper: Reimers and Gurevych, 1908.10084, Section 4.2.
Command: python -m experiments.finetune.sts --set model.init=DIR [--seeds=5] [--data=GLUE_FOLDER/STS-B]
Cost: 1,440 steps of 16 pairs.
Expected: no published row is held against it here. Not run here.
"""

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.embed import Embed
from experiments.finetune.recipe import recipe


def entries(data: str | None) -> dict[str, Entry]:
    """The cosine of two means is to be a fifth of the label."""
    if data is None:
        task = Embed(records=Records(path="nyu-mll/glue", subset="stsb"), text="sentence1", pair="sentence2")
    else:
        task = Embed(records=Records(path=data), text="sentence1", pair="sentence2", label="score")
    return {"stsb": Entry(recipe(task, epochs=4, batch_size=16, rate=2e-5), "spearman")}


if __name__ == "__main__":
    suite.main(entries, workdir="runs/sts")
