"""Families of published models: one file each, one line each in the registry below, by the model_type they go by."""

from bertjax.convert.families.albert import ALBERT
from bertjax.convert.families.bert import BERT
from bertjax.convert.families.bigbird import BIGBIRD
from bertjax.convert.families.deberta_v2 import DEBERTA_V2
from bertjax.convert.families.distilbert import DISTILBERT
from bertjax.convert.families.electra import ELECTRA
from bertjax.convert.families.encoder_decoder import ENCODER_DECODER
from bertjax.convert.families.fnet import FNET
from bertjax.convert.families.longformer import LONGFORMER
from bertjax.convert.families.modernbert import MODERNBERT
from bertjax.convert.families.mpnet import MPNET
from bertjax.convert.families.nystromformer import NYSTROMFORMER
from bertjax.convert.families.roberta import CAMEMBERT, ROBERTA, XLM_ROBERTA
from bertjax.convert.families.roformer import ROFORMER
from bertjax.convert.family import Family

__all__ = ["FAMILIES", "UNFIT"]

# A model that was made here is written in the first of these that can hold it, unless another is asked for.
FAMILIES: dict[str, Family] = {
    "bert": BERT,
    "roberta": ROBERTA,
    "xlm-roberta": XLM_ROBERTA,
    "camembert": CAMEMBERT,
    "distilbert": DISTILBERT,
    "albert": ALBERT,
    "electra": ELECTRA,
    "mpnet": MPNET,
    "deberta-v2": DEBERTA_V2,
    "modernbert": MODERNBERT,
    "roformer": ROFORMER,
    "longformer": LONGFORMER,
    "big_bird": BIGBIRD,
    "nystromformer": NYSTROMFORMER,
    "fnet": FNET,
    "encoder-decoder": ENCODER_DECODER,
}
# Families that are known and not here, and why.
UNFIT = {
    "mobilebert": "its layers have bottlenecks around the attention and several feed-forward parts",
}
