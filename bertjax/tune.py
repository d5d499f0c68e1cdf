"""Which parameters of a model move, how far, and from where: what fine-tuning adds to an optimizer.

    layer_decay      the rate of a layer is `layer_decay` times that of the one above: heads 1, the top layer d, the
                     embeddings d^(N+1)                                     (ELECTRA, 2003.10555; ULMFiT, 1801.06146)
    fresh_layers     the top layers forget what they learned before         (2006.05987, Section 5)
    frozen_layers    the embeddings and the lowest layers stay as they are
    unfreeze_every   gradual unfreezing: at first the heads alone, then one more layer from the top (1801.06146)
    trained          heads      what stands on the encoder, which is frozen, and read without dropout
                     biases     those and the heads                         (BitFit, 2106.10199)
                     adapters   those of model.adapter, and the heads       (1902.00751; 2005.00247)
                     prompt     the vectors of model.prompt, and the heads  (2104.08691; 2110.07602)
                     low_rank   W + (alpha / r) A B in place of W, where only A and B move, and the heads
                                                                            (LoRA, 2106.09685)

What does not move has no moments and no gradient, and takes no part in the norm that gradients are clipped to; only
layers that wait to be unfrozen do. A and B are kept beside the parameters, under `low_rank`, and added to the kernels
before every pass: so they work in any attention, scanned or not, on any mesh, and a loaded model has plain kernels. B
starts from zero. Adapters and prompts are parts of the encoder, which a model that has none takes up when it is tuned.

Parameters that layers share (ALBERT) count as those of the top layer, and so does what follows the stack.

Deviation: in ELECTRA's code the top layer has the rate d²; here d.
"""

import dataclasses
import math
import re
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bertjax.layers.config import EncoderConfig
from bertjax.sharding import Declared
from bertjax.types import Tree

LAYER = re.compile(r"encoder/stack/group_(\d+)/layers(?:_(\d+))?/block_(\d+)/")
LOW_RANK = "low_rank"


@dataclasses.dataclass(frozen=True)
class TuneConfig:
    """Which parameters move, and how far."""

    layer_decay: float | None = None
    """Rate of a layer over that of the one above it; none is the same for all."""
    fresh_layers: int = 0
    """Layers from the top that start from random numbers, whatever model.init has."""
    frozen_layers: int | None = None
    """Layers from the bottom that stay as they are, and the embeddings; none freezes nothing."""
    unfreeze_every: int | None = None
    """Steps after which one more layer from the top moves; none moves all from the start."""
    trained: Literal["all", "heads", "biases", "low_rank", "adapters", "prompt"] = "all"
    """What moves: everything, the heads alone, or with them biases, products of low rank, adapters, the prompt."""
    norms: bool = False
    """The norms of the encoder move, too, whatever else is held (Houlsby's adapters)."""
    rank: int = 8
    """Of the products that trained=low_rank adds to kernels."""
    alpha: float = 16.0
    """Those are scaled by alpha / rank."""
    kernels: Literal["query_value", "attention", "all"] = "query_value"
    """Kernels of the stack that trained=low_rank adds to."""

    @property
    def plain(self) -> bool:
        """Whether everything moves alike."""
        return (self.layer_decay, self.frozen_layers, self.unfreeze_every, self.trained) == (
            None,
            None,
            None,
            "all",
        )


def check_tune(config: TuneConfig, model: EncoderConfig) -> None:
    """Refuses what no model of this size can do."""
    if config.layer_decay is not None and not 0 < config.layer_decay <= 1:
        raise ValueError(f"tune.layer_decay={config.layer_decay}: above 0 and at most 1, as 0.9, or none")
    for name in ("fresh_layers", "frozen_layers"):
        value = getattr(config, name)
        if value is not None and not 0 <= value <= model.layers:
            raise ValueError(
                f"tune.{name}={value} of model.layers={model.layers}: it is from 0 to {model.layers}"
            )
    for name in ("unfreeze_every", "rank"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ValueError(f"tune.{name}={value} must be at least 1")
    if config.trained != "all" and (config.frozen_layers is not None or config.unfreeze_every is not None):
        raise ValueError(
            f"tune.trained={config.trained} says what moves: leave out frozen_layers and unfreeze_every"
        )
    for trained, name, value, choice in (
        ("adapters", "adapter", model.adapter, "houlsby"),
        ("prompt", "prompt", model.prompt, "input"),
    ):
        if config.trained == trained and value is None:
            raise ValueError(f"tune.trained={trained} and model.{name}=none: set model.{name}={choice}")
    if config.norms and config.trained == "all":
        raise ValueError(
            "tune.norms=true adds to what tune.trained=heads or another holds; with all, leave it out"
        )
    if config.fresh_layers and config.trained != "all":
        raise ValueError(
            f"tune.fresh_layers={config.fresh_layers} would stay random under trained={config.trained}"
        )


# ---------------------------------------------------------------------------------------------- where


def depths(params: Tree, model: EncoderConfig) -> Tree:
    """The layer that every array, or every slice of it, belongs to: 0 the embeddings, N + 1 what follows the stack."""
    before = np.cumsum([0, *(len(period) * repeats for period, repeats in model.layout)])

    def one(path: Any, leaf: Any) -> np.ndarray:
        name = name_of(path).removeprefix(f"{LOW_RANK}/")
        found = LAYER.match(name)
        if found is None:
            low = name.startswith(("encoder/embedder/", "encoder/position/"))
            return np.asarray(0 if low else model.layers + 1)
        group, index, block = int(found[1]), found[2], int(found[3])
        period, repeats = model.layout[group]
        numbers = np.arange(repeats) if index is None else np.asarray(int(index))
        numbers = before[group] + numbers * len(period) + block + 1
        return numbers.reshape(-1, *(1,) * (len(leaf.shape) - 1)) if index is None else numbers

    return jax.tree_util.tree_map_with_path(one, params)


def moves(params: Tree, config: TuneConfig, model: EncoderConfig) -> Tree:
    """For every array, or for its slices, whether it ever moves."""

    def one(path: Any, depth: np.ndarray) -> np.ndarray:
        name = name_of(path)
        if not name.startswith("encoder/"):
            return np.ones_like(depth, bool)
        if config.trained != "all":
            return np.full_like(depth, _chosen_to_move(name, config), dtype=bool)
        if config.frozen_layers is None:
            return np.ones_like(depth, bool)
        return depth > config.frozen_layers

    return jax.tree_util.tree_map_with_path(one, depths(params, model))


def _chosen_to_move(name: str, config: TuneConfig) -> bool:
    """Whether an array of the encoder moves where not all of them do."""
    parts = name.split("/")
    if config.norms and parts[-2].endswith("norm"):
        return True
    match config.trained:
        case "biases":
            return parts[-1] == "bias"
        case "adapters":
            return parts[-3].endswith("_adapter")
        case "prompt":
            return parts[-1] == "prompt"
        case _:
            return False


def hold(params: Tree, config: TuneConfig, model: EncoderConfig) -> Tree:
    """The parameters, those that never move as constants: no pass computes their gradients."""
    if config.trained == "all" and config.frozen_layers is None:
        return params
    stop = jax.lax.stop_gradient
    return jax.tree.map(lambda x, some: x if some.any() else stop(x), params, moves(params, config, model))


def trained_number(params: Tree, config: TuneConfig, model: EncoderConfig) -> int:
    """How many parameters ever move."""
    shares = jax.tree.map(
        lambda leaf, some: math.prod(leaf.shape) * some.mean(), params, moves(params, config, model)
    )
    return round(sum(jax.tree.leaves(shares)))


# ---------------------------------------------------------------------------------------------- how


def restrict(
    optimizer: optax.GradientTransformationExtraArgs, config: TuneConfig, params: Tree, model: EncoderConfig
) -> optax.GradientTransformationExtraArgs:
    """The optimizer, but for what does not move, and with the rate of every layer."""
    if config.plain:
        return optimizer
    moving, depth = moves(params, config, model), depths(params, model)
    labels = jax.tree.map(lambda some: "trained" if some.any() else "frozen", moving)
    parts = [optax.partition({"trained": optimizer, "frozen": optax.set_to_zero()}, labels)]
    decay = 1.0 if config.layer_decay is None else config.layer_decay
    scales = jax.tree.map(
        lambda some, layer: (some * decay ** (model.layers + 1 - layer)).astype(np.float32), moving, depth
    )
    parts.append(optax.stateless(lambda updates, _: jax.tree.map(jnp.multiply, updates, scales)))
    if config.unfreeze_every is not None:
        parts.append(_unfreeze(config.unfreeze_every, depth, model.layers))
    return optax.with_extra_args_support(optax.chain(*parts))


def _unfreeze(every: int, depth: Tree, layers: int) -> optax.GradientTransformation:
    """Updates of the layers whose turn has come."""

    def update(updates: Tree, count: jax.Array, params: Tree = None) -> tuple[Tree, jax.Array]:
        del params
        lowest = layers + 1 - count // every
        kept = jax.tree.map(
            lambda u, layer: u * (jnp.asarray(layer) >= lowest).astype(u.dtype), updates, depth
        )
        return kept, count + 1

    return optax.GradientTransformation(lambda params: jnp.zeros((), jnp.int32), update)


def forget(fresh: Tree, known: Tree, config: TuneConfig, model: EncoderConfig) -> Tree:
    """The known parameters, but random ones in the layers that start afresh."""
    if not config.fresh_layers:
        return known

    def one(path: Any, random: Any, learned: Any, depth: np.ndarray) -> Any:
        new = (depth > model.layers - config.fresh_layers) & (LAYER.match(name_of(path)) is not None)
        return jnp.where(jnp.asarray(new), random, learned)

    return jax.tree_util.tree_map_with_path(one, fresh, known, depths(known, model))


# ---------------------------------------------------------------------------------------------- low rank


def extend(declared: Tree, config: TuneConfig, key: jax.Array) -> Tree:
    """Declared parameters with the factors of products that are added to kernels."""
    if config.trained != "low_rank":
        return declared
    found: dict[str, Any] = {}
    leaves = jax.tree_util.tree_leaves_with_path(declared, is_leaf=lambda leaf: isinstance(leaf, Declared))
    for number, (path, box) in enumerate(leaves):
        name = name_of(path)
        if not chosen(name, config):
            continue
        first, split = _split(box.names)
        shape, names = box.value.shape, box.names
        down = (*shape[:split], config.rank)
        up = (*shape[:first], config.rank, *shape[split:])
        spread = 1.0 / math.sqrt(math.prod(shape[first:split]))
        normal = spread * jax.random.normal(jax.random.fold_in(key, number), down, jnp.float32)
        put(found, f"{name}/down", Declared(normal, (*names[:split], "table")))
        put(
            found,
            f"{name}/up",
            Declared(jnp.zeros(up, jnp.float32), (*names[:first], "table", *names[split:])),
        )
    if not found:
        raise ValueError(
            f"tune.kernels={config.kernels}: this attention has no such kernels, set tune.kernels=all"
        )
    return {**declared, LOW_RANK: found}


def merged(params: Tree, config: TuneConfig) -> Tree:
    """Plain kernels: those of the model and what was added to them."""
    if LOW_RANK not in params:
        return params
    added = {name_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params[LOW_RANK])}

    def one(path: Any, kernel: Any) -> Any:
        name = name_of(path)
        if f"{name}/down" not in added:
            return kernel
        return kernel + (config.alpha / config.rank) * product(
            added[f"{name}/down"], added[f"{name}/up"], kernel.shape
        )

    rest = {name: value for name, value in params.items() if name != LOW_RANK}
    return jax.tree_util.tree_map_with_path(one, rest)


def merged_leaves(leaves: Mapping[str, Any], config: TuneConfig) -> dict[str, Any]:
    """The same for parameters by path."""
    result = {name: leaf for name, leaf in leaves.items() if not name.startswith(f"{LOW_RANK}/")}
    for name in leaves:
        if name.startswith(f"{LOW_RANK}/") and name.endswith("/down"):
            kernel = name.removeprefix(f"{LOW_RANK}/").removesuffix("/down")
            down, up = (np.asarray(leaves[f"{LOW_RANK}/{kernel}/{part}"]) for part in ("down", "up"))
            old = np.asarray(result[kernel])
            result[kernel] = old + (config.alpha / config.rank) * np.asarray(product(down, up, old.shape))
    return result


def product(down: Any, up: Any, shape: tuple[int, ...]) -> Any:
    """The product of two factors in the shape of their kernel, for each layer of a stack on its own."""
    # down is [layers? in.. r] and up [layers? r out..]: what both have in front is the axis of a stack.
    rank, first = down.shape[-1], len(down.shape) + len(up.shape) - 2 - len(shape)
    left, right = down.reshape(*shape[:first], -1, rank), up.reshape(*shape[:first], rank, -1)
    return (left @ right).reshape(shape)


def chosen(name: str, config: TuneConfig) -> bool:
    """Whether a product is added to a parameter."""
    if not (name.startswith("encoder/stack/") and name.endswith("/kernel")):
        return False
    if config.kernels == "query_value":
        return "/attention/query/" in name or "/attention/value/" in name
    return config.kernels == "all" or "/attention/" in name


def _split(names: tuple[str, ...]) -> tuple[int, int]:
    """Where a kernel's inputs begin, and where its outputs do."""
    first = 1 if names[0] == "layers" else 0
    return first, first + 1 if names[first] == "width" else len(names) - 1


def put(tree: dict[str, Any], path: str, value: Any) -> None:
    """A leaf at its place in nested dicts."""
    *parents, last = path.split("/")
    for parent in parents:
        tree = tree.setdefault(parent, {})
    tree[last] = value


def name_of(path: Any) -> str:
    """The path of a leaf, its parts joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
