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
    USUAL_CLASSES,
    Constant,
    Family,
    answer_form,
    classify_form,
    hidden_activation,
    summary_form,
    tag_form,
)
from bertjax.convert.fields import Field, Fields, Json, Only, check_kind
from bertjax.convert.table import linear
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import Rope

ROTATION = Rope(pairs="neighbours")


def load_width(theirs: Json) -> Mapping[str, Any]:
    """The width of the tables; none where no projection follows."""
    narrow, width = theirs.get("embedding_size"), theirs.get("hidden_size", 768)
    if narrow is not None:
        check_kind("embedding_size", narrow, 768)
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
    architectures=USUAL_CLASSES,
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
        "choose": summary_form("last", False, None, 0.0),
        "tag": tag_form(None),
        "answer": answer_form(),
    },
    constants={
        "encoder.embed_positions.weight": Constant(lambda ours: (ours.max_length, ours.key_size), sines)
    },
)
