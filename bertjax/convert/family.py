"""What a family of published models is: one record, in one file of `families/`.

    fields          their config.json and our EncoderConfig                            (fields.py)
    rows, copies    their tensors and our parameters                                   (table.py)
    architectures   their classes: which heads each has, and whether it has a pooler
    forms           how a head of ours is written in their config.json

Heads have one name everywhere: `mlm`, `nsp`, `sop`, `rtd` of pretraining, and `classify`, `choose`, `tag`, `answer`,
`embed` of models/task_heads.py. Their parameters are `heads_NAME/...` in the table.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bertjax.convert.fields import Fields, Json
from bertjax.convert.table import Copy, Row
from bertjax.models.task_heads import Answer, Choose, Classify, HeadOptions, Tag

# Names that every PyTorch file may have used for the parameters of a norm: those of TensorFlow.
OLD_NAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One of their classes."""

    heads: tuple[str, ...] = ()
    pooler: bool = False


@dataclasses.dataclass(frozen=True)
class Form:
    """A head in their config.json: from it, and into it."""

    load: Callable[[Json], HeadOptions]
    dump: Callable[[Any], dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of published models."""

    name: str
    """`model_type` of its config.json."""
    classes: str
    """What the names of its classes begin with."""
    base: str
    """What is before the encoder's tensors in a class with a head."""
    fields: Fields
    architectures: Mapping[str, Architecture]
    """By the end of the class's name; `Model` is the encoder alone."""
    rows: tuple[Row, ...]
    copies: tuple[Copy, ...] = ()
    forms: Mapping[str, Form] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = (r"(^|\.)position_ids$", r"(^|\.)token_type_ids$")
    """Patterns of tensors that hold no weights."""
    renamed: tuple[tuple[str, str], ...] = OLD_NAMES
    """Patterns of names that older files have, and today's."""
    has_types: bool = True
    """Its classes take token types as an input."""
    implementation: str = "eager"
    """How its classes compute attention when they are compared with ours."""
    special: bool = False
    """Its config.json names the tokens that begin and end a text, as RoBERTa's does."""

    def class_name(self, architecture: str) -> str:
        """The whole name of one of its classes."""
        return self.classes + architecture


# ---------------------------------------------------------------------------------------------- heads


def labels_of(theirs: Json) -> tuple[int, tuple[str, ...]]:
    """How many classes a config.json has, and their names if they are any."""
    names = theirs.get("id2label")
    if not names:
        return int(theirs.get("num_labels", 2)), ()
    try:
        ordered = [str(names[key]) for key in sorted(names, key=int)]
        if [int(key) for key in sorted(names, key=int)] != list(range(len(names))):
            raise ValueError
    except (ValueError, TypeError, AttributeError):
        raise ValueError(
            "config.json: id2label does not number the classes from 0: the file is damaged"
        ) from None
    plain = [f"LABEL_{i}" for i in range(len(ordered))]
    return len(ordered), () if ordered == plain else tuple(ordered)


def labels_json(classes: int, labels: tuple[str, ...]) -> dict[str, Any]:
    """The same in their words."""
    names = labels or tuple(f"LABEL_{i}" for i in range(classes))
    return {
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}


def _rate(theirs: Json, name: str | None, default: float | None) -> float | None:
    value = default if name is None else theirs.get(name, default)
    return None if value is None else float(value)


def _named(name: str | None, value: float | None) -> dict[str, Any]:
    return {} if name is None else {name: value}


def classify_form(dropout: str | None, default: float | None = None, **fixed: Any) -> Form:
    """Scores of a row; `dropout` names the rate in their config.json, `fixed` is what the family's head is made of."""

    def load(theirs: Json) -> Classify:
        classes, labels = labels_of(theirs)
        kinds = {name: kind for kind, name in PROBLEMS.items()}
        problem = theirs.get("problem_type") or ("regression" if classes == 1 else PROBLEMS["single"])
        if problem not in kinds:
            raise ValueError(f"config.json: problem_type={problem!r} is not one of {', '.join(kinds)}")
        rate = _rate(theirs, dropout, default)
        return Classify(classes=classes, labels=labels, problem=kinds[problem], dropout=rate, **fixed)  # type: ignore[arg-type]

    def dump(head: Classify) -> dict[str, Any]:
        problem = {"problem_type": PROBLEMS[head.problem]}
        return {**labels_json(head.classes, head.labels), **problem, **_named(dropout, head.dropout)}

    return Form(load, dump)


def tag_form(dropout: str | None, default: float | None = None, **fixed: Any) -> Form:
    """Scores of every token."""

    def load(theirs: Json) -> Tag:
        classes, labels = labels_of(theirs)
        return Tag(classes=classes, labels=labels, dropout=_rate(theirs, dropout, default), **fixed)

    def dump(head: Tag) -> dict[str, Any]:
        return {**labels_json(head.classes, head.labels), **_named(dropout, head.dropout)}

    return Form(load, dump)


def choose_form(dropout: str | None, default: float | None = None, **fixed: Any) -> Form:
    """One score of a row."""
    return Form(
        lambda theirs: Choose(dropout=_rate(theirs, dropout, default), **fixed),
        lambda head: _named(dropout, head.dropout),
    )


def answer_form(dropout: str | None = None, default: float | None = 0.0, **fixed: Any) -> Form:
    """Two scores of every token."""

    def load(theirs: Json) -> Answer:
        if labels_of(theirs)[0] != 2:
            raise ValueError(
                f"config.json: an answer has two scores, its start and its end, not {labels_of(theirs)[0]}"
            )
        return Answer(dropout=_rate(theirs, dropout, default), **fixed)

    return Form(load, lambda head: _named(dropout, head.dropout))
