"""BERT (1810.04805), MiniLM and all that has its layout."""

from bertjax.convert.family import Architecture, Family, answer_form, choose_form, classify_form, tag_form
from bertjax.convert.fields import Field, Fields, Only, activation
from bertjax.convert.table import SAME, TOKENS, Copy, Row, attention, linear, norm

SIZES = (
    Field("vocab_size", "vocab", 30522),
    Field("hidden_size", "width", 768),
    Field("num_hidden_layers", "layers", 12),
    Field("num_attention_heads", "heads", 12),
    Field("intermediate_size", "feedforward", 3072),
    Field("hidden_dropout_prob", "dropout", 0.1, float),
    Field("attention_probs_dropout_prob", "attention_dropout", 0.1, float),
    Field("initializer_range", "init_std", 0.02, float),
    Field("tie_word_embeddings", "tied", True),
    Field("layer_norm_eps", "norm_epsilon", 1e-12, float),
    activation("hidden_act"),
)
ENCODER_ONLY = (
    Only("is_decoder", False),
    Only("add_cross_attention", False),
    Only("position_embedding_type", "absolute"),
)

# What stands behind the attention of a layer.
OUTPUTS = (
    *norm("encoder/{layer}/attention_norm", "encoder.layer.{i}.attention.output.LayerNorm"),
    *linear("encoder/{layer}/mlp/up", "encoder.layer.{i}.intermediate.dense"),
    *linear("encoder/{layer}/mlp/down", "encoder.layer.{i}.output.dense"),
    *norm("encoder/{layer}/mlp_norm", "encoder.layer.{i}.output.LayerNorm"),
)
LAYER = (
    *attention(
        "encoder/{layer}/attention",
        query="encoder.layer.{i}.attention.self.query",
        key="encoder.layer.{i}.attention.self.key",
        value="encoder.layer.{i}.attention.self.value",
        output="encoder.layer.{i}.attention.output.dense",
    ),
    *OUTPUTS,
)
EMBEDDINGS = (
    Row("encoder/embedder/tokens", "embeddings.word_embeddings.weight", TOKENS),
    Row("encoder/embedder/types", "embeddings.token_type_embeddings.weight"),
    Row("encoder/position/embedding", "embeddings.position_embeddings.weight", SAME),
    *norm("encoder/embedder/norm", "embeddings.LayerNorm"),
)
POOLER = linear("encoder/pooler", "pooler.dense")
MASKED_LM = (
    *linear("heads_mlm/transform", "cls.predictions.transform.dense"),
    *norm("heads_mlm/norm", "cls.predictions.transform.LayerNorm"),
    Row("heads_mlm/bias", "cls.predictions.bias", TOKENS),
    Row("heads_mlm/table", "cls.predictions.decoder.weight", TOKENS),
)
MASKED_LM_COPIES = (
    Copy("cls.predictions.decoder.weight", "encoder/embedder/tokens"),
    Copy("cls.predictions.decoder.bias", "heads_mlm/bias"),
)
# Scores right on the encoder, under the names that nearly all families share.
PLAIN_HEADS = (
    *linear("heads_choose/output", "classifier"),
    *linear("heads_tag/output", "classifier"),
    *linear("heads_answer/output", "qa_outputs"),
)

BERT = Family(
    name="bert",
    classes="Bert",
    base="bert",
    fields=Fields(
        (
            *SIZES,
            *ENCODER_ONLY,
            Field("max_position_embeddings", "max_length", 512),
            Field("type_vocab_size", "types", 2),
        )
    ),
    architectures={
        "ForPreTraining": Architecture(("mlm", "nsp"), pooler=True),
        "ForMaskedLM": Architecture(("mlm",)),
        "ForNextSentencePrediction": Architecture(("nsp",), pooler=True),
        "ForSequenceClassification": Architecture(("classify",), pooler=True),
        "ForMultipleChoice": Architecture(("choose",), pooler=True),
        "ForTokenClassification": Architecture(("tag",)),
        "ForQuestionAnswering": Architecture(("answer",)),
        "Model": Architecture(pooler=True),
    },
    rows=(
        *EMBEDDINGS,
        *LAYER,
        *POOLER,
        *MASKED_LM,
        *linear("heads_nsp/output", "cls.seq_relationship"),
        *linear("heads_classify/output", "classifier"),
        *PLAIN_HEADS,
    ),
    copies=MASKED_LM_COPIES,
    forms={
        "classify": classify_form("classifier_dropout"),
        "choose": choose_form("classifier_dropout"),
        "tag": tag_form("classifier_dropout"),
        "answer": answer_form(),
    },
)
