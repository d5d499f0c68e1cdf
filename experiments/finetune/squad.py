"""SQuAD 1.1 and 2.0: the answer to a question is a span of a paragraph, or there is none.

Paper: Devlin et al., 1810.04805, Sections 4.2 and 4.3.
Command: python -m experiments.finetune.squad --set model.init=DIR [--seeds=5] [--data=FOLDER] [--only=squad1]
Cost: 5,500 and 8,200 steps of 32 rows of 384 tokens.
Expected: SQuAD 1.1 dev EM/F1 80.8/88.5 (base), 84.1/90.9 (large); SQuAD 2.0 dev 78.7/81.9 (large). Not run here.

Without --data the sets come from the hub; with it from FOLDER/train-v1.1.json, dev-v1.1.json, train-v2.0.json and
dev-v2.0.json, as they are published.
"""

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.answer import Answer
from experiments.finetune.recipe import recipe


def entries(data: str | None) -> dict[str, Entry]:
    """Both versions; of 2.0 the F1 at the best threshold counts, as in its script."""

    def records(hub: str, version: str) -> Records:
        if data is None:
            return Records(path=hub)
        return Records(path=data, train=f"train-v{version}", heldout=f"dev-v{version}")

    first = Answer(records=records("rajpurkar/squad", "1.1"), unanswerable=False)
    second = Answer(records=records("rajpurkar/squad_v2", "2.0"), unanswerable=True, metric="best_f1")
    options = {"length": 384, "epochs": 2.0, "rate": 5e-5}
    return {
        "squad1": Entry(recipe(first, **options), "f1", {"base": 88.5, "large": 90.9}),  # type: ignore[arg-type]
        "squad2": Entry(recipe(second, **options), "best_f1", {"large": 81.9}),  # type: ignore[arg-type]
    }


if __name__ == "__main__":
    suite.main(entries, workdir="runs/squad")
