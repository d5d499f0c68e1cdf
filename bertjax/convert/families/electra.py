"""ELECTRA (2003.10555): a discriminator that tells replaced tokens, and the generator that replaces them.

Both are BERT's encoder without a pooler, with narrow embeddings where `embedding_size` is not `hidden_size`. The two
halves are published apart; a model that holds both is written one half at a time.
"""

from collections.abc import Mapping
from typing import Any

from bertjax.convert.families.bert import EMBEDDINGS, ENCODER_ONLY, LAYER, PLAIN_HEADS, SIZES
from bertjax.convert.family import Architecture, Family, Form, answer_form, classify_form, tag_form
from bertjax.convert.fields import ACTIVATIONS, Field, Fields, Json, check_kind
from bertjax.convert.table import TOKENS, Copy, Row, linear, norm
from bertjax.layers.config import EncoderConfig
from bertjax.models.task_heads import Choose

SUMMARY = {"summary_type": "first", "summary_use_proj": True}  # what a row of a choice is reduced to


def load_width(theirs: Json) -> Mapping[str, Any]:
    """The width of the tables; none where no projection follows."""
    narrow, width = theirs.get("embedding_size", 128), theirs.get("hidden_size", 256)
    check_kind("embedding_size", narrow, 128)
    return {"embedding_width": None if narrow == width else narrow}


def dump_width(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    return {"embedding_size": ours.table_width}


def load_choose(theirs: Json) -> Choose:
    """The head of a choice."""
    for name, value in SUMMARY.items():
        if theirs.get(name, value) != value:
            raise ValueError(f"config.json: {name}={theirs[name]!r} is not supported, only {value!r}")
    nonlinear = theirs.get("summary_activation", "gelu")
    if nonlinear not in ACTIVATIONS:
        raise ValueError(
            f"config.json: summary_activation={nonlinear!r} is not one of {', '.join(ACTIVATIONS)}"
        )
    rate = float(theirs.get("summary_last_dropout", 0.1))
    hidden: Any = ACTIVATIONS[nonlinear]
    return Choose(pooling="first", hidden=hidden, hidden_dropout=0.0, dropout=rate)


def dump_choose(head: Choose) -> dict[str, Any]:
    """The same in their words."""
    names = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    activation = {"summary_activation": names.get(str(head.hidden), "gelu")}
    return {**SUMMARY, **activation, "summary_last_dropout": 0.1 if head.dropout is None else head.dropout}


ELECTRA = Family(
    name="electra",
    classes="Electra",
    base="electra",
    fields=Fields(
        (
            *SIZES,
            *ENCODER_ONLY,
            Field("max_position_embeddings", "max_length", 512),
            Field("type_vocab_size", "types", 2),
        ),
        fixed={"head_activation": "gelu"},
        load=load_width,
        dump=dump_width,
    ),
    architectures={
        "ForPreTraining": Architecture(("rtd",)),
        "ForMaskedLM": Architecture(("mlm",)),
        "ForSequenceClassification": Architecture(("classify",)),
        "ForMultipleChoice": Architecture(("choose",)),
        "ForTokenClassification": Architecture(("tag",)),
        "ForQuestionAnswering": Architecture(("answer",)),
        "Model": Architecture(),
    },
    rows=(
        *EMBEDDINGS,
        *linear("encoder/embedder/projection", "embeddings_project"),
        *LAYER,
        *linear("heads_rtd/transform", "discriminator_predictions.dense"),
        *linear("heads_rtd/output", "discriminator_predictions.dense_prediction"),
        *linear("heads_mlm/transform", "generator_predictions.dense"),
        *norm("heads_mlm/norm", "generator_predictions.LayerNorm"),
        Row("heads_mlm/bias", "generator_lm_head.bias", TOKENS),
        Row("heads_mlm/table", "generator_lm_head.weight", TOKENS),
        *linear("heads_classify/hidden", "classifier.dense"),
        *linear("heads_classify/output", "classifier.out_proj"),
        *linear("heads_choose/hidden", "sequence_summary.summary"),
        *PLAIN_HEADS,
    ),
    copies=(Copy("generator_lm_head.weight", "encoder/embedder/tokens"),),
    forms={
        "classify": classify_form("classifier_dropout", pooling="first", hidden="gelu"),
        "choose": Form(load_choose, dump_choose),
        "tag": tag_form("classifier_dropout"),
        "answer": answer_form(),
    },
)
