"""ALBERT (1909.11942): narrow embeddings, and one layer's parameters for all layers.

Models with several groups of layers, which were never published with weights, are refused.
"""

from bertjax.convert.families.bert import EMBEDDINGS, PLAIN_HEADS
from bertjax.convert.family import Architecture, Family, answer_form, choose_form, classify_form, tag_form
from bertjax.convert.fields import Field, Fields, Only, activation
from bertjax.convert.table import TOKENS, Copy, Row, attention, linear, norm

THEIRS, OURS = "encoder.albert_layer_groups.0.albert_layers.0", "encoder/stack/shared_full"


ALBERT = Family(
    name="albert",
    classes="Albert",
    base="albert",
    fields=Fields(
        (
            Field("vocab_size", "vocab", 30000),
            Field("embedding_size", "embedding_width", 128),
            Field("hidden_size", "width", 4096),
            Field("num_hidden_layers", "layers", 12),
            Field("num_attention_heads", "heads", 64),
            Field("intermediate_size", "feedforward", 16384),
            Field("hidden_dropout_prob", "dropout", 0.0, float),
            Field("attention_probs_dropout_prob", "attention_dropout", 0.0, float),
            Field("max_position_embeddings", "max_length", 512),
            Field("type_vocab_size", "types", 2),
            Field("initializer_range", "init_std", 0.02, float),
            Field("layer_norm_eps", "norm_epsilon", 1e-12, float),
            Field("tie_word_embeddings", "tied", True),
            activation("hidden_act", "gelu_new"),
            Only("num_hidden_groups", 1),
            Only("inner_group_num", 1),
            Only("position_embedding_type", "absolute"),
        ),
        fixed={"sharing": "all"},
    ),
    architectures={
        "ForPreTraining": Architecture(("mlm", "sop"), pooler=True),
        "ForMaskedLM": Architecture(("mlm",)),
        "ForSequenceClassification": Architecture(("classify",), pooler=True),
        "ForMultipleChoice": Architecture(("choose",), pooler=True),
        "ForTokenClassification": Architecture(("tag",)),
        "ForQuestionAnswering": Architecture(("answer",)),
        "Model": Architecture(pooler=True),
    },
    rows=(
        *EMBEDDINGS,
        *linear("encoder/embedder/projection", "encoder.embedding_hidden_mapping_in"),
        *attention(
            f"{OURS}/attention",
            query=f"{THEIRS}.attention.query",
            key=f"{THEIRS}.attention.key",
            value=f"{THEIRS}.attention.value",
            output=f"{THEIRS}.attention.dense",
        ),
        *norm(f"{OURS}/attention_norm", f"{THEIRS}.attention.LayerNorm"),
        *linear(f"{OURS}/mlp/up", f"{THEIRS}.ffn"),
        *linear(f"{OURS}/mlp/down", f"{THEIRS}.ffn_output"),
        *norm(f"{OURS}/mlp_norm", f"{THEIRS}.full_layer_layer_norm"),
        *linear("encoder/pooler", "pooler"),
        *linear("heads_mlm/transform", "predictions.dense"),
        *norm("heads_mlm/norm", "predictions.LayerNorm"),
        Row("heads_mlm/bias", "predictions.bias", TOKENS),
        Row("heads_mlm/table", "predictions.decoder.weight", TOKENS),
        *linear("heads_sop/output", "sop_classifier.classifier"),
        *linear("heads_classify/output", "classifier"),
        *PLAIN_HEADS,
    ),
    copies=(
        Copy("predictions.decoder.weight", "encoder/embedder/tokens"),
        Copy("predictions.decoder.bias", "heads_mlm/bias"),
    ),
    forms={
        "classify": classify_form("classifier_dropout_prob", 0.1),
        "choose": choose_form("classifier_dropout_prob", 0.1),
        "tag": tag_form("classifier_dropout_prob", 0.1),
        "answer": answer_form(),
    },
)
