"""ELECTRA (2003.10555): a discriminator that tells replaced tokens, and the generator that replaces them.

Both are BERT's encoder without a pooler, with narrow embeddings where `embedding_size` is not `hidden_size`. The two
halves are published apart; a model that holds both is written one half at a time.
"""

from collections.abc import Mapping
from typing import Any

from bertjax.convert.families.bert import EMBEDDINGS, ENCODER_ONLY, LAYER, PLAIN_HEADS, SIZES
from bertjax.convert.family import (
    USUAL_CLASSES,
    Architecture,
    Family,
    answer_form,
    classify_form,
    summary_form,
    tag_form,
)
from bertjax.convert.fields import Field, Fields, Json, check_kind
from bertjax.convert.table import TOKENS, Copy, Row, linear, norm
from bertjax.layers.config import EncoderConfig


def load_width(theirs: Json) -> Mapping[str, Any]:
    """The width of the tables; none where no projection follows."""
    narrow, width = theirs.get("embedding_size", 128), theirs.get("hidden_size", 256)
    check_kind("embedding_size", narrow, 128)
    return {"embedding_width": None if narrow == width else narrow}


def dump_width(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    return {"embedding_size": ours.table_width}


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
        **USUAL_CLASSES,
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
        "choose": summary_form("first", True, "gelu", 0.1),
        "tag": tag_form("classifier_dropout"),
        "answer": answer_form(),
    },
)
