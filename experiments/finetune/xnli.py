"""XNLI: natural language inference in fifteen languages, each learned from its own translated training set.

Paper: Conneau et al., 1809.05053.
Command: python -m experiments.finetune.xnli --set model.init=DIR [--seeds=5] [--only=zh,sw]
Cost: 24,500 steps of 32 pairs for each language that is judged; the training set is the same.
Expected: no published row is held against it here. Not run here.
"""

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.classify import Classify
from experiments.finetune.recipe import recipe

LANGUAGES = ("en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")


def entries(data: str | None) -> dict[str, Entry]:
    """A run for each language (translate-train in the paper)."""
    found = {}
    for language in LANGUAGES:
        records = (
            Records(path="facebook/xnli", subset=language)
            if data is None
            else Records(path=f"{data}/{language}")
        )
        task = Classify(records=records, text="premise", pair="hypothesis")
        found[language] = Entry(recipe(task, epochs=2), "accuracy")
    return found


if __name__ == "__main__":
    suite.main(entries, workdir="runs/xnli")
