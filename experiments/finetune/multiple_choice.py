"""Multiple choice: SWAG, and COPA of SuperGLUE.

Paper: Devlin et al., 1810.04805, Section 4.4; Roemmele et al. 2011, Wang et al., 1905.00537.
Command: python -m experiments.finetune.multiple_choice --set model.init=DIR [--seeds=5] [--data=FOLDER]
Cost: SWAG 13,800 steps of 16 questions of four rows; COPA a minute.
Expected: SWAG dev accuracy 81.6 (base), 86.6 (large). Not run here.

FOLDER holds swag/train.csv, swag/val.csv, COPA/train.jsonl and COPA/val.jsonl, as they are published.
"""

import pathlib

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.choose import Choose
from experiments.finetune.recipe import recipe


def entries(data: str | None) -> dict[str, Entry]:
    """The endings of SWAG follow the beginning of their sentence; those of COPA the word that asks for them."""

    def records(hub: str, folder: str, subset: str | None = None) -> Records:
        return (
            Records(path=hub, subset=subset)
            if data is None
            else Records(path=str(pathlib.Path(data) / folder))
        )

    swag = Choose(
        records=records("allenai/swag", "swag", "regular"),
        text="sent1",
        question="sent2",
        choices=("ending0", "ending1", "ending2", "ending3"),
    )
    copa = Choose(
        records=records("aps/super_glue", "COPA", "copa"),
        text="premise",
        question="question",
        choices=("choice1", "choice2"),
    )
    return {
        "swag": Entry(recipe(swag, batch_size=16, rate=2e-5), "accuracy", {"base": 81.6, "large": 86.6}),
        "copa": Entry(recipe(copa, length=64, epochs=20, batch_size=16, rate=2e-5), "accuracy"),
    }


if __name__ == "__main__":
    suite.main(entries, workdir="runs/multiple_choice")
