"""From a published model to one of ours: config, heads, and the numbers of one parameter at a time.

What heads a model has is told by its tensors, and where several heads have tensors of the same names, by the class
that its config.json names. All of it is decided, and every name and shape compared, before a parameter is read.
"""

from collections import Counter
from typing import Any

import numpy as np

from bertjax import settings
from bertjax.config import Config, DataConfig
from bertjax.convert.families import FAMILIES, UNFIT
from bertjax.convert.family import Architecture, Family
from bertjax.convert.faults import check_listing, copies_of
from bertjax.convert.model import PRETRAINING, Model, shapes_of
from bertjax.convert.source import Named, Source
from bertjax.convert.table import Row, match
from bertjax.data.formats import FORMATS
from bertjax.data.pairs import SegmentPair
from bertjax.layers.config import EncoderConfig
from bertjax.models.task_heads import HeadOptions

LARGEST = 2**31  # of any size
SHARED_LAYERS = 1000  # that may share their parameters
NEAR = 4e-3  # of fixed numbers, which may have been stored in half precision: bfloat16 has eight bits
FEWEST = 0.9  # of the rows of an embedding: how many must have a token in the vocabulary


def read_model(source: Source, tokenizer: Any = None) -> Model:
    """The model; its parameters can be read as long as the source is open."""
    family = family_of(source)
    named = Named(source.weights, family.renamed)
    found = {name: entry.shape for name, entry in named.items()}
    prefix = f"{family.base}." if any(name.startswith(f"{family.base}.") for name in found) else ""
    end = architecture_of(source, family, named)
    architecture = family.architectures[end]
    pooler = has_pooler(family, named, prefix)
    try:
        encoder = family.fields.to_config(source.config, pooler=pooler)
        check_sizes(encoder, len(found))
        heads = options_of(source, family, architecture, named)
        config = whole_config(source, encoder, architecture, heads)
        matches = match(family.rows, shapes_of(config), encoder, prefix, family.name)
    except (ValueError, TypeError, ArithmeticError) as error:
        text = (
            str(error).removeprefix("config.json: ").splitlines()[0] if str(error) else type(error).__name__
        )
        raise source.fail(f"config.json: {text}") from None
    copies = {name: of for name, of in copies_of(family.copies, matches).items() if name in found}
    wanted = {n: s for m in matches for n, s in zip(m.theirs, m.their_shapes, strict=True)}
    for copy, of in copies.items():
        if of not in found or not encoder.tied:  # the copy alone was kept, or it is what their model reads
            found[of], named.names[of] = found[copy], named.names[copy]
    unused = [] if pooler else pooler_names(family, prefix)
    constants = [prefix + name for name in family.constants]
    check_listing(source.path, family, wanted, found, [*copies, *unused, *constants], FAMILIES)
    check_constants(source, family, named, prefix, encoder)
    check_copies(source, named, copies)
    check_vocabulary(source, encoder, tokenizer)
    check_marks(source, family, tokenizer)
    where = {path: one for one in matches for path in one.ours}

    def read(path: str) -> np.ndarray:
        one = where[path]
        return one.load([named.read(name) for name in one.theirs], encoder)[path]

    shapes = {path: shape for m in matches for path, shape in zip(m.ours, m.shapes, strict=True)}
    dtypes = Counter(str(entry.dtype) for entry in named.values())
    about = {
        "family": family.name,
        "class": family.class_name(end),
        "source": source.path,
        "files": source.weights.kind,
        "dtypes": dict(dtypes),
        "pad": source.config.get("pad_token_id"),
    }
    return Model(config, shapes, read, tokenizer, about)


def family_of(source: Source) -> Family:
    """The family that config.json names."""
    name = source.config.get("model_type")
    if not isinstance(name, str):
        raise source.fail(f"config.json names no model_type: it should be one of {', '.join(FAMILIES)}")
    if name in UNFIT:
        raise source.fail(f"the family {name} does not fit this model: {UNFIT[name]}")
    if name not in FAMILIES:
        raise source.fail(f"the family {name!r} is not supported: {settings.suggest(name, list(FAMILIES))}")
    return FAMILIES[name]


def architecture_of(source: Source, family: Family, named: Named) -> str:
    """The class that config.json names, or the largest of pretraining that has its heads; the end of its name."""
    classes = {family.class_name(end): end for end in family.architectures}
    heads = {end: set(one.heads) for end, one in family.architectures.items()}
    names = source.config.get("architectures") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise source.fail(f"config.json: architectures={names!r} is no list of names")
    there = [end for end in heads if all(has_head(family, head, named) for head in heads[end])]
    learned = set(PRETRAINING)
    if names:
        if names[0] not in classes:
            raise source.fail(
                f"config.json: the class {names[0]} is not supported: {settings.suggest(names[0], list(classes))}"
            )
        first = classes[names[0]]
        if not heads[first] <= learned:
            return first
        there = [end for end in there if heads[first] <= heads[end] <= learned] or [first]
        return max(there, key=lambda end: len(heads[end]))
    used = [end for end in there if not heads[end] <= learned]
    if len(used) > 1:
        raise source.fail(
            f"config.json names no architectures and the tensors fit {', '.join(map(family.class_name, used))}: "
            f"write the name of the class into it"
        )
    return max(used or there, key=lambda end: len(heads[end]))


def has_head(family: Family, head: str, named: Named) -> bool:
    """Whether a file has the tensors of a head, but for those that copy others."""
    copied = {copy.name for copy in family.copies}
    names = [n for row in family.rows if _path(row).startswith(f"heads_{head}/") for n in _names(row)]
    return all(name.replace("{i}", "0") in named for name in names if name not in copied)


def pooler_names(family: Family, prefix: str) -> list[str]:
    """The tensors of the family's pooler."""
    return [
        prefix + n for row in family.rows if _path(row).startswith("encoder/pooler/") for n in _names(row)
    ]


def has_pooler(family: Family, named: Named, prefix: str) -> bool:
    """Whether a file has a pooler; one of zeros is written for models without."""
    there = [name for name in pooler_names(family, prefix) if name in named]
    return any(named.read(name).any() for name in there)


def options_of(
    source: Source, family: Family, architecture: Architecture, named: Named
) -> tuple[HeadOptions, ...]:
    """The heads that no task of pretraining learns."""
    forms = [family.forms[name] for name in architecture.heads if name not in PRETRAINING]
    heads = [form.told(form.load(source.config), named) for form in forms]
    return (*heads, source.embed) if source.embed is not None else tuple(heads)


def whole_config(
    source: Source, encoder: EncoderConfig, architecture: Architecture, heads: tuple[HeadOptions, ...]
) -> Config:
    """A config for the model: with it, the model evaluates and predicts."""
    tasks = tuple(PRETRAINING[name] for name in architecture.heads if name in PRETRAINING)
    names = {task.name for task in tasks}
    format = FORMATS["padded"]
    if names & {"nsp", "sop"}:
        format = SegmentPair(negatives="random" if "nsp" in names else "swapped")
    length = min(source.length or 512, 512, encoder.max_length)
    return Config(model=encoder, data=DataConfig(format=format, length=length), tasks=tasks, heads=heads)


def check_sizes(encoder: EncoderConfig, tensors: int) -> None:
    """Refuses, before it is built, a model of no size, or with far more layers than there are tensors for."""
    for name in (
        "layers",
        "width",
        "heads",
        "key_size",
        "hidden",
        "vocab",
        "max_length",
        "table_width",
        "types",
    ):
        size = getattr(encoder, name)
        if size is not None and not 1 <= size < LARGEST:
            raise ValueError(f"a model with {name} {size} has nothing to compute with")
    most = tensors if encoder.sharing == "none" else SHARED_LAYERS
    if encoder.layers > most:
        raise ValueError(
            f"{encoder.layers} layers are more than the {tensors} tensors of the file could fill"
        )


def check_copies(source: Source, named: Named, copies: dict[str, str]) -> None:
    """Refuses weights that should be the same and are stored twice and different."""
    for copy, of in copies.items():
        if not np.array_equal(named.read(copy), named.read(of)):
            raise source.fail(
                f"{copy} and {of} are tied by config.json but stored twice and different: "
                f"set tie_word_embeddings to false there, or fetch the weights again"
            )


def check_constants(
    source: Source, family: Family, named: Named, prefix: str, encoder: EncoderConfig
) -> None:
    """Refuses other numbers where the family has fixed ones."""
    for name, constant in family.constants.items():
        if prefix + name in named:
            found = named.read(prefix + name)
            if found.shape != constant.shape(encoder) or np.abs(found - constant.make(encoder)).max() > NEAR:
                raise source.fail(
                    f"{prefix}{name} does not hold the numbers that all models of the family {family.name} have: "
                    f"fetch the weights again"
                )


def check_vocabulary(source: Source, encoder: EncoderConfig, tokenizer: Any) -> None:
    """Refuses a vocabulary that does not belong to the embedding."""
    if tokenizer is None:
        return
    size = tokenizer.vocabulary.size
    if size > encoder.vocab or size < FEWEST * encoder.vocab:
        raise source.fail(
            f"the tokenizer has {size:,} tokens and the embedding {encoder.vocab:,} rows: they do not belong "
            f"together; fetch the tokenizer files of this model"
        )


def check_marks(source: Source, family: Family, tokenizer: Any) -> None:
    """Refuses a decoder whose texts begin or end otherwise than rows do here."""
    if not family.writes or tokenizer is None:
        return
    for name, role in (("decoder_start_token_id", "cls"), ("eos_token_id", "sep")):
        mine, theirs = getattr(tokenizer.vocabulary, role), source.config.get(name)
        if theirs is not None and theirs != mine:
            raise source.fail(
                f"config.json: {name}={theirs} is not the token {role} of its tokenizer, {mine}, which begins or ends "
                f"what is written here"
            )


def _path(row: Row) -> str:
    return row.ours if isinstance(row.ours, str) else row.ours[0]


def _names(row: Row) -> tuple[str, ...]:
    return (row.theirs,) if isinstance(row.theirs, str) else row.theirs
