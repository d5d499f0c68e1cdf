"""BigBird (2007.14062): BERT with block-sparse attention, or with all of it (`attention_type=original_full`).

transformers draws random blocks in training only; otherwise it takes the first block for each of them, and so does what
is imported (`plan=first`). Its head of answers, given only token numbers, forbids the tokens of the question; here that
is left to who reads the scores. Scaled embeddings are refused.
"""

from collections.abc import Mapping
from typing import Any

from bertjax.attention.bigbird import BigBird
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
    answer_form,
    choose_form,
    classify_form,
    hidden_activation,
    tag_form,
)
from bertjax.convert.fields import Field, Fields, Json, Only, check_kind
from bertjax.convert.table import linear, norm
from bertjax.layers.config import EncoderConfig, Full

SPARSE, FULL = "block_sparse", "original_full"
BLOCK, RANDOM = 64, 3  # where their config does not say it


def load_attention(theirs: Json) -> Mapping[str, Any]:
    """Sparse or full."""
    kind = theirs.get("attention_type", SPARSE)
    if kind not in (SPARSE, FULL):
        raise ValueError(f"config.json: attention_type={kind!r} is not one of {SPARSE}, {FULL}")
    if kind == FULL:
        return {"attention": Full()}
    block, random = theirs.get("block_size", BLOCK), theirs.get("num_random_blocks", RANDOM)
    check_kind("block_size", block, BLOCK)
    check_kind("num_random_blocks", random, RANDOM)
    return {"attention": BigBird(block=block, random=random, plans=1, plan="first")}


def dump_attention(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    if isinstance(ours.attention, BigBird):
        block, random = ours.attention.block, ours.attention.random
        return {"attention_type": SPARSE, "block_size": block, "num_random_blocks": random}
    return {"attention_type": FULL}


HEAD = "qa_classifier"

BIGBIRD = Family(
    name="big_bird",
    classes="BigBird",
    base="bert",
    fields=Fields(
        (
            *SIZES,
            *ENCODER_ONLY,
            Field("max_position_embeddings", "max_length", 4096),
            Field("type_vocab_size", "types", 2),
            Only("use_bias", True),
            Only("rescale_embeddings", False),
        ),
        load=load_attention,
        dump=dump_attention,
        free=("attention.seed", "attention.plans"),
    ),
    architectures={
        "ForPreTraining": Architecture(("mlm", "nsp"), pooler=True),
        "ForMaskedLM": Architecture(("mlm",), pooler=True),
        "ForSequenceClassification": Architecture(("classify",), pooler=True),
        "ForMultipleChoice": Architecture(("choose",), pooler=True),
        "ForTokenClassification": Architecture(("tag",), pooler=True),
        "ForQuestionAnswering": Architecture(("answer",)),
        "Model": Architecture(pooler=True),
    },
    rows=(
        *EMBEDDINGS,
        *LAYER,
        *linear("encoder/pooler", "pooler"),
        *MASKED_LM,
        *linear("heads_nsp/output", "cls.seq_relationship"),
        *linear("heads_classify/hidden", "classifier.dense"),
        *linear("heads_classify/output", "classifier.out_proj"),
        *linear("heads_answer/mlp/up", f"{HEAD}.intermediate.dense"),
        *linear("heads_answer/mlp/down", f"{HEAD}.output.dense"),
        *norm("heads_answer/mlp_norm", f"{HEAD}.output.LayerNorm"),
        *linear("heads_answer/output", f"{HEAD}.qa_outputs"),
        *PLAIN_HEADS,
    ),
    copies=MASKED_LM_COPIES,
    forms={
        "classify": classify_form(
            "classifier_dropout", fields=(hidden_activation("hidden_act", "gelu_new"),), pooling="first"
        ),
        "choose": choose_form(None),
        "tag": tag_form("classifier_dropout"),
        "answer": answer_form(feedforward=True),
    },
    special=True,
)
