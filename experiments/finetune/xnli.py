"""XNLI: natural language inference in fifteen languages, learned from English alone, or from a translated set each.

Papers: Conneau et al., 1809.05053; multilingual BERT (github.com/google-research/bert, multilingual.md).
Command: python -m experiments.finetune.xnli --set model.init=DIR [--seeds=5] [--only=zero_shot,zh] [--data=FOLDER]
Cost: 24,500 steps of 32 pairs for `zero_shot`, and for each language that is learned from its translated set.
Expected: multilingual BERT-base, test accuracy: zero-shot (uncased) en 81.4, zh 63.8, es 74.3, de 70.5, ar 62.1,
ur 58.3; translated training sets (cased) en 81.9, zh 76.6, es 77.8, de 75.9, ar 70.7, ur 61.6. Not run here.

`zero_shot` learns from English, and a line for each language says what its runs are worth on that test set. Without
--data the sets come from the hub (facebook/xnli); with it from a folder that holds both published ones:

    XNLI-1.0/xnli.dev.tsv, XNLI-1.0/xnli.test.tsv            all languages: language, gold_label, sentence1, sentence2
    XNLI-MT-1.0/multinli/multinli.train.LANGUAGE.tsv         premise, hypo, label
"""

import pathlib
from collections.abc import Sequence

from bertjax import suite
from bertjax.data.labelled.records import Records
from bertjax.suite import Entry, Extra
from bertjax.tasks.classify import Classify
from bertjax.tasks.labelled import LabelledTask
from experiments.finetune.sets import Set

LANGUAGES = ("en", "ar", "bg", "de", "el", "es", "fr", "hi", "ru", "sw", "th", "tr", "ur", "vi", "zh")
HUB = "facebook/xnli"
ZERO_SHOT = {"en": 81.4, "zh": 63.8, "es": 74.3, "de": 70.5, "ar": 62.1, "ur": 58.3}
TRANSLATED = {"en": 81.9, "zh": 76.6, "es": 77.8, "de": 75.9, "ar": 70.7, "ur": 61.6}


def set_of(language: str, published: dict[str, float]) -> Set:
    """A language: its training set is a translated one, but for English."""
    return Set(
        Classify(text="premise", pair="hypothesis", metric="accuracy"),
        Records(path=HUB, subset=language, test="test", view="xnli"),
        Records(
            path=".",
            subset=language,
            train=f"XNLI-MT-1.0/multinli/multinli.train.{language}.tsv",
            heldout="XNLI-1.0/xnli.dev.tsv",
            test="XNLI-1.0/xnli.test.tsv",
            view="xnli",
        ),
        {"test": published[language]} if language in published else {},
        recipe={"epochs": 2},
    )


def entries(data: str | None) -> dict[str, Entry]:
    """One run for all languages, and one for each (translate-train in the paper)."""
    each = {language: set_of(language, TRANSLATED).entry(data) for language in LANGUAGES}
    return {"zero_shot": set_of("en", ZERO_SHOT).entry(data), **each}


def finish(name: str, entry: Entry, folders: Sequence[pathlib.Path]) -> list[Extra]:
    """What the runs on English are worth in every language."""
    from bertjax.finetune import predict_records

    (task,) = entry.config.tasks
    assert isinstance(task, LabelledTask)
    if name != "zero_shot":
        return []
    data = None if task.records.path == HUB else task.records.path
    sets = {language: set_of(language, {}).records(data) for language in LANGUAGES}
    found = [predict_records(str(folder), sets, "test") for folder in folders]
    return [
        Extra(
            f"zero_shot {language}",
            "accuracy",
            {"test": ZERO_SHOT[language]} if language in ZERO_SHOT else {},
            [100 * one[language].scores()["accuracy"] for one in found],
        )
        for language in LANGUAGES
    ]


if __name__ == "__main__":
    suite.main(entries, workdir="runs/xnli", finish=finish)
