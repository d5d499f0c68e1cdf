"""PyTorch weights as parameters of our attention layers."""

from typing import Any

import numpy as np


def array(tensor: Any) -> np.ndarray:
    """A tensor as float32 numpy."""
    return tensor.detach().float().cpu().numpy()


def to_heads(linear: Any, heads: int) -> dict[str, np.ndarray]:
    """A linear layer whose output is cut into heads: kernel [D H K], bias [H K]."""
    kernel = array(linear.weight).T
    found = {"kernel": kernel.reshape(kernel.shape[0], heads, -1)}
    bias = np.zeros(kernel.shape[1], np.float32) if linear.bias is None else array(linear.bias)
    return {**found, "bias": bias.reshape(heads, -1)}


def from_heads(linear: Any, heads: int) -> dict[str, np.ndarray]:
    """A linear layer whose input are the heads, joined: kernel [H K D], bias [D]."""
    kernel = array(linear.weight).T
    bias = np.zeros(kernel.shape[1], np.float32) if linear.bias is None else array(linear.bias)
    return {"kernel": kernel.reshape(heads, -1, kernel.shape[1]), "bias": bias}


def no_output(width: int, heads: int) -> dict[str, np.ndarray]:
    """An output projection that only joins the heads, for modules that end there."""
    kernel = np.eye(width, dtype=np.float32).reshape(heads, width // heads, width)
    return {"kernel": kernel, "bias": np.zeros(width, np.float32)}


def shake(module: Any, seed: int = 0) -> Any:
    """The module in evaluation mode with random weights everywhere, biases and scales included."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:  # fixed numbers
                continue
            noise = 0.2 * torch.randn(parameter.shape, generator=generator)
            one = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(noise + 1.0 if one else noise)
    return module.eval()


def matrix(linear: Any) -> dict[str, np.ndarray]:
    """A linear layer: kernel [in out] and, if it has one, bias [out]."""
    found = {"kernel": array(linear.weight).T}
    return found if linear.bias is None else {**found, "bias": array(linear.bias)}


def norm(layer: Any) -> dict[str, np.ndarray]:
    """A LayerNorm: scale and, if it has one, bias."""
    found = {"scale": array(layer.weight)}
    return found if layer.bias is None else {**found, "bias": array(layer.bias)}


def bert_attention(attention: Any, output: Any, heads: int) -> dict[str, Any]:
    """The four projections of an attention that names them as BERT does."""
    names = ("query", "key", "value")
    projections = {name: to_heads(getattr(attention, name), heads) for name in names}
    return {**projections, "output": from_heads(output, heads)}


def bert_layer(layer: Any, heads: int) -> dict[str, Any]:
    """A layer of BERT's, or of a model that names its parts alike."""
    return {
        "attention": bert_attention(layer.attention.self, layer.attention.output.dense, heads),
        "attention_norm": norm(layer.attention.output.LayerNorm),
        "mlp": {"up": matrix(layer.intermediate.dense), "down": matrix(layer.output.dense)},
        "mlp_norm": norm(layer.output.LayerNorm),
    }


def bert_head(predictions: Any) -> dict[str, Any]:
    """A masked-LM head of BERT's."""
    return {
        "transform": matrix(predictions.transform.dense),
        "norm": norm(predictions.transform.LayerNorm),
        "bias": array(predictions.bias),
    }
