"""From a model of ours to a folder that `transformers` loads: config.json, model.safetensors, and what belongs to it.

Tensors are written one at a time, under the names of the family's table. What the class that holds the model has no
place for is told: a pooler that no head reads is left out, a pooler that the class has and the model has not is zero.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax import settings
from bertjax.config import CHOICES
from bertjax.convert.families import FAMILIES
from bertjax.convert.family import Architecture, Family
from bertjax.convert.faults import copies_of
from bertjax.convert.fields import unlike
from bertjax.convert.model import Model, heads_of, listed
from bertjax.convert.table import Match, Shape, match
from bertjax.models.task_heads import Embed, HeadOptions
from bertjax.settings import suggest

FREE = ("dropout", "hidden_dropout", "start")  # settings of a head that only training knows
TOLD = ("table",)  # and those that its tensors tell


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a model will be written."""

    family: Family
    architecture: str
    config: Mapping[str, Any]
    matches: Sequence[Match]
    model: Model  # with the pooler of the class
    copies: Mapping[str, str]
    constants: Mapping[str, np.ndarray]
    embed: Embed | None
    notes: tuple[str, ...]

    @property
    def class_name(self) -> str:
        """The class that will load it."""
        return self.family.class_name(self.architecture)

    def tensors(self) -> dict[str, Shape]:
        """Every tensor to be written, and its shape."""
        own = {n: s for m in self.matches for n, s in zip(m.theirs, m.their_shapes, strict=True)}
        fixed = {name: array.shape for name, array in self.constants.items()}
        return {**own, **{copy: own[of] for copy, of in self.copies.items()}, **fixed}

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors one by one."""
        for one in self.matches:
            found = one.dump([self.model.read(path) for path in one.ours], self.model.config.model)
            yield from found.items()
            for copy, of in self.copies.items():
                if of in found:
                    yield copy, found[of]
        yield from self.constants.items()


def plan_writing(model: Model, *, family: str | None = None, heads: Sequence[str] = ()) -> Plan:
    """Decides on family and class, and refuses what they cannot hold; reads no parameter."""
    for name in ("adapter", "prompt"):
        if getattr(model.config.model, name) is not None:
            raise ValueError(
                f"this model has model.{name}, which no published class has: tune.trained=low_rank or biases leave none"
            )
    known = model.about.get("family") if family is None else family
    if known is not None:
        if known not in FAMILIES:
            raise ValueError(f"unknown family {known!r}: {suggest(known, list(FAMILIES))}")
        return _plan(model, FAMILIES[known], heads)
    failures = []
    for candidate in FAMILIES.values():
        try:
            return _plan(model, candidate, heads)
        except ValueError as error:
            failures.append(f"{candidate.name} ({error})")
    failures.sort(key=lambda text: "has no class with" in text)  # one that has its heads says more
    raise ValueError(
        f"no published family can hold this model: {failures[0]}; name one with --family to hear its reason"
    )


def _plan(model: Model, family: Family, heads: Sequence[str]) -> Plan:
    config = model.config.model
    chosen = choose_heads(model, heads)
    kinds = {kind: options for kind, options in chosen.values()}
    if len(kinds) < len(chosen):
        raise ValueError(
            f"this model has several heads of one kind ({', '.join(chosen)}) and a published one has one: "
            f"choose it with --heads"
        )
    end = architecture_for(family, [kind for kind in kinds if kind != "embed"])
    architecture = family.architectures[end]
    notes = []
    if architecture.pooler != config.pooler:
        if architecture.pooler and reads_pooler(kinds):
            raise ValueError(
                f"{family.class_name(end)} has a pooler and this model none (model.pooler=false): "
                f"train its head behind one, or export another head"
            )
        notes.append("a pooler of zeros is written" if architecture.pooler else "the pooler is left out")
        config = dataclasses.replace(config, pooler=architecture.pooler)
    try:
        fields = family.fields.from_config(config)
    except ValueError as error:
        raise ValueError(f"the family {family.name} cannot hold this model: {error}") from None
    theirs = {
        "architectures": [family.class_name(end)],
        "model_type": family.name,
        "dtype": "float32",
        **fields,
        **special_tokens(model, family),
    }
    for kind, options in kinds.items():
        if options is not None and kind != "embed":
            theirs = merged(theirs, form_json(family, kind, options))
    check_same(family, theirs, config)
    check_padding(model, family, theirs)
    # Heads keep the names of their kinds in the table.
    renamed = {f"heads_{name}": f"heads_{kind}" for name, (kind, _) in chosen.items()}
    origin: dict[str, str] = {}
    for path in shapes_of_kept(model, config, chosen):
        first, _, rest = path.partition("/")
        origin[f"{renamed.get(first, first)}/{rest}"] = path

    def read(path: str) -> np.ndarray:
        source = origin[path]
        return model.read(source) if source in model.shapes else np.zeros(shapes[path], np.float32)

    kept = shapes_of_kept(model, config, chosen)
    shapes = {path: kept[source] for path, source in origin.items()}
    prefix = f"{family.base}." if architecture.heads else ""
    matches = match(family.rows, shapes, config, prefix, family.name)
    written = dataclasses.replace(
        model, config=dataclasses.replace(model.config, model=config), shapes=shapes, read=read
    )
    written_twice = [copy for copy in family.copies if copy.always or not config.tied]
    copies = copies_of(written_twice, matches)
    embed = kinds.get("embed")
    assert embed is None or isinstance(embed, Embed)
    constants = {prefix + name: one.make(config) for name, one in family.constants.items()}
    return Plan(family, end, theirs, matches, written, copies, constants, embed, tuple(notes))


def merged(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Two pieces of a config.json, the second over the first, group by group."""
    both = {name: merged(one[name], other[name]) for name in one if isinstance(other.get(name), Mapping)}
    return {**one, **other, **both}


def reads_pooler(kinds: Mapping[str, HeadOptions | None]) -> bool:
    """Whether one of these heads stands on the pooled token."""
    return any(
        kind in ("nsp", "sop") or getattr(options, "pooling", None) == "pooled"
        for kind, options in kinds.items()
        if kind != "embed"
    )


def shapes_of_kept(model: Model, config: Any, chosen: Mapping[str, Any]) -> dict[str, Shape]:
    """The parameters that are written: the encoder's, with the pooler of the class, and those of the chosen heads."""
    heads = tuple(f"heads_{name}/" for name in chosen)
    kept = {path: shape for path, shape in model.shapes.items() if path.startswith(("encoder/", *heads))}
    kept = {path: shape for path, shape in kept.items() if not path.startswith("encoder/pooler/")}
    if config.pooler:
        kept["encoder/pooler/kernel"] = (config.width, config.width)
        if config.bias:
            kept["encoder/pooler/bias"] = (config.width,)
    return kept


def choose_heads(model: Model, wanted: Sequence[str]) -> dict[str, tuple[str, HeadOptions | None]]:
    """The heads to write, by their names in the model: all of them, or those that were asked for."""
    found = heads_of(model.network)
    if wanted:
        for name in wanted:
            if name not in found and name != "none":
                raise ValueError(f"this model has no head {name!r}: {suggest(name, [*found, 'none'])}")
        found = {name: found[name] for name in wanted if name != "none"}
    elif model.network.rewriters:
        raise ValueError(
            f"this model has {listed(list(model.network.rewriters))} before its encoder, which no published class has: "
            f"choose what to write with --heads={listed([*found, *model.network.rewriters])}"
        )
    return found


def architecture_for(family: Family, kinds: Sequence[str]) -> str:
    """The class with exactly these heads."""
    for end, architecture in family.architectures.items():
        if sorted(architecture.heads) == sorted(kinds):
            return end
    able = sorted({"+".join(one.heads) or "none" for one in family.architectures.values()})
    raise ValueError(
        f"the family {family.name} has no class with the heads {', '.join(kinds)}: "
        f"choose with --heads from {', '.join(able)}"
    )


def form_json(family: Family, kind: str, options: HeadOptions) -> dict[str, Any]:
    """A head in their config.json; an error where the family's head is made otherwise."""
    form = family.forms[kind]
    written = form.dump(options)
    ours, theirs = (settings.to_dict(one, CHOICES) for one in (options, form.load(written)))
    for difference in settings.differences(ours, theirs, f"heads.{kind}"):
        if difference.split(":")[0].split(".")[-1] not in (*FREE, *TOLD):
            raise ValueError(f"the head of the family {family.name} is made otherwise: {difference}")
    return written


def check_same(family: Family, theirs: Mapping[str, Any], config: Any) -> None:
    """Refuses a model that would come back as another one."""
    back = family.fields.to_config(theirs, pooler=config.pooler)
    different = unlike(back, config, family.fields.free)
    if different:
        raise ValueError(f"the family {family.name} cannot hold this model: {listed(different)}")


def special_tokens(model: Model, family: Family) -> dict[str, Any]:
    """Numbers of the special tokens."""
    if model.tokenizer is None:
        return {} if model.about.get("pad") is None else {"pad_token_id": model.about["pad"]}
    vocabulary = model.tokenizer.vocabulary
    tokens = {"pad_token_id": vocabulary.pad}
    if family.special:
        tokens.update(bos_token_id=vocabulary.cls, eos_token_id=vocabulary.sep)
        tokens.update(cls_token_id=vocabulary.cls, sep_token_id=vocabulary.sep)
    if family.writes:  # what is written begins and ends as a row does
        tokens.update(decoder_start_token_id=vocabulary.cls, eos_token_id=vocabulary.sep)
    return tokens


def check_padding(model: Model, family: Family, theirs: Mapping[str, Any]) -> None:
    """Refuses a padding token that is not the one that positions begin behind."""
    offset = getattr(model.config.model.position, "offset", 0)
    if family.special and offset and theirs.get("pad_token_id") != offset - 1:
        raise ValueError(
            f"positions begin at {offset} and the padding token is {theirs.get('pad_token_id')}: in this family they "
            f"begin right behind it; train with model.position.offset={theirs.get('pad_token_id', 0) + 1}"
        )


# ---------------------------------------------------------------------------------------------- files


def write_tensors(plan: Plan, path: pathlib.Path, tick: Callable[[int], None] = lambda size: None) -> None:
    """model.safetensors: a header of names, shapes and places, and float32 numbers one tensor behind the other."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    tensors = plan.tensors()
    for name in _order(plan):
        size = 4 * int(np.prod(tensors[name], dtype=np.int64))
        header[name] = {"dtype": "F32", "shape": list(tensors[name]), "data_offsets": [start, start + size]}
        start += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of eight
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, array in plan.arrays():
            assert array.shape == tensors[name], name
            file.write(np.ascontiguousarray(array, "<f4").tobytes())
            tick(array.nbytes)


def _order(plan: Plan) -> Iterator[str]:
    """The names as `arrays` gives them."""
    for one in plan.matches:
        yield from one.theirs
        yield from (copy for copy, of in plan.copies.items() if of in one.theirs)
    yield from plan.constants


def write_config(plan: Plan, folder: pathlib.Path) -> None:
    """config.json."""
    text = json.dumps(plan.config, indent=2, sort_keys=True)
    (folder / "config.json").write_text(text + "\n", encoding="utf-8")


def write_sentence_modules(embed: Embed, width: int, length: int, folder: pathlib.Path) -> None:
    """What sentence-transformers reads."""
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * embed.normalise
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    ways = {
        "first": "pooling_mode_cls_token",
        "mean": "pooling_mode_mean_tokens",
        "max": "pooling_mode_max_tokens",
    }
    if embed.pooling not in ways:
        raise ValueError(
            f"heads.embed.pooling={embed.pooling} is no pooling of sentence-transformers: it has {', '.join(ways)}"
        )
    pooling = {"word_embedding_dimension": width}
    pooling.update({name: way == embed.pooling for way, name in ways.items()})
    for path, _ in kinds[1:]:
        (folder / path).mkdir()
    for name, data in (
        ("modules.json", modules),
        ("sentence_bert_config.json", {"max_seq_length": length, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
    ):
        (folder / name).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def class_of(architecture: Architecture) -> str:
    """The Auto class of transformers that loads a class with these heads."""
    autos = {
        (): "AutoModel",
        ("mlm",): "AutoModelForMaskedLM",
        ("classify",): "AutoModelForSequenceClassification",
        ("choose",): "AutoModelForMultipleChoice",
        ("tag",): "AutoModelForTokenClassification",
        ("answer",): "AutoModelForQuestionAnswering",
        ("translate",): "AutoModelForSeq2SeqLM",
        ("nsp",): "AutoModelForNextSentencePrediction",
    }
    return autos.get(architecture.heads, "AutoModelForPreTraining")
