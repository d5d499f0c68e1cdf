"""A family's table of settings: the fields of their config.json and those of ours, read in both directions.

What a field may not be (`Only`) and what ours cannot become in theirs are refused in one line: a config that does not
survive the way there and back is one that the family cannot represent.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bertjax import settings
from bertjax.config import CHOICES
from bertjax.layers.config import EncoderConfig

Json = Mapping[str, Any]
# The settings of ours that say how a model is computed or trained, not what it is.
COMPUTE = (
    "vocab_multiple", "scan", "remat", "dtype", "layer_drop", "init", "init_scheme", "init_std", "dropout",
    "attention_dropout", "attention.backend",
)  # fmt: skip

# Names of theirs for activations of ours; the first is written.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu",
    "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu_fast": "gelu_tanh",
    "relu": "relu", "relu2": "relu2",
    "silu": "silu", "swish": "silu",
}  # fmt: skip
HEAD_ACTIVATIONS = {**ACTIVATIONS, "tanh": "tanh"}
UNGATED = {"geglu": "gelu", "swiglu": "silu"}  # what a head without a gate has of a gated nonlinearity


def same(value: Any) -> Any:
    """The value as it is."""
    return value


@dataclasses.dataclass(frozen=True)
class Field:
    """A setting under two names; `default` is theirs where their file is silent."""

    theirs: str
    ours: str
    default: Any
    load: Callable[[Any], Any] = same
    dump: Callable[[Any], Any] = same


@dataclasses.dataclass(frozen=True)
class Only:
    """A setting of theirs with one value that the model here can compute; silence means that value."""

    theirs: str
    value: Any


def activation(
    theirs: str, default: str = "gelu", ours: str = "activation", names: Mapping[str, str] = ACTIVATIONS
) -> Field:
    """The field of a nonlinearity."""
    written = {value: name for name, value in reversed(list(names.items()))}

    def load(name: Any) -> str:
        if name not in names:
            raise ValueError(f"config.json: {theirs}={name!r} is not one of {', '.join(names)}")
        return names[name]

    def dump(value: str) -> str:
        if value not in written:
            raise ValueError(
                f"model.{ours}={value} has no name in config.json: it can be {', '.join(written)}"
            )
        return written[value]

    return Field(theirs, ours, default, load, dump)


@dataclasses.dataclass(frozen=True)
class Fields:
    """The table; `fixed` are settings of ours that all models of the family have.

    `load` and `dump` are for what no single field can say: their config to more settings of ours, ours to more of
    theirs.
    """

    rows: tuple[Field | Only, ...]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    load: Callable[[Json], Mapping[str, Any]] = lambda theirs: {}
    dump: Callable[[EncoderConfig], Mapping[str, Any]] = lambda ours: {}
    free: tuple[str, ...] = ()
    """Paths of settings of ours that mean nothing in these models, and so may be anything."""

    def to_config(self, theirs: Json, **more: Any) -> EncoderConfig:
        """Our config from theirs."""
        found: dict[str, Any] = dict(self.fixed)
        for row in self.rows:
            value = theirs.get(row.theirs, row.value if isinstance(row, Only) else row.default)
            if isinstance(row, Only):
                if value != row.value:
                    raise ValueError(
                        f"config.json: {row.theirs}={value!r} is not supported, only {row.value!r}"
                    )
                continue
            check_kind(row.theirs, value, row.default)
            found[row.ours] = row.load(value)
        return EncoderConfig(**{**found, **self.load(theirs), **more})

    def from_config(self, ours: EncoderConfig) -> dict[str, Any]:
        """Theirs from ours, without asking whether it can be."""
        found = {}
        for row in self.rows:
            found[row.theirs] = row.value if isinstance(row, Only) else row.dump(explicit(ours)[row.ours])
            if isinstance(row, Field) and found[row.theirs] is None and row.default is not None:
                raise ValueError(f"model.{row.ours}=none has no place in its config.json")
        return {**found, **self.dump(ours)}


def explicit(config: EncoderConfig) -> dict[str, Any]:
    """All settings, those that follow from others written out."""
    values = {field.name: getattr(config, field.name) for field in dataclasses.fields(config)}
    of_head = config.head_activation or UNGATED.get(config.activation, config.activation)
    return {
        **values, "feedforward": config.hidden, "head_size": config.key_size, "head_activation": of_head
    }  # fmt: skip


def unlike(found: EncoderConfig, wanted: EncoderConfig, free: Sequence[str] = ()) -> list[str]:
    """What two configs say differently about a model, but for what is free, as `path: there, here`."""

    def plain(config: EncoderConfig) -> Any:
        names = ("feedforward", "head_size", "head_activation")
        written = dataclasses.replace(config, **{name: explicit(config)[name] for name in names})
        data = settings.to_dict(written, CHOICES)
        for path in (*COMPUTE, *free):
            *above, last = path.split(".")
            node = data
            for name in above:
                node = node[name]
            node.pop(last, None)
        return data

    return list(settings.differences(plain(wanted), plain(found), "model"))


def check_kind(name: str, value: Any, default: Any) -> None:
    """Refuses a value of another kind than the default."""
    if default is None:
        return
    number = isinstance(default, int | float) and not isinstance(default, bool)
    kind = (int, float) if number else type(default)
    if not isinstance(value, kind) or (number and isinstance(value, bool)):
        raise ValueError(f"config.json: {name}={value!r} should be like {default!r}: the file is damaged")
    if number and value < 0:
        raise ValueError(f"config.json: {name}={value!r} is negative: the file is damaged")
    if isinstance(default, int) and number and value != int(value):
        raise ValueError(f"config.json: {name}={value!r} should be a whole number: the file is damaged")
