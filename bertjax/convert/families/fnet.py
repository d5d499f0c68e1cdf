"""FNet (2105.03824): BERT with a Fourier transform in the place of attention, and a projection behind its embeddings.

Its classes take no mask: padding is transformed with the rest (`padding=mixed`), so that a text computes otherwise with
more of it. There are no heads; what ours says of them means nothing.
"""

from bertjax.attention.fourier import Fourier
from bertjax.convert.families.bert import (
    EMBEDDINGS,
    MASKED_LM,
    MASKED_LM_COPIES,
    PLAIN_HEADS,
    POOLER,
    SIZES,
)
from bertjax.convert.family import Architecture, Family, answer_form, choose_form, classify_form, tag_form
from bertjax.convert.fields import Field, Fields
from bertjax.convert.table import linear, norm

WITHOUT = ("num_attention_heads", "attention_probs_dropout_prob")

FNET = Family(
    name="fnet",
    classes="FNet",
    base="fnet",
    fields=Fields(
        (
            *(field for field in SIZES if field.theirs not in WITHOUT),
            Field("max_position_embeddings", "max_length", 512),
            Field("type_vocab_size", "types", 4),
        ),
        fixed={"attention": Fourier(padding="mixed"), "heads": 1},
        load=lambda theirs: {"embedding_width": theirs.get("hidden_size", 768)},
        free=("heads", "head_size", "attention_dropout"),
    ),
    architectures={
        "ForPreTraining": Architecture(("mlm", "nsp"), pooler=True),
        "ForMaskedLM": Architecture(("mlm",), pooler=True),
        "ForNextSentencePrediction": Architecture(("nsp",), pooler=True),
        "ForSequenceClassification": Architecture(("classify",), pooler=True),
        "ForMultipleChoice": Architecture(("choose",), pooler=True),
        "ForTokenClassification": Architecture(("tag",), pooler=True),
        "ForQuestionAnswering": Architecture(("answer",), pooler=True),
        "Model": Architecture(pooler=True),
    },
    rows=(
        *EMBEDDINGS,
        *linear("encoder/embedder/projection", "embeddings.projection"),
        *norm("encoder/{layer}/attention_norm", "encoder.layer.{i}.fourier.output.LayerNorm"),
        *linear("encoder/{layer}/mlp/up", "encoder.layer.{i}.intermediate.dense"),
        *linear("encoder/{layer}/mlp/down", "encoder.layer.{i}.output.dense"),
        *norm("encoder/{layer}/mlp_norm", "encoder.layer.{i}.output.LayerNorm"),
        *POOLER,
        *MASKED_LM,
        *linear("heads_nsp/output", "cls.seq_relationship"),
        *linear("heads_classify/output", "classifier"),
        *PLAIN_HEADS,
    ),
    copies=MASKED_LM_COPIES,
    forms={
        "classify": classify_form(None),
        "choose": choose_form(None),
        "tag": tag_form(None),
        "answer": answer_form(),
    },
    has_mask=False,
)
