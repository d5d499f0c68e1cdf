"""Multiple choice: SWAG, RACE, and COPA of SuperGLUE.

Papers: Devlin et al., 1810.04805, Section 4.4; Lai et al., 1704.04683; Roemmele et al. 2011, Wang et al., 1905.00537.
Command: python -m experiments.finetune.multiple_choice --set model.init=DIR [--seeds=5] [--data=FOLDER]
Cost: SWAG 13,800 steps of 16 questions of four rows, RACE 16,500 of four rows of 512 tokens; COPA a minute.
Expected: SWAG dev accuracy 81.6 (base), 86.6 (large); RACE 65.6 (RoBERTa's Table 2: a base model pretrained on BERT's
data, without NSP). Not run here.

Without --data the sets come from the hub; with it from a folder as they are published:

    swag    swag/{train,val}.csv                       sent1, sent2, ending0 ... ending3, label
    race    RACE/{train,dev,test}/{middle,high}/*.txt  an object a file: article, questions, options, answers
    copa    COPA/{train,val}.jsonl                     premise, question, choice1, choice2, label
"""

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry
from bertjax.tasks.choose import Choose
from experiments.finetune.sets import Set, entries_of

# The endings of SWAG follow the beginning of their sentence; the choices of COPA the word that asks for them.
SETS = {
    "swag": Set(
        Choose(
            text="sent1",
            question="sent2",
            choices=("ending0", "ending1", "ending2", "ending3"),
            metric="accuracy",
        ),
        Records(path="allenai/swag", subset="regular"),
        Records(path="swag"),
        {"base": 81.6, "large": 86.6},
        recipe={"batch_size": 16, "rate": 2e-5},
    ),
    "race": Set(
        Choose(text="article", question="question", choices=("options",), label="answer", metric="accuracy"),
        Records(path="ehovy/race", subset="all", test="test"),
        Records(path="RACE", test="test"),
        {"RoBERTa Table 2": 65.6},
        recipe={"length": 512, "batch_size": 16, "rate": 2e-5},
    ),
    "copa": Set(
        Choose(text="premise", question="question", choices=("choice1", "choice2"), metric="accuracy"),
        Records(path="aps/super_glue", subset="copa"),
        Records(path="COPA"),
        recipe={"length": 64, "epochs": 20, "batch_size": 16, "rate": 2e-5},
    ),
}


def entries(data: str | None) -> dict[str, Entry]:
    """All sets."""
    return entries_of(SETS, data)


if __name__ == "__main__":
    suite.main(entries, workdir="runs/multiple_choice")
