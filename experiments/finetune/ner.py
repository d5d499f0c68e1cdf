"""Named entities of CoNLL-2003.

Paper: Devlin et al., 1810.04805, Section 5.3, Table 7.
Command: python -m experiments.finetune.ner --set model.init=DIR --data=CONLL_FOLDER [--seeds=5]
Cost: 1,760 steps of 32 sentences.
Expected: dev F1 96.4 (base), 96.6 (large); test F1 92.4 and 92.8, with document context, which is not used here.
Not run here.

FOLDER holds eng.train, eng.testa and eng.testb, or train.txt, valid.txt and test.txt, in columns.
"""

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.tag import Tag
from experiments.finetune.recipe import recipe


def entries(data: str | None) -> dict[str, Entry]:
    """The development set; that to test is predicted."""
    records = Records(path=data or "conll2003", test="test")
    return {
        "conll2003": Entry(
            recipe(Tag(records=records), epochs=4, rate=5e-5), "f1", {"base": 96.4, "large": 96.6}
        )
    }


if __name__ == "__main__":
    suite.main(entries, workdir="runs/ner")
