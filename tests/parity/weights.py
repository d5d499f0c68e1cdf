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
