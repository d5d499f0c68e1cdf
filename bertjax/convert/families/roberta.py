"""RoBERTa (1907.11692), XLM-RoBERTa (1911.02116), CamemBERT (1911.03894): BERT without sentence pairs.

Positions begin behind the number of the padding token: a table of 514 serves rows of 512. The masked-LM head has gelu
whatever the layers have; the classifier reads the first token through a layer with tanh.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from bertjax.convert.families.bert import EMBEDDINGS, ENCODER_ONLY, LAYER, PLAIN_HEADS, POOLER, SIZES
from bertjax.convert.family import Architecture, Family, answer_form, choose_form, classify_form, tag_form
from bertjax.convert.fields import Field, Fields, Json, check_kind
from bertjax.convert.table import TOKENS, Copy, Row, linear, norm
from bertjax.layers.config import EncoderConfig, Learned

PADDING = 1  # the number of the padding token where their config does not say it


def load_positions(theirs: Json) -> Mapping[str, Any]:
    """Where positions begin, and how many there are."""
    rows, padding = theirs.get("max_position_embeddings", 512), theirs.get("pad_token_id", PADDING)
    check_kind("max_position_embeddings", rows, 512)
    check_kind("pad_token_id", padding, PADDING)
    if padding is None or rows < padding + 2:
        raise ValueError(
            f"config.json: pad_token_id={padding} leaves no positions of max_position_embeddings={rows}"
        )
    return {"max_length": rows - padding - 1, "position": Learned(padding + 1)}


def dump_positions(ours: EncoderConfig) -> Mapping[str, Any]:
    """The size of the table; that positions do not begin there makes the config come back as another one."""
    offset = getattr(ours.position, "offset", 0)
    return {
        "max_position_embeddings": ours.max_length + offset,
        "pad_token_id": offset - 1 if offset else PADDING,
    }


ROBERTA = Family(
    name="roberta",
    classes="Roberta",
    base="roberta",
    fields=Fields(
        (*SIZES, *ENCODER_ONLY, Field("type_vocab_size", "types", 2)),
        fixed={"head_activation": "gelu"},
        load=load_positions,
        dump=dump_positions,
    ),
    architectures={
        "ForMaskedLM": Architecture(("mlm",)),
        "ForSequenceClassification": Architecture(("classify",)),
        "ForMultipleChoice": Architecture(("choose",), pooler=True),
        "ForTokenClassification": Architecture(("tag",)),
        "ForQuestionAnswering": Architecture(("answer",)),
        "Model": Architecture(pooler=True),
    },
    rows=(
        *EMBEDDINGS,
        *LAYER,
        *POOLER,
        *linear("heads_mlm/transform", "lm_head.dense"),
        *norm("heads_mlm/norm", "lm_head.layer_norm"),
        Row("heads_mlm/bias", "lm_head.bias", TOKENS),
        Row("heads_mlm/table", "lm_head.decoder.weight", TOKENS),
        *linear("heads_classify/hidden", "classifier.dense"),
        *linear("heads_classify/output", "classifier.out_proj"),
        *PLAIN_HEADS,
    ),
    copies=(
        Copy("lm_head.decoder.weight", "encoder/embedder/tokens"),
        Copy("lm_head.decoder.bias", "heads_mlm/bias"),
    ),
    forms={
        "classify": classify_form("classifier_dropout", pooling="first", hidden="tanh"),
        "choose": choose_form(None),
        "tag": tag_form("classifier_dropout"),
        "answer": answer_form(),
    },
    special=True,
)
XLM_ROBERTA = dataclasses.replace(ROBERTA, name="xlm-roberta", classes="XLMRoberta")
CAMEMBERT = dataclasses.replace(ROBERTA, name="camembert", classes="Camembert")
