"""Longformer (2004.05150): RoBERTa with a window and a few global tokens, which have projections of their own.

Their config.json does not say which tokens are global: the caller does, with `global_attention_mask`. Here the first
`global_tokens` are, a setting that this project adds to it. Where it is missing they are those that transformers takes
when nothing is asked for: the first token where a row or an answer is scored, else none. (To answers transformers adds
the question and to choices what follows the first separator, which is in no weight: a caller here says so with
`AttentionMask.globals`.) Windows of different width by layer are refused.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bertjax.attention.longformer import Longformer
from bertjax.convert.families.roberta import ROBERTA, dump_positions, load_positions
from bertjax.convert.family import classify_form, tag_form
from bertjax.convert.fields import Fields, Json
from bertjax.convert.table import HEAD_BIAS, TO_HEADS, linear
from bertjax.layers.config import EncoderConfig

WINDOW = 512  # where their config does not say it
SCORED = ("ForSequenceClassification", "ForMultipleChoice", "ForQuestionAnswering")


def load_window(theirs: Json) -> Mapping[str, Any]:
    """The window, the global tokens, and the positions."""
    sizes = theirs.get("attention_window", WINDOW)
    sizes = set(sizes) if isinstance(sizes, list) else {sizes}
    size = max(sizes, default=0)
    if len(sizes) != 1 or not isinstance(size, int) or size < 2 or size % 2:
        raise ValueError(
            f"config.json: attention_window={theirs['attention_window']} is not supported, only one even number"
        )
    scored = any(str(name).endswith(SCORED) for name in theirs.get("architectures") or [])
    tokens = theirs.get("global_tokens", int(scored))
    return {**load_positions(theirs), "attention": Longformer(size=size, tokens=tokens)}


def dump_window(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    options = ours.attention
    if not isinstance(options, Longformer) or options.size % 2:
        raise ValueError("its layers are model.attention=longformer with an even model.attention.size")
    return {
        **dump_positions(ours),
        "attention_window": options.size,
        "global_tokens": options.tokens,
    }


def global_tokens(ours: EncoderConfig, mask: np.ndarray) -> Mapping[str, np.ndarray]:
    """The global tokens as their classes take them."""
    assert isinstance(ours.attention, Longformer)
    first = np.arange(mask.shape[1])[None, :] < ours.attention.tokens
    return {"global_attention_mask": np.broadcast_to(first, mask.shape)}


SELF, OURS = "encoder.layer.{i}.attention.self", "encoder/{layer}/attention"

LONGFORMER = dataclasses.replace(
    ROBERTA,
    name="longformer",
    classes="Longformer",
    base="longformer",
    fields=Fields(
        ROBERTA.fields.rows, ROBERTA.fields.fixed, load_window, dump_window, free=("attention.slots",)
    ),
    rows=(
        *ROBERTA.rows,
        *linear(f"{OURS}/global_query", f"{SELF}.query_global", TO_HEADS, HEAD_BIAS),
        *linear(f"{OURS}/global_key", f"{SELF}.key_global", TO_HEADS, HEAD_BIAS),
        *linear(f"{OURS}/global_value", f"{SELF}.value_global", TO_HEADS, HEAD_BIAS),
    ),
    forms={
        **ROBERTA.forms,
        "classify": classify_form(None, pooling="first", hidden="tanh"),
        "tag": tag_form(None),
    },
    inputs=global_tokens,
)
