"""What a family of published models is: one record, in one file of `families/`.

    fields          their config.json and our EncoderConfig                            (fields.py)
    rows, copies    their tensors and our parameters                                   (table.py)
    architectures   their classes: which heads each has, and whether it has a pooler
    forms           how a head of ours is written in their config.json

Heads have one name everywhere: `mlm`, `nsp`, `sop`, `rtd` of pretraining, and `classify`, `choose`, `tag`, `answer`,
`embed` of models/task_heads.py. Their parameters are `heads_NAME/...` in the table.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from bertjax.convert.fields import HEAD_ACTIVATIONS, Field, Fields, Json, activation
from bertjax.convert.table import Copy, Row
from bertjax.layers.config import EncoderConfig
from bertjax.models.task_heads import Answer, Choose, Classify, HeadOptions, Tag

# Names that every PyTorch file may have used for the parameters of a norm: those of TensorFlow.
OLD_NAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


@dataclasses.dataclass(frozen=True)
class Architecture:
    """One of their classes."""

    heads: tuple[str, ...] = ()
    pooler: bool = False


# What most families have: the encoder alone, and with each of the usual heads; none has a pooler.
USUAL_CLASSES = {
    "ForMaskedLM": Architecture(("mlm",)),
    "ForSequenceClassification": Architecture(("classify",)),
    "ForMultipleChoice": Architecture(("choose",)),
    "ForTokenClassification": Architecture(("tag",)),
    "ForQuestionAnswering": Architecture(("answer",)),
    "Model": Architecture(),
}


class Tensors(Protocol):
    """The tensors of a file, by today's names."""

    def __contains__(self, name: object) -> bool:
        """Whether there is one of that name."""

    def __len__(self) -> int:
        """How many there are."""

    def read(self, name: str) -> np.ndarray:
        """One in float32."""


@dataclasses.dataclass(frozen=True)
class Form:
    """A head in their config.json: from it, and into it."""

    load: Callable[[Json], HeadOptions]
    dump: Callable[[Any], dict[str, Any]]
    told: Callable[[Any, Tensors], HeadOptions] = lambda head, tensors: head
    """The head with what its tensors tell and config.json does not."""


@dataclasses.dataclass(frozen=True)
class Constant:
    """A tensor of fixed numbers: its shape, and the numbers."""

    shape: Callable[[EncoderConfig], tuple[int, ...]]
    make: Callable[[EncoderConfig], np.ndarray]


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
    constants: Mapping[str, Constant] = dataclasses.field(default_factory=dict)
    """Tensors of its encoder that are the same in all models."""
    has_mask: bool = True
    """Its classes take a mask of the real tokens."""
    inputs: Callable[[EncoderConfig, np.ndarray], Mapping[str, np.ndarray]] = lambda config, mask: {}
    """What else its classes must be given, or in another form, for rows with these real tokens."""
    writes: bool = False
    """Its class has a decoder, which is told what it has written so far."""
    told: Callable[[Json, Iterable[str]], Mapping[str, Any]] = lambda theirs, names: {}
    """Settings that its class must be told, as a config.json does not say what its tensors' names do."""

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


def read_fields(fields: tuple[Field, ...], theirs: Json) -> dict[str, Any]:
    """Settings of a head, from their config.json."""
    return {field.ours: field.load(theirs.get(field.theirs, field.default)) for field in fields}


def write_fields(fields: tuple[Field, ...], head: HeadOptions) -> dict[str, Any]:
    """The same in their words."""
    return {field.theirs: field.dump(getattr(head, field.ours)) for field in fields}


def hidden_activation(theirs: str, default: str = "gelu") -> Field:
    """The nonlinearity of a layer before the scores, where their config.json names it."""
    return activation(theirs, default, "hidden", HEAD_ACTIVATIONS)


def classify_form(
    dropout: str | None, default: float | None = None, fields: tuple[Field, ...] = (), **fixed: Any
) -> Form:
    """Scores of a row.

    `dropout` names the rate in their config.json, `fields` its other settings of the head; `fixed` is what all heads of
    the family have.
    """

    def load(theirs: Json) -> Classify:
        classes, labels = labels_of(theirs)
        kinds = {name: kind for kind, name in PROBLEMS.items()}
        problem = theirs.get("problem_type") or ("regression" if classes == 1 else PROBLEMS["single"])
        if problem not in kinds:
            raise ValueError(f"config.json: problem_type={problem!r} is not one of {', '.join(kinds)}")
        rate = _rate(theirs, dropout, default)
        more = {**fixed, **read_fields(fields, theirs)}
        return Classify(classes=classes, labels=labels, problem=kinds[problem], dropout=rate, **more)  # type: ignore[arg-type]

    def dump(head: Classify) -> dict[str, Any]:
        more = {"problem_type": PROBLEMS[head.problem], **write_fields(fields, head)}
        return {**labels_json(head.classes, head.labels), **more, **_named(dropout, head.dropout)}

    return Form(load, dump)


def tag_form(
    dropout: str | None, default: float | None = None, fields: tuple[Field, ...] = (), **fixed: Any
) -> Form:
    """Scores of every token."""

    def load(theirs: Json) -> Tag:
        classes, labels = labels_of(theirs)
        more = {**fixed, **read_fields(fields, theirs)}
        return Tag(classes=classes, labels=labels, dropout=_rate(theirs, dropout, default), **more)

    def dump(head: Tag) -> dict[str, Any]:
        more = {**write_fields(fields, head), **_named(dropout, head.dropout)}
        return {**labels_json(head.classes, head.labels), **more}

    return Form(load, dump)


def choose_form(
    dropout: str | None, default: float | None = None, fields: tuple[Field, ...] = (), **fixed: Any
) -> Form:
    """One score of a row."""
    return Form(
        lambda theirs: Choose(
            dropout=_rate(theirs, dropout, default), **{**fixed, **read_fields(fields, theirs)}
        ),
        lambda head: {**write_fields(fields, head), **_named(dropout, head.dropout)},
    )


def answer_form(
    dropout: str | None = None, default: float | None = 0.0, fields: tuple[Field, ...] = (), **fixed: Any
) -> Form:
    """Two scores of every token."""

    def load(theirs: Json) -> Answer:
        if labels_of(theirs)[0] != 2:
            raise ValueError(
                f"config.json: an answer has two scores, its start and its end, not {labels_of(theirs)[0]}"
            )
        more = {**fixed, **read_fields(fields, theirs)}
        return Answer(dropout=_rate(theirs, dropout, default), **more)

    return Form(load, lambda head: {**write_fields(fields, head), **_named(dropout, head.dropout)})


def summary_form(kind: str, projects: bool, nonlinear: str | None, dropout: float) -> Form:
    """One score of what transformers calls the summary of a row; these are its settings where a file is silent."""
    named = hidden_activation("summary_activation")

    def load(theirs: Json) -> Choose:
        way, through = theirs.get("summary_type", kind), theirs.get("summary_use_proj", projects)
        name = theirs.get("summary_activation", nonlinear)
        if way != "first" or bool(through) != bool(name):
            raise ValueError(
                f"config.json: summary_type={way!r} with summary_use_proj={through} and summary_activation={name!r} "
                f"is not supported, only 'first', with a projection and its nonlinearity or without both"
            )
        return Choose(
            pooling="first",
            hidden=named.load(name) if through else None,
            hidden_dropout=_rate(theirs, "summary_first_dropout", 0.0),
            dropout=_rate(theirs, "summary_last_dropout", dropout),
        )

    def dump(head: Choose) -> dict[str, Any]:
        found = {"summary_type": "first", "summary_use_proj": head.hidden is not None}
        last = dropout if head.dropout is None else head.dropout
        rates = {"summary_first_dropout": head.hidden_dropout or 0.0, "summary_last_dropout": last}
        return {**found, **rates, "summary_activation": head.hidden and named.dump(head.hidden)}

    return Form(load, dump)
