"""One format for scanned and unrolled stacks.

A scan keeps `layers` with a leading axis over periods; an unrolled stack keeps `layers_0`,
`layers_1`, ... Both functions work on any tree that contains such dictionaries: parameters, and
optimizer states that mirror them. A checkpoint holds the form that the run had and is read in either.

    stack/group_0/layers/block_1/...       stacked: leading axis over the repeats of the group's period
    stack/group_0/layers_3/block_1/...     unrolled
"""

import re
from typing import Any

import jax
import jax.numpy as jnp

from bertjax.layers.config import EncoderConfig
from bertjax.types import Tree

_UNROLLED = re.compile(r"layers_(\d+)")


def stack_layers(tree: Tree) -> Tree:
    """The tree with every group of `layers_i` joined into `layers`."""
    return _walk(tree, _stack)


def unstack_layers(tree: Tree) -> Tree:
    """The tree with every `layers` taken apart into `layers_i`."""
    return _walk(tree, _unstack)


def locate(config: EncoderConfig) -> list[tuple[tuple[str, ...], int]]:
    """Where each layer's parameters lie in the stacked form: the path below the encoder, and the index."""
    return [
        (("stack", f"group_{group}", "layers", f"block_{block}"), index)
        for group, (period, repeats) in enumerate(config.layout)
        for index in range(repeats)
        for block in range(len(period))
    ]


def _walk(tree: Tree, change: Any) -> Tree:
    if isinstance(tree, dict):
        return change({name: _walk(value, change) for name, value in tree.items()})
    if isinstance(tree, tuple):
        items = [_walk(item, change) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    return tree


def _stack(node: dict[str, Any]) -> dict[str, Any]:
    names = sorted((n for n in node if _UNROLLED.fullmatch(n)), key=lambda n: int(n.removeprefix("layers_")))
    if not names:
        return node
    rest = {name: value for name, value in node.items() if name not in names}
    return {**rest, "layers": jax.tree.map(lambda *leaves: jnp.stack(leaves), *(node[n] for n in names))}


def _unstack(node: dict[str, Any]) -> dict[str, Any]:
    if not jax.tree.leaves(node.get("layers")):  # absent, or the state of an optimizer that keeps none
        return node
    rest = {name: value for name, value in node.items() if name != "layers"}
    depth = len(jax.tree.leaves(node["layers"])[0])
    parts = {f"layers_{i}": jax.tree.map(lambda leaf, i=i: leaf[i], node["layers"]) for i in range(depth)}
    return {**rest, **parts}
