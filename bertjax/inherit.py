"""What a run takes over from another: its parameters, for other text, other tasks or a larger vocabulary.

`model.init=WORKDIR` starts from the newest checkpoint of that run instead of random numbers. Step, optimizer and
schedule start anew. Encoders must be of one shape, but for two tables; heads that both have are taken over, others
start fresh, and so do a pooler, adapters and a prompt that the source lacks.

    tokens      matched by name, where the two runs have tokenizers, else by number. A new token starts at the mean of
                all old ones plus noise of a tenth of their spread, and so does its bias at the mean: at first it is
                about as likely as others are on average, and no two are the same.
    positions   beyond the old table repeat it from its first position (as 2004.05150 does)
    decoders    that the source lacks start from its encoder, layer by layer: of more or fewer layers from those spread
                evenly over its depth; logits from its masked-LM head. What an encoder has not, attention to another
                row, starts fresh (BERT2BERT, 1907.12461)

The bundle's layers may lie scanned or unrolled; the new run's config decides how they go on.
"""

import dataclasses
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from bertjax import settings
from bertjax.checkpoint import Checkpoints
from bertjax.config import CHOICES, Config, read_workdir
from bertjax.data.corpus import Vocabulary
from bertjax.data.open import corpus_names
from bertjax.history import History
from bertjax.layers.config import EncoderConfig
from bertjax.models.stacking import locate, stack_layers, unstack_layers
from bertjax.sharding import Declared
from bertjax.tune import LOW_RANK, merged_leaves
from bertjax.types import Int, Tree

ENCODER = "encoder/"
FRESH = {  # what an encoder may have that the source lacks, by its paths
    "pooler": re.compile(r"^encoder/pooler/"),
    "adapters": re.compile(r"_adapter/(down|up)/(kernel|bias)$"),
    "prompt": re.compile(r"/prompt$"),
}
NEW = -1  # the old number of a token that the old vocabulary lacks
NOISE = 0.1  # of the spread of old embeddings, around their mean


@dataclasses.dataclass(frozen=True)
class Source:
    """What another run left."""

    parameters: Mapping[str, np.ndarray]  # by path, "encoder/embedder/tokens"
    tokens: int  # in its vocabulary
    about: str
    tokenizer: Any = None  # None for made-up text, whose tokens are but numbers
    model: EncoderConfig | None = None


def open_source(workdir: str, *, scan: bool) -> Source:
    """The best or the newest whole checkpoint of a run, on this host, its layers stacked or not."""
    config = read_workdir(workdir)[0]
    step = Checkpoints(workdir).latest()
    if step is None:
        raise ValueError(f"model.init={workdir} holds no whole checkpoint: let that run go on first")
    step = History(workdir, config.train, step).best or step
    # From the host: what was read lies on one device, and the mesh that this runs in may have more.
    known = jax.device_get(Checkpoints(workdir).load_params(step))
    tree = (stack_layers if scan else unstack_layers)(known)
    tokenizer = open_tokenizer(workdir)
    size = config.model.vocab if tokenizer is None else tokenizer.vocabulary.size
    leaves = merged_leaves(flat(jax.device_get(tree)), config.tune)
    return Source(leaves, size, f"{workdir} at step {step}", tokenizer, config.model)


def open_tokenizer(folder: str) -> Any:
    """The tokenizer in a workdir or a corpus; None if there is none."""
    path = pathlib.Path(folder) / "tokenizer"
    if not path.is_dir():
        return None
    from bertjax.data.tokenizer_files import load

    return load(str(path))


def inherit(
    source: Source, config: Config, vocabulary: Vocabulary, declared: Tree, shapes: Tree
) -> tuple[dict[str, np.ndarray], str]:
    """The parameters by path that `source` has for a run, and a line that says which those are.

    `declared` tells the axes of the run's parameters, `shapes` their shapes.
    """
    rows = token_rows(source, open_tokenizer(corpus_names(config.data.corpus)[0]), vocabulary)
    offset = getattr(config.model.position, "offset", 0)
    before = 0 if source.model is None else getattr(source.model.position, "offset", 0)
    axes = {path: box.names for path, box in flat(declared, leaf=Declared).items()}
    random = np.random.default_rng(config.train.seed)
    taken, fresh, wanted = {}, [], flat(shapes)
    decoders = decoder_starts(source, config)
    known = {path: value for some in decoders.values() for path, value in some.items()} | dict(
        source.parameters
    )
    kept = (ENCODER, *decoders_of_both(source, wanted))
    odd = [path for path in source.parameters if path.startswith(kept) and path not in wanted]
    for path, want in wanted.items():
        old = known.get(path)
        if old is not None and axes[path][0] == "vocab":
            old = new_rows(old[: source.tokens], rows, want.shape[0], random)
        elif old is not None and path.endswith("position/embedding"):
            if offset != before:
                raise ValueError(
                    f"model.init: positions begin at row {before} in {source.about} and at {offset} here: "
                    f"set model.position.offset={before}"
                )
            row = np.arange(want.shape[0])
            old = old[np.where(row < offset, row, offset + (row - offset) % (len(old) - offset))]
        if old is not None and old.shape == want.shape:
            taken[path] = old
        elif path.startswith(kept):
            added = next((name for name, pattern in FRESH.items() if pattern.search(path)), None)
            if added is None or (old is not None and added != "pooler"):
                odd.append(path)
            else:
                fresh.append(added)
        elif not path.startswith((f"{LOW_RANK}/", *decoders)):
            fresh.append(_head(path))
    if odd:
        here, there = (
            f"of shape {list(arrays[odd[0]].shape)}" if odd[0] in arrays else "missing"
            for arrays in (wanted, source.parameters)
        )
        raise ValueError(
            f"model.init: {odd[0]} is {there} in {source.about} and {here} in this run: "
            + (
                f"use the model settings of that run{_other_settings(source, config)}"
                if odd[0].startswith(ENCODER)
                else "use the decoder of that run (tasks.translate.decoder.table, tasks.translate.decoder.layers)"
            )
        )
    new = int((rows == NEW).sum())
    words = f"{len(rows) - new:,} of {source.tokens:,} tokens, {new:,} new ones start near their mean"
    heads = f"; fresh heads: {', '.join(dict.fromkeys(fresh))}" if fresh else ""
    for own in decoders:
        all_, some = ([path for path in paths if path.startswith(own)] for paths in (wanted, taken))
        heads += f"; decoder {_head(own)}: {len(some)} of its {len(all_)} arrays are those of the encoder"
    return taken, f"from {source.about}: {len(taken)} arrays, {words}{heads}"


def decoders_of_both(source: Source, wanted: Mapping[str, Any]) -> list[str]:
    """Where the parameters of decoders lie that a run and its source have: they are taken over whole, or not at all."""
    here, there = (
        {path.split("/")[0] for path in paths if path.startswith("heads_") and "/cross/" in path}
        for paths in (wanted, source.parameters)
    )
    return [f"{name}/" for name in sorted(here & there)]


def decoder_starts(source: Source, config: Config) -> dict[str, dict[str, np.ndarray]]:
    """For decoders that the source lacks, by where their parameters lie: what its encoder has for them, by path."""
    stacks = {
        f"heads_{name}/": stack
        for task in config.tasks
        for name, stack in task.stacks(config.model).items()
        if source.model is not None
        and not any(path.startswith(f"heads_{name}/") for path in source.parameters)
    }
    return {own: _decoder_start(source, own, stack) for own, stack in stacks.items()}


def _decoder_start(source: Source, own: str, config: EncoderConfig) -> dict[str, np.ndarray]:
    """The layers of the encoder, its tables and its last layer, by the paths of a decoder."""
    assert source.model is not None
    found: dict[str, np.ndarray] = {}
    for path, value in source.parameters.items():
        beside = (
            f"{ENCODER}embedder/",
            f"{ENCODER}position/",
            f"{ENCODER}final_norm/",
            f"{ENCODER}stack/shared_",
        )
        if path.startswith(beside):
            found[own + path.removeprefix(ENCODER)] = value
        for head in ("heads_clm/head/", "heads_mlm/"):
            if path.startswith(head):
                found[f"{own}head/{path.removeprefix(head)}"] = value
    depth = source.model.layers
    places = locate(source.model)
    for number, (mine, index) in enumerate(locate(config)):
        theirs, origin = places[round(number * (depth - 1) / max(config.layers - 1, 1))]
        for rest, value in _layer(source.parameters, theirs, origin).items():
            path = own + "/".join((*mine, rest))
            if config.scan:
                repeats = config.layout[int(mine[1].removeprefix("group_"))][1]
                found.setdefault(path, np.zeros((repeats, *value.shape), value.dtype))[index] = value
            else:
                found[path.replace("/layers/", f"/layers_{index}/")] = value
    return found


def _layer(parameters: Mapping[str, np.ndarray], where: tuple[str, ...], index: int) -> dict[str, np.ndarray]:
    """The parameters of one layer, scanned or not, by the rest of their paths."""
    stacked = ENCODER + "/".join(where) + "/"
    alone = stacked.replace("/layers/", f"/layers_{index}/")
    found = {path.removeprefix(alone): value for path, value in parameters.items() if path.startswith(alone)}
    many = {
        path.removeprefix(stacked): value for path, value in parameters.items() if path.startswith(stacked)
    }
    return found | {rest: value[index] for rest, value in many.items()}


def _head(path: str) -> str:
    """The task of a parameter that is not the encoder's."""
    return path.split("/")[0].removeprefix("heads_").removeprefix("rewriters_")


def _other_settings(source: Source, config: Config) -> str:
    """What may be the reason that arrays differ."""
    if source.model is None:
        return ""
    ours, theirs = (settings.to_dict(model, CHOICES) for model in (config.model, source.model))
    for name in (
        "init",
        "vocab",
        "max_length",
        "dtype",
        "scan",
        "remat",
    ):  # which change no array, or one that may change
        del ours[name], theirs[name]
    different = list(settings.differences(ours, theirs, "model"))
    return f" ({'; '.join(different[:3])})" if different else ""


def token_rows(source: Source, tokenizer: Any, vocabulary: Vocabulary) -> Int[np.ndarray, "tokens"]:
    """For every token of a vocabulary its number in the source, or NEW."""
    if (source.tokenizer is None) != (tokenizer is None):
        here, there = ("none", "one") if tokenizer is None else ("one", "none")
        raise ValueError(
            f"model.init: this corpus has {here} and {source.about} has {there} of a tokenizer, so that their tokens "
            f"cannot be matched: choose another corpus"
        )
    if tokenizer is None:
        number = np.arange(vocabulary.size)
        return np.where(number < source.tokens, number, NEW)
    theirs = {name: i for i, name in enumerate(source.tokenizer.tokens(range(source.tokens)))}
    rows = np.array([theirs.get(name, NEW) for name in tokenizer.tokens(range(vocabulary.size))])
    for role in ("pad", "unk", "cls", "sep", "mask"):  # which tokenizers name differently
        rows[getattr(vocabulary, role)] = getattr(source.tokenizer.vocabulary, role)
    return rows


def new_rows(
    old: np.ndarray, rows: Int[np.ndarray, "tokens"], size: int, random: np.random.Generator
) -> np.ndarray:
    """A table of `size` rows: those that `rows` names, and the mean of all with noise where it names none."""
    spread = NOISE * old.std(0) if old.ndim > 1 else np.zeros(())
    table = old.mean(0) + spread * random.standard_normal((size, *old.shape[1:]))
    known = np.flatnonzero(rows != NEW)
    table[known] = old[rows[known]]
    return table.astype(old.dtype)


def place_parameters(taken: Mapping[str, np.ndarray], params: Tree) -> Tree:
    """The parameters with those taken over instead of their own, where their own lie."""

    def one(path: Any, leaf: jax.Array) -> jax.Array:
        value = taken.get(name_of(path))
        if value is None:
            return leaf
        value = value.astype(leaf.dtype)
        return jax.make_array_from_callback(leaf.shape, leaf.sharding, lambda index: value[index])

    return jax.tree_util.tree_map_with_path(one, params)


def flat(tree: Tree, leaf: type | None = None) -> dict[str, Any]:
    """The leaves of a tree by path."""
    stop = None if leaf is None else (lambda x: isinstance(x, leaf))
    return {name_of(path): value for path, value in jax.tree_util.tree_leaves_with_path(tree, is_leaf=stop)}


def name_of(path: Any) -> str:
    """The path of a leaf, its parts joined by slashes."""
    return jax.tree_util.keystr(path, simple=True, separator="/")
