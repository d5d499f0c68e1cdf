"""How the columns of some published sets become texts: a view makes new columns of those that a set has.

    wic       text, pair     both sentences, the word marked in each               I met him at the * bank *.
    wsc       text           the sentence, the noun and the pronoun marked         * Mark * told Pete that # he # won.
    multirc   text, pair     the passage, and a question with one answer; `group` is the question
    record    text, pair     the passage, and the query with an entity in its gap, a record for each entity; `group`
                             is the query, `label` whether the entity is right
    xnli      premise, hypothesis, label   of one language, `records.subset`, by one name in all files

A mark is a character of its own on both sides, as in T5 (1910.10683, Appendix D.15), so no model has to be changed
for it. (The baselines of SuperGLUE concatenate the vectors of the spans instead.)
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, get_args

from bertjax.data.labelled.split import Split

__all__ = ["GAP", "View", "apply"]

View = Literal["wic", "wsc", "multirc", "record", "xnli"]
GAP = "@placeholder"  # in a query of ReCoRD


def apply(view: View, split: Split, subset: str | None) -> Split:
    """The split under a view."""
    assert view in get_args(View)
    return VIEWS[view](split, subset)


def _column(split: Split, name: str, view: str) -> Sequence[Any]:
    return split.column(name, f"records.view={view} for another set, or none")


def _with(split: Split, **columns: list[Any]) -> Split:
    """The split with more columns."""
    every = {**split.columns, **columns}
    return Split(split.name, every, lines=split.lines, classes=split.classes, unit=split.unit)


# ---------------------------------------------------------------------------------------------- marks


def _wic(split: Split, subset: str | None) -> Split:
    del subset
    sides = []
    for side in ("1", "2"):
        names = (f"sentence{side}", f"start{side}", f"end{side}")
        rows = zip(*(_column(split, name, "wic") for name in names), strict=True)
        sides.append([_marked_word(split, index, *row) for index, row in enumerate(rows)])
    return _with(split, text=sides[0], pair=sides[1])


def _marked_word(split: Split, index: int, text: Any, start: Any, end: Any) -> str:
    try:
        start, end = int(start), int(end)
        if not 0 <= start < end <= len(text):
            raise ValueError
    except (TypeError, ValueError):
        raise ValueError(
            f"{split.where(index)}: the word from character {start} to {end} is not in a sentence of "
            f"{len(str(text))}: mend it"
        ) from None
    return f"{text[:start]}* {text[start:end]} *{text[end:]}"


def _wsc(split: Split, subset: str | None) -> Split:
    del subset
    texts = split.texts("text", "records.view=wsc for another set, or none")
    spans = [
        list(zip(*(_column(split, f"span{side}_{what}", "wsc") for what in ("index", "text")), strict=True))
        for side in "12"
    ]
    marked = []
    for index, text in enumerate(texts):
        words = text.split()
        for mark, (first, span) in zip("*#", (side[index] for side in spans), strict=True):
            # The words at the index are meant, also where punctuation sets them apart from the text of the span.
            last = int(first) + max(len(str(span).split()), 1) - 1
            if not 0 <= int(first) <= last < len(words):
                raise ValueError(
                    f"{split.where(index)}: the span {span!r} at word {first} is not in a text of {len(words)} words: "
                    f"mend it"
                )
            words[int(first)] = f"{mark} {words[int(first)]}"
            words[last] = f"{words[last]} {mark}"
        marked.append(" ".join(words))
    return _with(split, text=marked)


# ---------------------------------------------------------------------------------------------- options


def _multirc(split: Split, subset: str | None) -> Split:
    del subset
    questions, answers, numbers = (_column(split, name, "multirc") for name in ("question", "answer", "idx"))
    return _with(
        split,
        text=list(_column(split, "paragraph", "multirc")),
        pair=[f"{question} {answer}" for question, answer in zip(questions, answers, strict=True)],
        group=[f"{one['paragraph']}:{one['question']}" for one in numbers],
    )


def _record(split: Split, subset: str | None) -> Split:
    del subset
    names = ("passage", "query", "entities", "answers", "idx")
    columns = {name: _column(split, name, "record") for name in names}
    rows: list[dict[str, Any]] = []
    owners: list[int] = []
    for index in range(len(split)):
        passage, query, entities, answers, numbers = (columns[name][index] for name in names)
        if GAP not in query or not len(entities):
            what = f"no {GAP} in the query" if GAP not in query else "no entities to put into the query"
            raise ValueError(f"{split.where(index)}: {what}: it is not ReCoRD's layout")
        for entity in entities:
            rows.append(
                {
                    "text": passage.replace("\n@highlight\n", " "),
                    "pair": query.replace(GAP, entity),
                    "option": entity,
                    "answers": list(answers),
                    "group": str(numbers["query"]),
                    "label": ("true" if entity in answers else "false") if len(answers) else None,
                    "idx": numbers,
                }
            )
            owners.append(index)
    return _remade(split, rows, owners)


def _remade(split: Split, rows: Sequence[Mapping[str, Any]], owners: Sequence[int]) -> Split:
    """A split of other records, each made of one of the old ones."""
    values = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    lines = [owner + 1 if split.lines is None else split.lines[owner] for owner in owners]
    return Split(split.name, values, lines=lines, unit="record" if split.lines is None else split.unit)


# ---------------------------------------------------------------------------------------------- languages

XNLI_NAMES = {
    "premise": ("premise", "sentence1"),
    "hypothesis": ("hypothesis", "hypo", "sentence2"),
    "label": ("label", "gold_label"),
}


def _xnli(split: Split, subset: str | None) -> Split:
    """The training files (premise, hypo, label) and those to judge by (language, gold_label, sentence1, ...)."""
    if "language" in split.columns:
        languages = split.columns["language"]
        chosen = [index for index, language in enumerate(languages) if language == subset]
        if not chosen:
            known = ", ".join(sorted(set(map(str, languages))))
            raise ValueError(f"{split.name} has nothing in records.subset={subset}: it has {known}")
        split = split.select(chosen)
    found = {}
    for name, names in XNLI_NAMES.items():
        there = next((one for one in names if one in split.columns), None)
        if there is not None:
            found[name] = list(split.columns[there])
        elif name != "label":
            _column(split, name, "xnli")  # which is not there: says so
    if "label" in found and "label" not in split.classes:
        # The machine-translated training sets say it with another word.
        found["label"] = ["contradiction" if one == "contradictory" else one for one in found["label"]]
    classes = {name: names for name, names in split.classes.items() if name in found}
    return Split(split.name, found, lines=split.lines, classes=classes, unit=split.unit)


VIEWS: dict[str, Callable[[Split, str | None], Split]] = {
    "wic": _wic,
    "wsc": _wsc,
    "multirc": _multirc,
    "record": _record,
    "xnli": _xnli,
}
