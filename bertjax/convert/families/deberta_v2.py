"""DeBERTa's second and third version (2006.03654, 2111.09543): content and relative position in separate vectors.

Both are one model to their config.json. The second has a convolution beside its first layer, the third has not. The
masked-LM head is read under both of its names, that of the published files (`lm_predictions.lm_head`, legacy=false) and
that of transformers (`cls.predictions`), and written under the second. The enhanced mask decoder, by which the authors
pretrained, is in no published class: as there, the head stands on the last layer, and its tensors (`mask_predictions`,
`position_embeddings`) are passed over. Absolute positions beside relative ones, which no published model has, and
embeddings of another width are refused.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from bertjax.attention.disentangled import Disentangled
from bertjax.convert.families.bert import MASKED_LM, MASKED_LM_COPIES, OUTPUTS, PLAIN_HEADS
from bertjax.convert.family import (
    OLD_NAMES,
    USUAL_CLASSES,
    Family,
    answer_form,
    choose_form,
    classify_form,
    hidden_activation,
    tag_form,
)
from bertjax.convert.fields import HEAD_ACTIVATIONS, Field, Fields, Json, Only, activation, check_kind
from bertjax.convert.table import (
    HEAD_BIAS,
    TO_HEADS,
    TOKENS,
    Row,
    attention,
    linear,
    norm,
    one_to_one,
)
from bertjax.layers.config import EncoderConfig, Full, Learned
from bertjax.layers.position import NoPosition, Relative

LENGTH, WIDTH = 512, 1536  # where their config does not say it
CONVOLUTION = activation("conv_act", "tanh", "convolution_activation", HEAD_ACTIVATIONS)


def load_positions(theirs: Json) -> Mapping[str, Any]:
    """What their settings of positions, attention and convolution are in ours."""
    width, heads = theirs.get("hidden_size", WIDTH), theirs.get("num_attention_heads", 24)
    for name, size in (
        ("embedding_size", width),
        ("pooler_hidden_size", width),
        ("attention_head_size", None),
    ):
        size = width // heads if size is None else size
        if theirs.get(name, size) != size:
            raise ValueError(f"config.json: {name}={theirs[name]!r} is not supported, only {size}")
    found: dict[str, Any] = {}
    taps = theirs.get("conv_kernel_size", 0)
    check_kind("conv_kernel_size", taps, 0)
    if taps:
        if theirs.get("conv_groups", 1) != 1:
            raise ValueError(f"config.json: conv_groups={theirs['conv_groups']!r} is not supported, only 1")
        nonlinear = CONVOLUTION.load(theirs.get("conv_act", "tanh"))
        found = {"convolution": taps, "convolution_activation": nonlinear}
    if not theirs.get("legacy", True):
        found["tied"] = True  # that head reads the embeddings, whatever else is said
    absolute, relative = theirs.get("position_biased_input", True), theirs.get("relative_attention", False)
    terms = theirs.get("pos_att_type") or []
    terms = {part.strip() for part in terms.lower().split("|")} if isinstance(terms, str) else set(terms)
    if absolute and relative or terms - {"c2p", "p2c"} or (terms and not relative):
        raise ValueError(
            f"config.json: relative_attention={relative} with position_biased_input={absolute} and pos_att_type="
            f"{'|'.join(sorted(terms)) or None} is not supported, only relative positions (c2p, p2c) or absolute ones"
        )
    if not relative:
        return {**found, "attention": Full(), "position": Learned() if absolute else NoPosition()}
    length, span = theirs.get("max_position_embeddings", LENGTH), theirs.get("max_relative_positions", -1)
    buckets, norms = theirs.get("position_buckets", -1), str(theirs.get("norm_rel_ebd", "none"))
    whole = {"max_position_embeddings": length, "max_relative_positions": span, "position_buckets": buckets}
    for name, number in whole.items():
        if not isinstance(number, int):
            raise ValueError(f"config.json: {name}={number!r} should be a whole number: the file is damaged")
    position = Relative(
        buckets=buckets if buckets > 0 else None,
        max_distance=span if span > 0 else length,
        norm="layer_norm" in norms.lower().split("|"),
    )
    share = bool(theirs.get("share_att_key", False))
    return {**found, "attention": Disentangled("c2p" in terms, "p2c" in terms, share), "position": position}


def dump_positions(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words."""
    found: dict[str, Any] = {"legacy": True}
    if ours.convolution is not None:
        found["conv_kernel_size"] = ours.convolution
        found["conv_act"] = CONVOLUTION.dump(ours.convolution_activation)
    position, mixing = ours.position, ours.attention
    if isinstance(mixing, Disentangled) and isinstance(position, Relative):
        terms = [name for name, used in (("c2p", mixing.c2p), ("p2c", mixing.p2c)) if used]
        return {
            **found,
            "relative_attention": True,
            "position_biased_input": False,
            "pos_att_type": "|".join(terms),
            "share_att_key": mixing.share,
            "position_buckets": -1 if position.buckets is None else position.buckets,
            "max_relative_positions": position.max_distance,
            "norm_rel_ebd": "layer_norm" if position.norm else "none",
        }
    return {**found, "relative_attention": False, "position_biased_input": isinstance(position, Learned)}


def told(theirs: Json, names: Iterable[str]) -> Mapping[str, Any]:
    """Published files have the newer head, and their config.json is older than the setting that says so."""
    newer = "legacy" not in theirs and any(name.startswith("lm_predictions.") for name in names)
    return {"legacy": False} if newer else {}


POOLER = (
    hidden_activation("pooler_hidden_act"),
    Field("pooler_dropout", "hidden_dropout", 0.0, float, lambda rate: 0.0 if rate is None else rate),
)
SELF = "encoder.layer.{i}.attention.self"
TAPS = one_to_one(
    lambda x, shape: x.transpose(2, 1, 0), lambda y: y.transpose(2, 1, 0)
)  # [out in T], [T in out]

DEBERTA_V2 = Family(
    name="deberta-v2",
    classes="DebertaV2",
    base="deberta",
    fields=Fields(
        (
            Field("vocab_size", "vocab", 128100),
            Field("hidden_size", "width", WIDTH),
            Field("num_hidden_layers", "layers", 24),
            Field("num_attention_heads", "heads", 24),
            Field("intermediate_size", "feedforward", 6144),
            Field("hidden_dropout_prob", "dropout", 0.1, float),
            Field("attention_probs_dropout_prob", "attention_dropout", 0.1, float),
            Field("max_position_embeddings", "max_length", LENGTH),
            Field("type_vocab_size", "types", 0, lambda kinds: kinds or None, lambda kinds: kinds or 0),
            Field("initializer_range", "init_std", 0.02, float),
            Field("layer_norm_eps", "norm_epsilon", 1e-7, float),
            Field("tie_word_embeddings", "tied", True),
            activation("hidden_act"),
            Only("is_decoder", False),
        ),
        load=load_positions,
        dump=dump_positions,
    ),
    architectures=USUAL_CLASSES,
    rows=(
        Row("encoder/embedder/tokens", "embeddings.word_embeddings.weight", TOKENS),
        Row("encoder/embedder/types", "embeddings.token_type_embeddings.weight"),
        *norm("encoder/embedder/norm", "embeddings.LayerNorm"),
        # A vector a position, or a vector a distance: the first table of ours is one of two of theirs.
        Row(
            "encoder/position/embedding",
            "embeddings.position_embeddings.weight",
            when=lambda config: isinstance(config.position, Learned),
        ),
        Row("encoder/position/embedding", "encoder.rel_embeddings.weight"),
        *norm("encoder/position/norm", "encoder.LayerNorm"),
        *attention(
            "encoder/{layer}/attention",
            query=f"{SELF}.query_proj",
            key=f"{SELF}.key_proj",
            value=f"{SELF}.value_proj",
            output="encoder.layer.{i}.attention.output.dense",
        ),
        *linear("encoder/{layer}/attention/position_query", f"{SELF}.pos_query_proj", TO_HEADS, HEAD_BIAS),
        *linear("encoder/{layer}/attention/position_key", f"{SELF}.pos_key_proj", TO_HEADS, HEAD_BIAS),
        *OUTPUTS,
        Row("encoder/{layer}/convolution/taps/kernel", "encoder.conv.conv.weight", TAPS),
        Row("encoder/{layer}/convolution/taps/bias", "encoder.conv.conv.bias"),
        *norm("encoder/{layer}/convolution_norm", "encoder.conv.LayerNorm"),
        *MASKED_LM,
        *linear("heads_classify/hidden", "pooler.dense"),
        *linear("heads_classify/output", "classifier"),
        *linear("heads_choose/hidden", "pooler.dense"),
        *PLAIN_HEADS,
    ),
    copies=MASKED_LM_COPIES,
    forms={
        "classify": classify_form("cls_dropout", fields=POOLER, pooling="first"),
        "choose": choose_form("cls_dropout", fields=POOLER, pooling="first"),
        "tag": tag_form(None),
        "answer": answer_form(),
    },
    ignored=(r"(^|\.)position_ids$", r"(^|\.)position_embeddings\.weight$", r"^mask_predictions\."),
    renamed=(
        *OLD_NAMES,
        (r"^lm_predictions\.lm_head\.(dense|LayerNorm)\.", r"cls.predictions.transform.\1."),
        (r"^lm_predictions\.lm_head\.bias$", "cls.predictions.bias"),
    ),
    told=told,
)
