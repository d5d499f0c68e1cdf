"""Nystroemformer (2102.03902): BERT whose attention goes through a few landmarks.

Two numbers decide what the published models compute: with as many landmarks as `segment_means_seq_len` attention is
exact in rows of any length, and so it is here, with as many landmarks as positions; otherwise transformers takes rows
of that length alone, padding included, and only models whose positions are as many are read. Both mix padding in.
Positions begin at the third row of their table, whatever the padding token is.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from bertjax.attention.nystroem import Nystroem
from bertjax.convert.families.bert import (
    EMBEDDINGS,
    LAYER,
    MASKED_LM,
    MASKED_LM_COPIES,
    PLAIN_HEADS,
    SIZES,
)
from bertjax.convert.family import (
    USUAL_CLASSES,
    Family,
    answer_form,
    choose_form,
    classify_form,
    hidden_activation,
    tag_form,
)
from bertjax.convert.fields import Field, Fields, Json, Only, check_kind
from bertjax.convert.table import Row, linear, one_to_one
from bertjax.layers.config import EncoderConfig, Learned

OFFSET = 2  # rows of the position table before that of the first position
LENGTH = 510  # these three where their config does not say it
LANDMARKS = 64
TAPS = 65


def load_attention(theirs: Json) -> Mapping[str, Any]:
    """Landmarks and convolution."""
    length, taps = theirs.get("max_position_embeddings", LENGTH), theirs.get("conv_kernel_size", TAPS)
    landmarks, rows = (theirs.get(key, LANDMARKS) for key in ("num_landmarks", "segment_means_seq_len"))
    check_kind("max_position_embeddings", length, LENGTH)
    check_kind("num_landmarks", landmarks, LANDMARKS)
    if taps is not None:
        check_kind("conv_kernel_size", taps, TAPS)
    if landmarks != rows and (rows != length or rows % landmarks):
        raise ValueError(
            f"config.json: segment_means_seq_len={rows} is not supported, only max_position_embeddings={length} if "
            f"num_landmarks={landmarks} divides it, or num_landmarks"
        )
    landmarks = length if landmarks == rows else landmarks
    return {"attention": Nystroem(landmarks=landmarks, convolution=taps, padding="mixed")}


def dump_attention(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    if not isinstance(ours.attention, Nystroem):
        raise ValueError("its layers are model.attention=nystroem")
    return {
        "num_landmarks": ours.attention.landmarks,
        "segment_means_seq_len": ours.max_length,
        "conv_kernel_size": ours.attention.convolution,
    }


def mask_of(ours: EncoderConfig, mask: np.ndarray) -> Mapping[str, np.ndarray]:
    """With landmarks the classes fail at a mask of tokens, but take one that is added to the scores."""
    assert isinstance(ours.attention, Nystroem)
    if ours.attention.landmarks >= ours.max_length:
        return {}
    return {"attention_mask": np.where(mask, 0, -(10**9))[:, None, None, :]}


FILTERS = one_to_one(lambda x, shape: x[:, 0, :, 0].T, lambda y: np.asarray(y).T[:, None, :, None])

NYSTROMFORMER = Family(
    name="nystromformer",
    classes="Nystromformer",
    base="nystromformer",
    fields=Fields(
        (
            *SIZES,
            Field("max_position_embeddings", "max_length", LENGTH),
            Field("type_vocab_size", "types", 2),
            Only("add_cross_attention", False),
            Only("inv_coeff_init_option", False),
        ),
        fixed={"position": Learned(OFFSET)},
        load=load_attention,
        dump=dump_attention,
    ),
    architectures=USUAL_CLASSES,
    rows=(
        *EMBEDDINGS,
        *LAYER,
        Row("encoder/{layer}/attention/convolution", "encoder.layer.{i}.attention.self.conv.weight", FILTERS),
        *MASKED_LM,
        *linear("heads_classify/hidden", "classifier.dense"),
        *linear("heads_classify/output", "classifier.out_proj"),
        *linear("heads_choose/hidden", "pre_classifier"),
        *PLAIN_HEADS,
    ),
    copies=MASKED_LM_COPIES,
    forms={
        "classify": classify_form(
            None, fields=(hidden_activation("hidden_act", "gelu_new"),), pooling="first"
        ),
        "choose": choose_form(None, 0.0, pooling="first", hidden="relu", hidden_dropout=0.0),
        "tag": tag_form(None),
        "answer": answer_form(),
    },
    inputs=mask_of,
)
