"""MPNet (2004.09297): BERT with T5's bias on the scores beside its learned positions, and no token types."""

from collections.abc import Mapping
from typing import Any

from bertjax.convert.families.bert import EMBEDDINGS, PLAIN_HEADS, POOLER, SIZES
from bertjax.convert.family import Architecture, Family, answer_form, choose_form, classify_form, tag_form
from bertjax.convert.fields import Fields, Json, Only, check_kind
from bertjax.convert.table import TOKENS, Copy, Row, attention, linear, norm
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import LearnedT5

OFFSET = 2  # rows of the position table before the first position, whatever the padding token is
BUCKETS, LONGEST = 32, 128  # of the bias, whatever the config says


def load_positions(theirs: Json) -> Mapping[str, Any]:
    """The length of the table without the rows before it."""
    rows = theirs.get("max_position_embeddings", 512)
    check_kind("max_position_embeddings", rows, 512)
    if rows <= OFFSET:
        raise ValueError(f"config.json: max_position_embeddings={rows} leaves no positions")
    return {"max_length": rows - OFFSET, "position": LearnedT5(OFFSET, BUCKETS, LONGEST)}


def dump_positions(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    return {"max_position_embeddings": ours.max_length + OFFSET, "pad_token_id": OFFSET - 1}


MPNET = Family(
    name="mpnet",
    classes="MPNet",
    base="mpnet",
    fields=Fields(
        (*SIZES, Only("relative_attention_num_buckets", BUCKETS), Only("pad_token_id", OFFSET - 1)),
        fixed={"types": None, "head_activation": "gelu"},
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
        Row("encoder/position/buckets", "encoder.relative_attention_bias.weight"),
        *attention(
            "encoder/{layer}/attention",
            query="encoder.layer.{i}.attention.attn.q",
            key="encoder.layer.{i}.attention.attn.k",
            value="encoder.layer.{i}.attention.attn.v",
            output="encoder.layer.{i}.attention.attn.o",
        ),
        *norm("encoder/{layer}/attention_norm", "encoder.layer.{i}.attention.LayerNorm"),
        *linear("encoder/{layer}/mlp/up", "encoder.layer.{i}.intermediate.dense"),
        *linear("encoder/{layer}/mlp/down", "encoder.layer.{i}.output.dense"),
        *norm("encoder/{layer}/mlp_norm", "encoder.layer.{i}.output.LayerNorm"),
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
        "classify": classify_form(None, pooling="first", hidden="tanh"),
        "choose": choose_form(None),
        "tag": tag_form(None),
        "answer": answer_form(),
    },
    has_types=False,
    special=True,
)
