"""RoFormer (2104.09864): BERT whose queries and keys are turned by their positions, neighbouring components in pairs.

Its files hold the sines of the rotation as a tensor, which is compared and written, not learned. The head of a choice
reads the first token where `summary_type` says so; by default transformers reads the last position of the padded row,
which is refused.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bertjax.convert.families.bert import (
    EMBEDDINGS,
    ENCODER_ONLY,
    LAYER,
    MASKED_LM,
    MASKED_LM_COPIES,
    PLAIN_HEADS,
    SIZES,
)
from bertjax.convert.family import (
    Architecture,
    Family,
    Form,
    answer_form,
    classify_form,
    hidden_activation,
    tag_form,
)
from bertjax.convert.fields import Field, Fields, Json, Only
from bertjax.convert.table import linear
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import Rope
from bertjax.models.task_heads import Choose

ROTATION = Rope(pairs="neighbours")
SUMMARY = hidden_activation("summary_activation")


def load_width(theirs: Json) -> Mapping[str, Any]:
    """The width of the tables; none where no projection follows."""
    narrow, width = theirs.get("embedding_size"), theirs.get("hidden_size", 768)
    return {"embedding_width": None if narrow in (None, width) else narrow}


def dump_width(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    return {"embedding_size": ours.table_width}


def sines(ours: EncoderConfig) -> np.ndarray:
    """The sines of all positions beside the cosines [length, head size]."""
    size = ours.key_size
    speed = ROTATION.base ** (-np.arange(0, size, 2) / size)
    angle = np.arange(ours.max_length)[:, None] * speed[None, :]
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)


def load_choose(theirs: Json) -> Choose:
    """The head of a choice."""
    kind, projects = theirs.get("summary_type", "last"), theirs.get("summary_use_proj", False)
    nonlinear = theirs.get("summary_activation")
    if kind != "first" or bool(projects) != bool(nonlinear):
        raise ValueError(
            f"config.json: summary_type={kind!r} with summary_use_proj={projects} and summary_activation={nonlinear!r} "
            f"is not supported, only 'first', with a projection and its nonlinearity or without both"
        )
    rate = float(theirs.get("summary_last_dropout", 0.0))
    hidden: Any = SUMMARY.load(nonlinear) if projects else None
    first = float(theirs.get("summary_first_dropout", 0.0))
    return Choose(pooling="first", hidden=hidden, hidden_dropout=first, dropout=rate)


def dump_choose(head: Choose) -> dict[str, Any]:
    """The same in their words."""
    found = {"summary_type": "first", "summary_use_proj": head.hidden is not None}
    rates = {"summary_first_dropout": head.hidden_dropout or 0.0, "summary_last_dropout": head.dropout or 0.0}
    nonlinear = {} if head.hidden is None else {"summary_activation": SUMMARY.dump(head.hidden)}
    return {**found, **rates, **nonlinear}


ROFORMER = Family(
    name="roformer",
    classes="RoFormer",
    base="roformer",
    fields=Fields(
        (
            *SIZES,
            *(only for only in ENCODER_ONLY if only.theirs != "position_embedding_type"),
            Field("max_position_embeddings", "max_length", 1536),
            Field("type_vocab_size", "types", 2),
            Only("rotary_value", False),
        ),
        fixed={"position": ROTATION},
        load=load_width,
        dump=dump_width,
    ),
    architectures={
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
        *MASKED_LM,
        *linear("heads_classify/hidden", "classifier.dense"),
        *linear("heads_classify/output", "classifier.out_proj"),
        *linear("heads_choose/hidden", "sequence_summary.summary"),
        *PLAIN_HEADS,
    ),
    copies=MASKED_LM_COPIES,
    forms={
        "classify": classify_form(None, fields=(hidden_activation("hidden_act"),), pooling="first"),
        "choose": Form(load_choose, dump_choose),
        "tag": tag_form(None),
        "answer": answer_form(),
    },
    constants={"encoder.embed_positions.weight": sines},
)
