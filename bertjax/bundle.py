"""A model as one thing: config, network, parameters, tokenizer; made by `bertjax.load`, whatever lies in a folder.

    bundle = bertjax.load("runs/quickstart")                   a workdir of this project
    bundle = bertjax.load("models/bert-base-uncased")          an imported folder, or a published one as it is
    bundle = bertjax.load(path, mesh=MeshConfig(fsdp=4, rules="fsdp"), dtype="bfloat16", layers=6)

    output = bundle.encode(*bundle.tokenize(["A text.", ("Two", "texts.")]))     hidden [B L D], pooled [B D]

Parameters are read one at a time and laid where they will live. With fewer `layers` the first ones are kept. With more,
the stack is repeated from its start (Gong et al., "Efficient Training of BERT by Progressively Stacking", 2019).
"""

import contextlib
import dataclasses
import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax.core import meta
from jax.sharding import Mesh

from bertjax import settings, sharding
from bertjax.checkpoint import Checkpoints
from bertjax.config import Config, read_workdir, to_dict
from bertjax.convert.model import Model, declare, generator_of, network_of, shapes_of, unrolled
from bertjax.convert.table import layer_paths
from bertjax.data.corpus import Vocabulary
from bertjax.data.files import new_folder
from bertjax.data.open import SYNTHETIC, open_vocabulary
from bertjax.history import History
from bertjax.inherit import flat, name_of
from bertjax.models.decoder import Decoder
from bertjax.models.network import Network
from bertjax.models.stacking import unstack_layers
from bertjax.sharding import MeshConfig
from bertjax.tasks.sbo import BoundaryHead
from bertjax.tune import merged_leaves
from bertjax.types import Array, Batch, EncoderOutput, TrainState, Tree

ROWS = 8  # lengths are rounded up to a multiple of this, so that few shapes are compiled
SOURCE = "source.json"  # where an imported model came from


class Tokens(NamedTuple):
    """Texts as rows of one length."""

    tokens: np.ndarray  # int [B L]
    mask: np.ndarray  # bool [B L]
    types: np.ndarray  # int [B L]


@dataclasses.dataclass(frozen=True)
class Bundle:
    """A model, ready to use."""

    config: Config
    model: Network
    params: Tree
    tokenizer: Any
    mesh: Mesh
    vocabulary: Vocabulary
    about: Mapping[str, Any]
    step: int

    def active(self) -> contextlib.AbstractContextManager[None]:
        """Mesh and rules in force: everything is traced and run inside."""
        return sharding.activate(self.mesh, self.config.mesh.rules)

    @property
    def replicas(self) -> int:
        """A batch has a multiple of so many rows."""
        return self.mesh.shape["data"] * self.mesh.shape["fsdp"]

    def tokenize(self, texts: Sequence[str | tuple[str, str]], *, length: int | None = None) -> Tokens:
        """Texts or pairs of texts with special tokens; what is longer than `length` (or the model's) is cut."""
        if self.tokenizer is None:
            raise ValueError("this model has no tokenizer: give token numbers to encode")
        if isinstance(texts, str):
            raise ValueError("tokenize takes a list of texts, not one text")
        most = self.config.data.length if length is None else length
        pairs = [text if isinstance(text, tuple) else (text, None) for text in texts]
        rows = [self.tokenizer.encode_pair(first, second, length=most) for first, second in pairs]
        longest = max((len(tokens) for tokens, _ in rows), default=1)
        wide = max(longest, min(most, -(-longest // ROWS) * ROWS))
        shape = (len(rows), wide)
        tokens, types = np.full(shape, self.vocabulary.pad, np.int32), np.zeros(shape, np.int32)
        mask = np.zeros(shape, bool)
        for i, (ids, kinds) in enumerate(rows):
            tokens[i, : len(ids)], mask[i, : len(ids)] = ids, True
            if (self.config.model.types or 1) > 1:
                types[i, : len(ids)] = kinds
        return Tokens(tokens, mask, types)

    def encode(self, tokens: Array, mask: Array | None = None, types: Array | None = None) -> EncoderOutput:
        """What the encoder makes of rows of token numbers; without a mask, all but padding is real."""
        batch, rows = self.batch(tokens, mask, types)
        with self.active():
            return _first(self._compiled("encode", False)(self.params, batch), rows)

    def outputs(
        self, tokens: Array, mask: Array | None = None, types: Array | None = None, *, states: bool = False
    ) -> dict[str, Any]:
        """The same under "encoder", with the states of every layer if asked for, and what each head makes of it."""
        batch, rows = self.batch(tokens, mask, types)
        with self.active():
            found = self._compiled("__call__", states)(self.params, batch)
        return {name: _first(value, rows) for name, value in found.items()}

    def following(
        self, name: str, written: Array, tokens: Array, mask: Array | None = None, types: Array | None = None
    ) -> np.ndarray:
        """Logits [B T V] of the tokens behind each of `written` [B T], by the decoder `name` that reads rows."""
        batch, rows = self.batch(tokens, mask, types)
        there = len(batch.tokens)
        row = np.pad(np.asarray(written, np.int32), [(0, there - rows), (0, 1)])
        size = np.full(there, row.shape[1], np.int32)
        batch = batch.with_targets(name, row=row, size=size, weight=np.ones(there, np.float32))
        network = Network(self.config.model, {name: self.model.heads[name]})
        run = jax.jit(lambda params, batch: network.apply({"params": params}, batch, train=False)[name])
        with self.active():
            return np.asarray(run(self.params, batch))[:rows]

    def _compiled(self, method: str, states: bool) -> Callable[..., Any]:
        known: dict[Any, Any] = self.__dict__.setdefault("_known", {})
        if (method, states) not in known:
            # Without what makes the inputs of others, which are given here, and without what is told what was hidden
            # or what is to be written.
            given = BoundaryHead | Decoder
            heads = {n: head for n, head in self.model.heads.items() if not isinstance(head, given)}
            network = Network(self.config.model, heads, keep_states=states)
            run = functools.partial(network.apply, train=False, method=method)
            known[method, states] = jax.jit(lambda params, batch: run({"params": params}, batch))
        return known[method, states]

    def batch(self, tokens: Array, mask: Array | None, types: Array | None) -> tuple[Batch, int]:
        """Rows as a batch, with empty ones below them where the mesh needs more; and how many there were."""
        tokens, c = np.asarray(tokens, np.int32), self.config.model
        if tokens.ndim != 2 or not len(tokens):
            raise ValueError(f"tokens of shape {list(tokens.shape)} are not rows of one length: give [B L]")
        if tokens.min() < 0 or tokens.max() >= c.vocab:
            raise ValueError(
                f"token {int(tokens.max() if tokens.max() >= c.vocab else tokens.min())} is not in the "
                f"vocabulary of {c.vocab}: were these texts cut by another tokenizer?"
            )
        if mask is None:  # without a tokenizer, no token is known to be padding
            mask = np.ones_like(tokens, bool) if self.tokenizer is None else tokens != self.vocabulary.pad
        mask = np.asarray(mask, bool)
        types = np.zeros_like(tokens) if types is None else np.asarray(types, np.int32)
        for name, array in (("mask", mask), ("types", types)):
            if array.shape != tokens.shape:
                raise ValueError(
                    f"{name} of shape {list(array.shape)} and tokens of {list(tokens.shape)}: they are alike"
                )
        if types.any() and types.max() >= (c.types or 1):
            raise ValueError(
                f"types up to {int(types.max())} and the model tells {c.types or 1} apart: leave types out"
            )
        rows, fill = len(tokens), -len(tokens) % self.replicas
        wide = [(0, fill), (0, 0)]
        place = np.broadcast_to(np.arange(tokens.shape[1], dtype=np.int32), (rows + fill, tokens.shape[1]))
        row = np.arange(rows + fill, dtype=np.int32)
        tokens, mask, types = (np.pad(x, wide) for x in (tokens, mask, types))
        return Batch(tokens, mask, types, place, None, {}, example_id=row, epoch=np.zeros_like(row)), rows

    def opened(self) -> Model:
        """The same as parameters by path, layers one by one."""
        config = unrolled(self.config)
        leaves = flat(self.params)

        def read(path: str) -> np.ndarray:
            if path in leaves:
                return np.asarray(leaves[path])
            number = re.search(r"/layers_(\d+)/", path)
            assert number, path
            return np.asarray(leaves[path.replace(number[0], "/layers/")][int(number[1])])

        return Model(config, shapes_of(config, self.vocabulary), read, self.tokenizer, self.about)

    def generator(self) -> "Bundle":
        """The generator of an ELECTRA as a model of its own."""
        devices = list(self.mesh.devices.flat)
        return assemble(generator_of(self.opened()), self.config.mesh, devices, None, None, step=self.step)

    def save(self, path: str) -> None:
        """Writes a folder that `load`, `model.init`, evaluate and predict read; it is there whole or not at all."""
        with new_folder(path) as folder:
            checkpoints = Checkpoints(folder)
            checkpoints.save(TrainState(step=np.int32(0), params=self.params, opt_state={}))
            checkpoints.close()
            if self.tokenizer is not None:
                self.tokenizer.save(str(folder / "tokenizer"))
            fingerprint = {"imported": self.about.get("source", "")}  # no run: none goes on here
            record = {
                "config": to_dict(self.config),
                "fingerprint": fingerprint,
                "digest": settings.digest(fingerprint),
            }
            (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n")
            (folder / SOURCE).write_text(json.dumps(dict(self.about), indent=2) + "\n")


def _first(output: Any, rows: int) -> Any:
    """The rows that were asked for."""
    if isinstance(output, EncoderOutput):
        kept = None if output.states is None else output.states[:, :rows]
        return EncoderOutput(hidden=output.hidden[:rows], pooled=output.pooled[:rows], states=kept)
    return jax.tree.map(lambda x: x[:rows], output)


# ---------------------------------------------------------------------------------------------- load


def load(
    path: str,
    *,
    mesh: MeshConfig | None = None,
    devices: Any = None,
    dtype: Literal["float32", "bfloat16"] | None = None,
    layers: int | None = None,
) -> Bundle:
    """The model in a folder: a workdir (its newest whole checkpoint), an imported folder, or a published one.

    `mesh` says how it lies on the machine's devices, or on those given; without one each holds a copy. `dtype` is that
    of activations, `layers` another depth.
    """
    from bertjax.convert.source import is_published

    if is_published(path):
        from bertjax.convert.reading import read_model
        from bertjax.convert.source import open_source

        with open_source(path) as source:
            model = read_model(source, open_tokenizer(source.folder))
            return assemble(model, mesh, devices, dtype, layers, step=0)
    model, step = open_workdir(path)
    return assemble(model, mesh, devices, dtype, layers, step=step)


def open_workdir(workdir: str) -> tuple[Model, int]:
    """What a run, or an import, has left: its newest whole checkpoint, and the step of that."""
    config = read_workdir(workdir)[0]
    step = Checkpoints(workdir).latest()
    if step is None:
        raise ValueError(f"{workdir} holds no whole checkpoint: train there first, or let the run go on")
    step = History(workdir, config.train, step).best or step
    where = pathlib.Path(workdir)
    tokenizer = open_tokenizer(str(where / "tokenizer")) if (where / "tokenizer").is_dir() else None
    if tokenizer is None and not (where / SOURCE).exists() and config.data.corpus != SYNTHETIC:
        raise ValueError(
            f"{workdir} has lost its tokenizer: copy that of its corpus, {config.data.corpus}, there"
        )
    about = json.loads((where / SOURCE).read_text()) if (where / SOURCE).exists() else {"source": workdir}
    leaves = merged_leaves(flat(unstack_layers(Checkpoints(workdir).load_params(step))), config.tune)
    shapes = {name: tuple(leaf.shape) for name, leaf in leaves.items()}
    return Model(config, shapes, lambda name: np.asarray(leaves[name]), tokenizer, about), step


def open_tokenizer(path: str) -> Any:
    """The tokenizer in a folder; None where there is none."""
    from bertjax.data.published import VOCABULARIES
    from bertjax.data.tokenizer_files import FILES
    from bertjax.data.tokenizer_files import load as load_tokenizer

    where = pathlib.Path(path)
    if not any((where / name).exists() for name in (*FILES, *VOCABULARIES)) and not list(
        where.glob("*.model")
    ):
        return None
    return load_tokenizer(path)


def assemble(
    model: Model,
    mesh: MeshConfig | None,
    devices: Any,
    dtype: Literal["float32", "bfloat16"] | None,
    layers: int | None,
    *,
    step: int,
) -> Bundle:
    """A model laid out on devices."""
    if layers is not None:
        model = at_depth(model, layers)
    encoder = model.config.model if dtype is None else dataclasses.replace(model.config.model, dtype=dtype)
    config = dataclasses.replace(model.config, model=encoder, mesh=MeshConfig() if mesh is None else mesh)
    tokenizer = model.tokenizer
    vocabulary = open_vocabulary(SYNTHETIC, encoder.vocab) if tokenizer is None else tokenizer.vocabulary
    declared = declare(config, vocabulary)
    placed = sharding.make_mesh(config.mesh, devices)
    where = flat(sharding.parameter_shardings(declared, placed, config.mesh.rules))

    def one(path: Any, shape: Any) -> jax.Array:
        name = name_of(path)
        value = read_stacked(model.read, name, shape.shape)
        assert value.shape == shape.shape, name
        return jax.make_array_from_callback(shape.shape, where[name], lambda index: value[index])

    params = jax.tree_util.tree_map_with_path(one, meta.unbox(declared))
    return Bundle(config, network_of(config), params, tokenizer, placed, vocabulary, model.about, step)


def read_stacked(read: Callable[[str], np.ndarray], path: str, shape: Sequence[int]) -> np.ndarray:
    """A parameter of a stack, scanned or not."""
    if "/layers/" not in path:
        return read(path)
    return np.stack([read(path.replace("/layers/", f"/layers_{i}/")) for i in range(shape[0])])


def at_depth(model: Model, layers: int) -> Model:
    """The same model with another number of layers: its first ones, or all of them again and again."""
    old = model.config.model
    new = dataclasses.replace(old, layers=layers)
    config = dataclasses.replace(model.config, model=new)
    before, after = layer_paths(old), layer_paths(new)
    origin = {path: before[i % old.layers] for i, path in enumerate(after)}
    pattern = re.compile("|".join(re.escape(f"{path}/") for path in sorted(after, key=len, reverse=True)))

    def source(path: str) -> str:
        return pattern.sub(lambda found: origin[found[0][:-1]] + "/", path)

    shapes = shapes_of(config, None if model.tokenizer is None else model.tokenizer.vocabulary)
    for path, shape in shapes.items():
        if model.shapes.get(source(path)) != shape:
            raise ValueError(
                f"layers={layers} cannot be made of {old.layers}: {path} of shape {list(shape)} has no counterpart "
                f"where the stack is repeated; use a multiple of the period of model.attention, or fewer layers"
            )
    return Model(config, shapes, lambda path: model.read(source(path)), model.tokenizer, model.about)
