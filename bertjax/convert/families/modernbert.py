"""ModernBERT (2412.13663): pre-norm without a first norm, GeGLU, no biases, rotary positions, local and global layers.

Query, key and value are one matrix, and so are the two halves of the gated feed-forward part, the one behind the
nonlinearity first. All heads have the masked-LM head's layer and norm between the encoder and their scores. Biases
that some products have and others have not, and layers that do not alternate regularly, are refused.
"""

from collections.abc import Mapping
from typing import Any

from bertjax.attention.local_global import LocalGlobal
from bertjax.convert.family import (
    USUAL_CLASSES,
    Family,
    answer_form,
    choose_form,
    classify_form,
    hidden_activation,
    tag_form,
)
from bertjax.convert.fields import UNGATED, Field, Fields, Json, Only, activation, check_kind
from bertjax.convert.table import (
    FROM_HEADS,
    HEAD_BIAS,
    SAME,
    TO_HEADS,
    TOKENS,
    TRANSPOSE,
    Copy,
    Row,
    fused,
    linear,
    norm,
)
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import Rope

BIASES = ("attention_bias", "mlp_bias", "classifier_bias")
GLOBAL, LOCAL = "full_attention", "sliding_attention"


def load_layers(theirs: Json) -> Mapping[str, Any]:
    """Which layers are global, how positions turn in them, and whether products have biases."""
    biases = {name: theirs.get(name, False) for name in BIASES}
    if len(set(biases.values())) > 1:
        told = ", ".join(f"{name}={value}" for name, value in biases.items())
        raise ValueError(f"config.json: {told}: only all of them or none can have biases")
    layers, every = theirs.get("num_hidden_layers", 22), theirs.get("global_attn_every_n_layers", 3)
    size, kinds = theirs.get("local_attention", 128), theirs.get("layer_types")
    check_kind("global_attn_every_n_layers", every, 3)
    check_kind("local_attention", size, 128)
    if kinds is not None:
        full = [index for index, kind in enumerate(kinds) if kind == GLOBAL]
        every = full[1] if len(full) > 1 else max(layers, 1)
        if list(kinds) != [LOCAL if index % every else GLOBAL for index in range(layers)]:
            raise ValueError(f"config.json: layer_types={kinds} is not one {GLOBAL} in every so many layers")
    base = base_of(theirs, GLOBAL, "global_rope_theta", 160_000.0)
    local = base_of(theirs, LOCAL, "local_rope_theta", 10_000.0)
    assert base is not None
    return {
        "bias": biases["attention_bias"],
        "position": Rope(base=base),
        "attention": LocalGlobal(every=every, size=size, local_base=local),
    }


def base_of(theirs: Json, kind: str, older: str, default: float) -> float | None:
    """The base of the rotation in layers of one kind; older files name it otherwise."""
    both = theirs.get("rope_parameters") or {}
    newer = both.get(kind) or {} if isinstance(both, Mapping) else None
    if not isinstance(newer, Mapping):
        raise ValueError(
            f"config.json: rope_parameters={both!r} is no table of layer kinds: the file is damaged"
        )
    if newer.get("rope_type", "default") != "default" or theirs.get("rope_scaling"):
        raise ValueError("config.json: rotations that are scaled are not supported, only rope_type='default'")
    if "rope_theta" in newer:
        return float(newer["rope_theta"])
    base = theirs.get(older, default)
    if base is None and kind == GLOBAL:
        raise ValueError(f"config.json: {older} is missing: the file is damaged")
    return None if base is None else float(base)


def dump_layers(ours: EncoderConfig) -> Mapping[str, Any]:
    """The same in their words, in those that all versions read."""
    found = {name: ours.bias for name in BIASES}
    if not isinstance(ours.attention, LocalGlobal) or not isinstance(ours.position, Rope):
        raise ValueError("its layers are model.attention=local_global with model.position=rope")
    base, local = ours.position.base, ours.attention.local_base
    return {
        **found,
        "embedding_dropout": ours.dropout,
        "global_attn_every_n_layers": ours.attention.every,
        "local_attention": ours.attention.size,
        "global_rope_theta": base,
        "local_rope_theta": base if local is None else local,
    }


def load_gated(name: Any) -> str:
    """The gated nonlinearity with theirs in it."""
    return {"gelu": "geglu", "silu": "swiglu"}[PLAIN.load(name)]


def dump_gated(ours: str) -> Any:
    """Theirs."""
    if ours not in UNGATED:
        raise ValueError(f"model.activation={ours} has no gate: it can be {', '.join(UNGATED)}")
    return PLAIN.dump(UNGATED[ours])


PLAIN = activation("hidden_activation", names={"gelu": "gelu", "silu": "silu", "swish": "silu"})
POOLINGS = {"cls": "first", "mean": "mean"}


def load_pooling(theirs: Any) -> str:
    """What the scores of a row read."""
    if theirs not in POOLINGS:
        raise ValueError(f"config.json: classifier_pooling={theirs!r} is not one of {', '.join(POOLINGS)}")
    return POOLINGS[theirs]


def dump_pooling(ours: str) -> str:
    """The same in their word."""
    for theirs, pooling in POOLINGS.items():
        if pooling == ours:
            return theirs
    raise ValueError(f"a head with pooling={ours}: it can be {', '.join(POOLINGS.values())}")


BETWEEN = (hidden_activation("classifier_activation"),)
POOLED = (*BETWEEN, Field("classifier_pooling", "pooling", "cls", load_pooling, dump_pooling))


def head(name: str) -> tuple[Row, ...]:
    """A layer, a norm and scores."""
    return (
        *linear(f"heads_{name}/hidden", "head.dense"),
        *norm(f"heads_{name}/norm", "head.norm"),
        *linear(f"heads_{name}/output", "classifier"),
    )


def together(ours: tuple[str, ...], theirs: str, kernel: Any, bias: Any) -> tuple[Row, ...]:
    """The rows of several layers of ours that are one of theirs."""
    parts = len(ours)
    return (
        Row(tuple(f"{path}/kernel" for path in ours), f"{theirs}.weight", fused(kernel, parts)),
        Row(tuple(f"{path}/bias" for path in ours), f"{theirs}.bias", fused(bias, parts)),
    )


MIXING, GATED = "encoder/{layer}/attention", "encoder/{layer}/mlp"

MODERNBERT = Family(
    name="modernbert",
    classes="ModernBert",
    base="model",
    fields=Fields(
        (
            Field("vocab_size", "vocab", 50368),
            Field("hidden_size", "width", 768),
            Field("num_hidden_layers", "layers", 22),
            Field("num_attention_heads", "heads", 12),
            Field("intermediate_size", "feedforward", 1152),
            Field("max_position_embeddings", "max_length", 8192),
            Field("mlp_dropout", "dropout", 0.0, float),
            Field("attention_dropout", "attention_dropout", 0.0, float),
            Field("initializer_range", "init_std", 0.02, float),
            Field("tie_word_embeddings", "tied", True),
            Field("norm_eps", "norm_epsilon", 1e-5, float),
            Field("norm_bias", "norm_bias", False),
            Field("hidden_activation", "activation", "gelu", load_gated, dump_gated),
            activation("classifier_activation", "gelu", "head_activation"),
            Only("decoder_bias", True),
        ),
        fixed={"types": None, "block": "pre", "first_norm": False},
        load=load_layers,
        dump=dump_layers,
    ),
    architectures=USUAL_CLASSES,
    rows=(
        Row("encoder/embedder/tokens", "embeddings.tok_embeddings.weight", TOKENS),
        *norm("encoder/embedder/norm", "embeddings.norm"),
        *together(
            (f"{MIXING}/query", f"{MIXING}/key", f"{MIXING}/value"),
            "layers.{i}.attn.Wqkv",
            TO_HEADS,
            HEAD_BIAS,
        ),
        *linear(f"{MIXING}/output", "layers.{i}.attn.Wo", FROM_HEADS),
        *norm("encoder/{layer}/attention_norm", "layers.{i}.attn_norm"),
        *together((f"{GATED}/gate", f"{GATED}/up"), "layers.{i}.mlp.Wi", TRANSPOSE, SAME),
        *linear(f"{GATED}/down", "layers.{i}.mlp.Wo"),
        *norm("encoder/{layer}/mlp_norm", "layers.{i}.mlp_norm"),
        *norm("encoder/final_norm", "final_norm"),
        *linear("heads_mlm/transform", "head.dense"),
        *norm("heads_mlm/norm", "head.norm"),
        Row("heads_mlm/bias", "decoder.bias", TOKENS),
        Row("heads_mlm/table", "decoder.weight", TOKENS),
        *head("classify"),
        *head("choose"),
        *head("tag"),
        *head("answer"),
    ),
    copies=(Copy("decoder.weight", "encoder/embedder/tokens"),),
    forms={
        "classify": classify_form("classifier_dropout", 0.0, POOLED, hidden_norm=True, hidden_dropout=0.0),
        "choose": choose_form("classifier_dropout", 0.0, POOLED, hidden_norm=True, hidden_dropout=0.0),
        "tag": tag_form("classifier_dropout", 0.0, BETWEEN, hidden_norm=True, hidden_dropout=0.0),
        "answer": answer_form("classifier_dropout", 0.0, BETWEEN, hidden_norm=True, hidden_dropout=0.0),
    },
    has_types=False,
    special=True,
)
