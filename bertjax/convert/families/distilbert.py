"""DistilBERT (1910.01108): BERT without token types and without a pooler, half as deep, under names of its own."""

from bertjax.convert.family import (
    USUAL_CLASSES,
    Family,
    answer_form,
    choose_form,
    classify_form,
    tag_form,
)
from bertjax.convert.fields import Field, Fields, activation
from bertjax.convert.table import TOKENS, Copy, Row, attention, linear, norm

DISTILBERT = Family(
    name="distilbert",
    classes="DistilBert",
    base="distilbert",
    fields=Fields(
        (
            Field("vocab_size", "vocab", 30522),
            Field("dim", "width", 768),
            Field("n_layers", "layers", 6),
            Field("n_heads", "heads", 12),
            Field("hidden_dim", "feedforward", 3072),
            Field("dropout", "dropout", 0.1, float),
            Field("attention_dropout", "attention_dropout", 0.1, float),
            Field("initializer_range", "init_std", 0.02, float),
            Field("tie_word_embeddings", "tied", True),
            Field("max_position_embeddings", "max_length", 512),
            activation("activation"),
        ),
        fixed={"types": None, "norm_epsilon": 1e-12},
    ),
    architectures=USUAL_CLASSES,
    rows=(
        Row("encoder/embedder/tokens", "embeddings.word_embeddings.weight", TOKENS),
        Row("encoder/position/embedding", "embeddings.position_embeddings.weight"),
        *norm("encoder/embedder/norm", "embeddings.LayerNorm"),
        *attention(
            "encoder/{layer}/attention",
            query="transformer.layer.{i}.attention.q_lin",
            key="transformer.layer.{i}.attention.k_lin",
            value="transformer.layer.{i}.attention.v_lin",
            output="transformer.layer.{i}.attention.out_lin",
        ),
        *norm("encoder/{layer}/attention_norm", "transformer.layer.{i}.sa_layer_norm"),
        *linear("encoder/{layer}/mlp/up", "transformer.layer.{i}.ffn.lin1"),
        *linear("encoder/{layer}/mlp/down", "transformer.layer.{i}.ffn.lin2"),
        *norm("encoder/{layer}/mlp_norm", "transformer.layer.{i}.output_layer_norm"),
        *linear("heads_mlm/transform", "vocab_transform"),
        *norm("heads_mlm/norm", "vocab_layer_norm"),
        Row("heads_mlm/bias", "vocab_projector.bias", TOKENS),
        Row("heads_mlm/table", "vocab_projector.weight", TOKENS),
        *linear("heads_classify/hidden", "pre_classifier"),
        *linear("heads_classify/output", "classifier"),
        *linear("heads_choose/hidden", "pre_classifier"),
        *linear("heads_choose/output", "classifier"),
        *linear("heads_tag/output", "classifier"),
        *linear("heads_answer/output", "qa_outputs"),
    ),
    copies=(Copy("vocab_projector.weight", "encoder/embedder/tokens"),),
    forms={
        "classify": classify_form(
            "seq_classif_dropout", 0.2, pooling="first", hidden="relu", hidden_dropout=0.0
        ),
        "choose": choose_form("seq_classif_dropout", 0.2, pooling="first", hidden="relu", hidden_dropout=0.0),
        "tag": tag_form(None),
        "answer": answer_form("qa_dropout", 0.1),
    },
    has_types=False,
)
