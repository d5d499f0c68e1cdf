"""Typed settings: nested frozen dataclasses that can be overridden by path, written as JSON, and explained.

A setting is a field of a frozen dataclass; its documentation is the string literal below it. Where a field
accepts one of several kinds (an attention, an optimizer), its type is their common base class and `Choices`
maps that base to prototypes by name:

    override(config, ["model.layers=6", "model.attention=window", "model.attention.size=128"], choices)

`None` means off. Every value is parsed by its declared type; an unknown path is an error with a suggestion.
"""

import ast
import copy
import dataclasses
import difflib
import hashlib
import inspect
import json
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Choices = Mapping[type, Mapping[str, Any]]


def suggest(name: str, legal: Sequence[str]) -> str:
    """The tail of an error: the nearest legal name, or all of them."""
    near = difflib.get_close_matches(name, legal, n=1, cutoff=0.6)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(legal)}"


# ---------------------------------------------------------------------------------------------- override


def override(config: T, assignments: Sequence[str], choices: Choices) -> T:
    """`config` with every `path=value` applied, in order; what a record refuses is asked at the end."""
    for assignment in assignments:
        path, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not path:
            raise ValueError(f"--set takes path=value, not {assignment!r}")
        try:
            config = _set(config, path, path.split("."), text, choices)
        except _UnknownNameError as error:
            # A name of another group is the commonest slip: learning_rate for optim.learning_rate.
            last = path.split(".")[-1]
            elsewhere = [known for known, _, _ in describe(config, choices) if known.split(".")[-1] == last]
            tail = f"did you mean {elsewhere[0]!r}?" if elsewhere else suggest(error.name, error.legal)
            raise ValueError(f"unknown setting {path!r}: {tail}") from None
    return _checked(config)


def _checked(node: Any) -> Any:
    """The same config, made anew: every record has looked at its fields."""
    if isinstance(node, tuple):
        return tuple(_checked(item) for item in node)
    if not _is_record(node):
        return node
    fields = {field.name: _checked(getattr(node, field.name)) for field in dataclasses.fields(node)}
    return type(node)(**fields)


class _UnknownNameError(Exception):
    def __init__(self, name: str, legal: Sequence[str]) -> None:
        self.name, self.legal = name, legal


def _set(node: Any, whole: str, path: Sequence[str], text: str, choices: Choices) -> Any:
    if isinstance(node, tuple):  # a tuple of chosen kinds is addressed by their names
        names = [kind_of(item, choices) or str(position) for position, item in enumerate(node)]
        if path[0] not in names:
            raise _UnknownNameError(path[0], names)
        position = names.index(path[0])
        changed = _set(node[position], whole, path[1:], text, choices)
        return node[:position] + (changed,) + node[position + 1 :]
    if not _is_record(node):
        raise ValueError(f"unknown setting {whole!r}: there is nothing below {type(node).__name__} {node!r}")
    hints = field_types(type(node))
    if not path or path[0] not in hints:
        raise _UnknownNameError(path[0] if path else "", list(hints))
    name, rest = path[0], path[1:]
    if rest:
        below, legal = getattr(node, name), _legal(hints[name], choices)
        if below is None and legal:
            here = whole.removesuffix("." + ".".join(rest))
            raise ValueError(f"{here} is off: set {here} to one of {legal} first")
        value = _set(below, whole, rest, text, choices)
    else:
        value = parse(text, hints[name], whole, choices)
    changed = copy.copy(node)  # which asks nothing: width=96 and heads=8 fit only together
    object.__setattr__(changed, name, value)
    return changed


def parse(text: str, kind: Any, path: str, choices: Choices) -> Any:
    """The value that `text` stands for under the declared type `kind`."""
    if kind in choices:
        if text not in choices[kind]:
            raise ValueError(f"unknown {path} {text!r}: {suggest(text, list(choices[kind]))}")
        return choices[kind][text]
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if type(None) in arguments and text.lower() == "none":
            return None
        return parse(text, next(a for a in arguments if a is not type(None)), path, choices)
    if origin is Literal:
        values = {str(value): value for value in arguments}
        if text not in values:
            raise ValueError(f"unknown {path} {text!r}: {suggest(text, list(values))}")
        return values[text]
    if origin is tuple:
        parts = [part.strip() for part in text.split(",") if part.strip()]
        if Ellipsis not in arguments and len(parts) != len(arguments):
            raise ValueError(
                f"{path}={text!r} has {len(parts)} values: write {len(arguments)}, with commas between"
            )
        return tuple(parse(part, arguments[0], path, choices) for part in parts)
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and ":" in text:
        parts, fields = text.split(":"), field_types(kind)
        if len(parts) > len(fields):
            raise ValueError(f"{path}={text!r} has {len(parts)} values: write {':'.join(fields)}")
        try:
            return kind(
                **{
                    name: parse(part, fields[name], f"{path}.{name}", choices)
                    for name, part in zip(fields, parts, strict=False)
                }
            )
        except TypeError:
            raise ValueError(f"{path}={text!r} has too few values: write {':'.join(fields)}") from None
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        if kind is int:
            number = float(text) if "e" in text.lower() else int(text)
            return int(number) if number == int(number) else int(text)
        if kind is float:
            return float(text)
    except (ValueError, KeyError, OverflowError):
        raise ValueError(f"{path}={text!r} is not of type {type_name(kind)}") from None
    if kind is str:
        return text
    raise ValueError(f"{path} is a group of settings: set one of {', '.join(field_types(kind))} below it")


# ---------------------------------------------------------------------------------------------- JSON


def to_dict(config: Any, choices: Choices) -> Any:
    """Plain JSON data; a chosen kind carries its name under `kind`."""
    if _is_record(config):
        kind = kind_of(config, choices)
        fields = {f.name: to_dict(getattr(config, f.name), choices) for f in dataclasses.fields(config)}
        assert "kind" not in fields, f"{type(config).__name__}.kind would hide which kind it is"
        return {"kind": kind, **fields} if kind else fields
    if isinstance(config, tuple):
        return [to_dict(item, choices) for item in config]
    return config


def from_dict(cls: Any, data: Any, choices: Choices, path: str = "config") -> Any:
    """The inverse of `to_dict`; an unknown field is an error, a missing one takes its default."""
    origin, arguments = typing.get_origin(cls), typing.get_args(cls)
    if origin in (typing.Union, types.UnionType):
        if data is None:
            return None
        return from_dict(next(a for a in arguments if a is not type(None)), data, choices, path)
    if origin is tuple:
        return tuple(from_dict(arguments[0], item, choices, path) for item in data)
    if cls in choices and isinstance(data, dict) and "kind" in data:
        if data["kind"] not in choices[cls]:
            raise ValueError(f"unknown {path} {data['kind']!r}: {suggest(data['kind'], list(choices[cls]))}")
        cls, data = type(choices[cls][data["kind"]]), {k: v for k, v in data.items() if k != "kind"}
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return float(data) if cls is float and isinstance(data, int) else data
    if not isinstance(data, dict):
        raise ValueError(f"{path} is a group of settings, not {data!r}")
    if cls in choices and cls not in map(type, choices[cls].values()):
        raise ValueError(f"{path} names no kind: choose from {', '.join(choices[cls])}")
    hints = field_types(cls)
    for name in data:
        if name not in hints:
            raise ValueError(f"unknown setting {path}.{name}: {suggest(name, list(hints))}")
    return cls(
        **{name: from_dict(hints[name], value, choices, f"{path}.{name}") for name, value in data.items()}
    )


def digest(data: Any) -> str:
    """A short fingerprint of JSON data that does not depend on the order of its keys."""
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:16]


def differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """Every path at which two pieces of JSON data differ, with both values."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for name in sorted({*ours, *theirs}):
            yield from differences(ours.get(name), theirs.get(name), f"{path}.{name}" if path else name)
    elif ours != theirs:
        yield f"{path}: {theirs!r} there, {ours!r} here"


# ---------------------------------------------------------------------------------------------- explain


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def kind_of(value: Any, choices: Choices) -> str | None:
    """The name under which `value`'s class can be chosen; None for a class that is not one of several."""
    for base, prototypes in choices.items():
        if isinstance(value, base) and type(value) is not base:
            names = [name for name, prototype in prototypes.items() if type(prototype) is type(value)]
            assert names, f"{type(value).__name__} is a {base.__name__} that cannot be chosen by name"
            return names[0]
    return None


def field_types(cls: type) -> dict[str, Any]:
    """Declared type of every field of a dataclass."""
    hints = typing.get_type_hints(cls)
    return {f.name: hints[f.name] for f in dataclasses.fields(cls)}


def field_docs(cls: type) -> dict[str, str]:
    """The string literal below each field of a dataclass, its bases included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not dataclasses.is_dataclass(base):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(base))).body[0]
        assert isinstance(body, ast.ClassDef)
        for field, below in zip(body.body, body.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
                    docs[field.target.id] = inspect.cleandoc(str(below.value.value)).replace("\n", " ")
    return docs


def type_name(kind: Any) -> str:
    """A type as a person would write it."""
    if typing.get_origin(kind) is Literal:
        return "|".join(map(str, typing.get_args(kind)))
    if isinstance(kind, type) and not typing.get_origin(kind):
        return kind.__name__
    return str(kind).replace("typing.", "")


def describe(config: Any, choices: Choices, path: str = "") -> Iterator[tuple[str, Any, str]]:
    """(path, value as one would set it, documentation) of every setting below `config`, depth first."""
    hints, docs = field_types(type(config)), field_docs(type(config))
    for field in dataclasses.fields(config):
        value, here = getattr(config, field.name), f"{path}{field.name}"
        legal = _legal(hints[field.name], choices)
        doc = docs.get(field.name, "") + (f" [{legal}]" if legal else "")
        if isinstance(value, tuple) and value and _is_record(value[0]):
            kinds = [kind_of(item, choices) for item in value]
            written = (kind or _written(item) for kind, item in zip(kinds, value, strict=True))
            yield here, ",".join(written), doc
            for position, (kind, item) in enumerate(zip(kinds, value, strict=True)):
                yield from describe(item, choices, f"{here}.{kind or position}.")
        elif _is_record(value):
            if legal:
                yield here, kind_of(value, choices) or _preset(value, choices), doc
            yield from describe(value, choices, f"{here}.")
        else:
            yield here, ",".join(map(str, value)) if isinstance(value, tuple) else value, doc


def _written(record: Any) -> str:
    """A record that is no chosen kind, as `parse` reads it: its values with colons between."""
    return ":".join(str(getattr(record, field.name)) for field in dataclasses.fields(record))


def _preset(value: Any, choices: Choices) -> str:
    """The name of the prototype that a value equals; `custom` where it was changed."""
    prototypes = choices.get(type(value), {})
    return next((name for name, prototype in prototypes.items() if prototype == value), "custom")


def _legal(kind: Any, choices: Choices) -> str:
    """What may be written for a type that is one of few; empty for any other."""
    if typing.get_origin(kind) is Literal:
        return type_name(kind)
    if kind in choices:
        return "|".join(choices[kind])
    inner = [_legal(argument, choices) for argument in typing.get_args(kind) if argument is not Ellipsis]
    return next(filter(None, inner), "")


# ---------------------------------------------------------------------------------------------- command line


def pairs(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(name, value) of every `--name=value` or `--name value`, in order; ("help", "") for --help."""
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if argument in ("--help", "-h"):
            yield "help", ""
            continue
        if not argument.startswith("--"):
            raise ValueError(f"unexpected argument {argument!r}: options are written --name=value")
        name, equals, value = argument[2:].partition("=")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ValueError(f"--{name} needs a value")
            value = rest.pop(0)
        yield name, value


def from_arguments(config: T, arguments: Sequence[str], choices: Choices, usage: str) -> T:
    """A tool's options from `--name=value` or `--name value`; prints `usage` and the options for --help."""
    assignments = []
    for name, value in pairs(arguments):
        if name == "help":
            print(f"{usage}\n\nOptions:")
            for path, default, doc in describe(config, choices):
                print(f"  --{path}={default}\n        {doc}")
            raise SystemExit(0)
        assignments.append(f"{name}={value}")
    try:
        return override(config, assignments, choices)
    except ValueError as error:
        raise ValueError(str(error).replace("unknown setting '", "unknown option '--")) from None
