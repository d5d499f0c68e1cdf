"""Small models of every family: config.json files with unusual values, and random parameters for them."""

import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from bertjax.config import Config
from bertjax.convert.families import FAMILIES
from bertjax.convert.family import Family
from bertjax.convert.model import PRETRAINING, Model, shapes_of
from bertjax.convert.writing import plan_writing
from bertjax.data.corpus import Vocabulary

BERT_LIKE: dict[str, Any] = {
    "vocab_size": 53,
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 18,
    "type_vocab_size": 3,
    "layer_norm_eps": 1e-3,
    "hidden_act": "gelu_new",
    "pad_token_id": 2,
}
# One side of an encoder-decoder says all of it: its groups are compared whole.
ONE_SIDE: dict[str, Any] = {
    **{name: value for name, value in BERT_LIKE.items() if name != "pad_token_id"},
    "model_type": "bert",
    "hidden_dropout_prob": 0.1,
    "attention_probs_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "position_embedding_type": "absolute",
}


def two_sides(**of_decoder: Any) -> dict[str, Any]:
    """An encoder, and a decoder with changes."""
    encoder = {**ONE_SIDE, "is_decoder": False, "add_cross_attention": False, "tie_word_embeddings": True}
    decoder = {**encoder, "is_decoder": True, "add_cross_attention": True, **of_decoder}
    return {"encoder": encoder, "decoder": decoder, "is_encoder_decoder": True}


# By family: a config.json without a class. Every size is another, so that an exchanged axis cannot hide.
CONFIGS: dict[str, dict[str, Any]] = {
    "bert": BERT_LIKE,
    "roberta": {**BERT_LIKE, "type_vocab_size": 1},
    "xlm-roberta": BERT_LIKE,
    "camembert": BERT_LIKE,
    "distilbert": {
        "vocab_size": 53,
        "dim": 24,
        "n_layers": 3,
        "n_heads": 3,
        "hidden_dim": 40,
        "max_position_embeddings": 16,
        "activation": "relu",
        "pad_token_id": 2,
    },
    "albert": {**BERT_LIKE, "embedding_size": 14},
    "electra": {**BERT_LIKE, "embedding_size": 14},
    "mpnet": {**{k: v for k, v in BERT_LIKE.items() if k != "type_vocab_size"}, "pad_token_id": 1},
    "deberta-v2": {
        **BERT_LIKE,
        "relative_attention": True,
        "position_biased_input": False,
        "pos_att_type": "c2p|p2c",
        "share_att_key": True,
        "position_buckets": 4,
        "max_relative_positions": 9,
        "norm_rel_ebd": "layer_norm",
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "modernbert": {
        "vocab_size": 53,
        "hidden_size": 24,
        "num_hidden_layers": 4,
        "num_attention_heads": 3,
        "intermediate_size": 40,
        "max_position_embeddings": 18,
        "norm_eps": 1e-3,
        "hidden_activation": "silu",
        "classifier_activation": "relu",
        "global_attn_every_n_layers": 3,
        "local_attention": 6,
        "global_rope_theta": 5000.0,
        "local_rope_theta": 70.0,
        "pad_token_id": 2,
    },
    "roformer": {**BERT_LIKE, "embedding_size": 14},
    "longformer": {**BERT_LIKE, "attention_window": 4},
    "big_bird": {**BERT_LIKE, "attention_type": "block_sparse", "block_size": 2, "num_random_blocks": 1},
    "nystromformer": {**BERT_LIKE, "num_landmarks": 18, "segment_means_seq_len": 18, "conv_kernel_size": 5},
    "fnet": {key: value for key, value in BERT_LIKE.items() if key != "num_attention_heads"},
    "encoder-decoder": {**two_sides(num_hidden_layers=2), "pad_token_id": 2},
}
NO_CONVOLUTION = {"conv_kernel_size": None, "conv_act": None}
RELATIVE = (
    *("pos_att_type", "share_att_key", "position_buckets", "max_relative_positions", "norm_rel_ebd"),
    *NO_CONVOLUTION,
)
# What the config.json of one class says of its head, by family and class.
OF_HEADS: dict[tuple[str, str], dict[str, Any]] = {
    ("deberta-v2", "ForSequenceClassification"): {"pooler_hidden_act": "tanh", "cls_dropout": 0.3},
    ("deberta-v2", "ForMultipleChoice"): {"pooler_hidden_act": "relu"},
    ("modernbert", "ForMultipleChoice"): {"classifier_pooling": "mean", "classifier_dropout": 0.2},
    ("roformer", "ForMultipleChoice"): {
        "summary_type": "first",
        "summary_use_proj": True,
        "summary_activation": "tanh",
    },
}
# Other settings that lead to other parameters or another way to compute: a name, the family and class, the changes.
VARIANTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "deberta's first projections": (
        "deberta-v2",
        "ForMaskedLM",
        {"share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none", **NO_CONVOLUTION},
    ),
    "deberta by content alone": (
        "deberta-v2",
        "ForTokenClassification",
        {"share_att_key": False, "pos_att_type": "c2p", "type_vocab_size": 0, **NO_CONVOLUTION},
    ),
    "deberta with absolute positions": (
        "deberta-v2",
        "Model",
        {**dict.fromkeys(RELATIVE), "relative_attention": False, "position_biased_input": True},
    ),
    "modernbert with biases": (
        "modernbert",
        "ForMaskedLM",
        {"attention_bias": True, "mlp_bias": True, "classifier_bias": True, "norm_bias": True},
    ),
    "modernbert by its mean": ("modernbert", "ForSequenceClassification", {"classifier_pooling": "mean"}),
    "roformer of one width": (
        "roformer",
        "ForMultipleChoice",
        {"embedding_size": 24, "summary_use_proj": False, "summary_activation": None},
    ),
    "longformer with three global tokens": ("longformer", "ForTokenClassification", {"global_tokens": 3}),
    "bigbird with all of attention": (
        "big_bird",
        "ForPreTraining",
        {"attention_type": "original_full", "block_size": None, "num_random_blocks": None},
    ),
    "bigbird in short rows": ("big_bird", "Model", {"max_position_embeddings": 14}),
    "a deeper decoder": ("encoder-decoder", "Model", two_sides(num_hidden_layers=4)),
    "nystromformer with landmarks": ("nystromformer", "ForMaskedLM", {"num_landmarks": 6}),
}
LABELS = {"id2label": {"0": "no", "1": "perhaps", "2": "yes"}, "label2id": {"no": 0, "perhaps": 1, "yes": 2}}
ALIKE = ("xlm-roberta", "camembert")  # RoBERTa under other names
CASES = [(name, end) for name, family in FAMILIES.items() for end in family.architectures]


def config_json(name: str, end: str, **changes: Any) -> dict[str, Any]:
    """A config.json of a family and one of its classes; settings that are changed to None are left out."""
    family = FAMILIES[name]
    labels = LABELS if {"classify", "tag"} & set(family.architectures[end].heads) else {}
    base = {"model_type": name, "architectures": [family.class_name(end)]}
    found = {**base, **CONFIGS[name], **labels, **OF_HEADS.get((name, end), {}), **changes}
    return {key: value for key, value in found.items() if value is not None}


def our_config(family: Family, end: str, theirs: dict[str, Any]) -> Config:
    """Our config of it."""
    architecture = family.architectures[end]
    kinds = architecture.heads
    return Config(
        model=family.fields.to_config(theirs, pooler=architecture.pooler),
        tasks=tuple(PRETRAINING[kind] for kind in kinds if kind in PRETRAINING),
        heads=tuple(family.forms[kind].load(theirs) for kind in kinds if kind not in PRETRAINING),
    )


def random_model(
    config: Config, seed: int = 0, *, vocabulary: Vocabulary | None = None, **about: Any
) -> Model:
    """Random numbers everywhere; the rows of tables that are no tokens are zero, as in what is imported."""
    random, shapes = np.random.default_rng(seed), shapes_of(config, vocabulary)
    arrays = {path: random.normal(size=shape).astype(np.float32) for path, shape in shapes.items()}
    for path, array in arrays.items():
        if path.split("/")[-1] in ("tokens", "bias", "table") and len(array) == config.model.rows:
            array[config.model.vocab :] = 0
    return Model(config, shapes, arrays.__getitem__, None, about)


WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(ord("a") + i) for i in range(26))]
VOCABULARY = [*WORDS, *(f"##{word}" for word in WORDS[5:27])]  # 53 tokens


def write_published(
    folder: pathlib.Path,
    name: str = "bert",
    end: str = "ForPreTraining",
    *,
    vocabulary: list[str] | None = None,
    edit: Callable[[dict[str, np.ndarray]], None] | None = None,
    **changes: Any,
) -> str:
    """A published folder with random weights; `edit` changes the tensors, `changes` the config.json."""
    family, theirs = FAMILIES[name], config_json(name, end)
    plan = plan_writing(random_model(our_config(family, end, theirs), family=name))
    tensors = dict(plan.arrays())
    if edit is not None:
        edit(tensors)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: np.ascontiguousarray(value) for key, value in tensors.items()}, folder / "model.safetensors"
    )
    data = {key: value for key, value in {**theirs, **changes}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(data))
    if vocabulary is not None:
        (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in vocabulary))
    return str(folder)
