"""The names of Google's BERT: those of TensorFlow variables, and the tensors of PyTorch that hold the same.

    bert/encoder/layer_3/attention/self/query/kernel [in, out]     bert.encoder.layer.3.attention.self.query.weight

Kernels are transposed; what an optimizer has left is no weight. Besides pretraining, the heads that the original
scripts fine-tune are known: the classifier and the answers of SQuAD.
"""

import re
from collections.abc import Iterable
from typing import Any

# Not weights: the state of an optimizer, the step.
STATE = re.compile(r"(^|/)(adam_[mv]|global_step|[A-Za-z]*Optimizer.*|(beta[12]_power))$")
LAYER = re.compile(r"layer_(\d+)")
# The end of a variable, that of a tensor, and whether the numbers are transposed.
ENDS = (
    ("/kernel", ".weight", True),
    ("/gamma", ".weight", False),
    ("/beta", ".bias", False),
    ("_embeddings", "_embeddings.weight", False),
)
WHOLE = {
    "cls/predictions/output_bias": "cls.predictions.bias",
    "cls/seq_relationship/output_weights": "cls.seq_relationship.weight",
    "cls/seq_relationship/output_bias": "cls.seq_relationship.bias",
    "output_weights": "classifier.weight",
    "output_bias": "classifier.bias",
    "cls/squad/output_weights": "qa_outputs.weight",
    "cls/squad/output_bias": "qa_outputs.bias",
}


def tensor_name(variable: str) -> tuple[str, bool] | None:
    """The name of a tensor and whether it is transposed; None for what is no weight."""
    if STATE.search(variable):
        return None
    if variable in WHOLE:
        return WHOLE[variable], False
    name, transposed = LAYER.sub(r"layer/\1", variable), False
    for end, other, turned in ENDS:
        if name.endswith(end):
            name, transposed = name.removesuffix(end) + other, turned
            break
    return name.replace("/", "."), transposed


def describe(config: dict[str, Any], variables: Iterable[str], classes: int | None) -> dict[str, Any]:
    """A bert_config.json with what it leaves to the script that reads it: the family and the head."""
    found = set(variables)
    head = "BertForPreTraining"
    if "output_weights" in found:
        head = "BertForSequenceClassification"
    elif "cls/squad/output_weights" in found:
        head = "BertForQuestionAnswering"
    elif not any(name.startswith("cls/") for name in found):
        head = "BertModel"
    labels = {} if classes is None else {"num_labels": classes}
    return {"model_type": "bert", "architectures": [head], **labels, **config}
