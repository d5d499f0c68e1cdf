"""A model between two worlds: its config, the shapes of its parameters, and the numbers of one at a time.

Paths are those of an unrolled stack, `encoder/stack/group_0/layers_3/block_0/...`, whatever the model computes with.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from bertjax import tasks as tasks_lib
from bertjax.config import Config
from bertjax.data.corpus import Vocabulary
from bertjax.inherit import flat
from bertjax.layers.config import EncoderConfig
from bertjax.models.decoder import Decoder, DecoderHead
from bertjax.models.heads import MaskedLmHead, PooledHead
from bertjax.models.network import Network
from bertjax.models.task_heads import Embed, HeadOptions
from bertjax.sharding import Declared
from bertjax.tasks import Task
from bertjax.tasks.contrastive import EmbeddingHead
from bertjax.tasks.generator import Generator
from bertjax.tasks.rtd import DetectionHead, Rtd
from bertjax.types import Batch, Tree

# Heads of pretraining that published models have, and the task that learns each.
PRETRAINING: dict[str, Task] = {
    "mlm": tasks_lib.Mlm(),
    "nsp": tasks_lib.Nsp(),
    "sop": tasks_lib.Sop(),
    "rtd": Rtd(),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """What is converted."""

    config: Config
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    tokenizer: Any = None
    about: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def network(self) -> Network:
        """The encoder with all its heads."""
        return network_of(self.config)


def network_of(config: Config) -> Network:
    """The encoder with the heads of its tasks and those that it came with."""
    return tasks_lib.make_network(config.tasks, config.model, config.heads)


def blank_batch(rows: int, length: int) -> Batch:
    """Rows of nothing."""
    zeros, row = np.zeros((rows, length), np.int32), np.arange(rows, dtype=np.int32)
    mask = np.ones((rows, length), bool)
    return Batch(zeros, mask, zeros, zeros, None, {}, example_id=row, epoch=np.zeros_like(row))


def declare(config: Config, vocabulary: Vocabulary | None = None) -> Tree:
    """The parameters of a network, each with its shape and the names of its axes; computes nothing.

    Tasks that make the inputs of others need to know the vocabulary.
    """
    length = min(config.data.length, config.model.max_length)
    what = config.model, config.tasks, config.heads, length
    if vocabulary is None or all(task.name in PRETRAINING for task in config.tasks):
        return _declared(*what)
    return _declare(*what, vocabulary)


def _declare(
    model: EncoderConfig,
    tasks: tuple[Task, ...],
    heads: tuple[HeadOptions, ...],
    length: int,
    vocabulary: Vocabulary | None = None,
) -> Tree:
    network = tasks_lib.make_network(tasks, model, heads)

    def start(key: Any, batch: Batch) -> Tree:
        if vocabulary is not None:
            batch = tasks_lib.corrupt(tasks, batch, vocabulary, seed=0)
        return network.init(key, batch, train=False)["params"]

    return jax.eval_shape(start, jax.eval_shape(jax.random.key, 0), blank_batch(2, length))


_declared = functools.lru_cache(16)(_declare)  # a model is asked for its shapes several times on its way


def unrolled(config: Config) -> Config:
    """The same model with its layers one by one."""
    return dataclasses.replace(config, model=dataclasses.replace(config.model, scan=False))


def shapes_of(config: Config, vocabulary: Vocabulary | None = None) -> dict[str, tuple[int, ...]]:
    """The shape of every parameter of the unrolled network."""
    found = flat(declare(unrolled(config), vocabulary), leaf=Declared)
    return {path: tuple(box.value.shape) for path, box in found.items()}


def heads_of(network: Network) -> dict[str, tuple[str, HeadOptions | None]]:
    """Every head of a network by its name there: what it is, and its options if it has any."""
    found: dict[str, tuple[str, HeadOptions | None]] = {}
    for name, module in network.heads.items():
        options = getattr(module, "options", None)
        if isinstance(module, Decoder):
            found[name] = (DecoderHead.name, DecoderHead(module.options))
        elif isinstance(options, HeadOptions):
            found[name] = (options.name, options)
        elif isinstance(module, EmbeddingHead):
            found[name] = ("embed", Embed(module.pool, normalise=True))  # type: ignore[arg-type]
        elif isinstance(module, MaskedLmHead):
            found[name] = ("mlm", None)
        elif isinstance(module, DetectionHead):
            found[name] = ("rtd", None)
        elif isinstance(module, PooledHead) and name in PRETRAINING:
            found[name] = (name, None)
        else:
            found[name] = (type(module).__name__, None)
    return found


def listed(names: Sequence[str], most: int = 3) -> str:
    """Some of many names."""
    shown = ", ".join(list(names)[:most])
    return shown + (f" and {len(names) - most} more" if len(names) > most else "")


def generator_of(model: Model) -> Model:
    """The generator of an ELECTRA as a model of its own: a masked-LM head on an encoder, with the tables it reads."""
    options = next(task for task in model.config.tasks if isinstance(task, Generator))
    config = dataclasses.replace(
        model.config, model=options.config(model.config.model), tasks=(PRETRAINING["mlm"],), heads=()
    )
    own = "rewriters_generator/"

    def source(path: str) -> str:
        if path.startswith("heads_mlm/"):
            return f"{own}head/{path.removeprefix('heads_mlm/')}"
        if options.embeddings == "shared" and path.startswith(("encoder/embedder/", "encoder/position/")):
            projection = "encoder/embedder/projection/"
            return f"{own}{path.removeprefix('encoder/embedder/')}" if path.startswith(projection) else path
        return own + path

    shapes = {path: shape for path, shape in shapes_of(config).items() if source(path) in model.shapes}
    return dataclasses.replace(
        model, config=config, shapes=shapes, read=lambda path: model.read(source(path))
    )
