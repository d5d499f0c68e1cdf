"""The price list of the attentions: time and memory of one block over lengths, and how both grow.

    python -m bertjax bench attention --variants=full,window,linear --lengths=1024,2048,4096,8192 --equal=parameters

Writes attention.md (tables), attention.json (all numbers) and attention.png (log-log) into a folder; what that holds
already, measured by the same code under the same conditions, is not measured again (`known.py`). The exponent is
fitted between two lengths (1024 and 8192): 2 is a matrix of all pairs, 1 is linear. Time depends on the machine and on
what else it does; memory is what the compiler laid out, and operations are counted: these are the same every time.
"""

import dataclasses
import json
import os
import pathlib
from typing import Any, Literal

import jax

from bertjax import settings
from bertjax.attention import ATTENTIONS, AttentionOptions, check_attention, name_of, variant_of
from bertjax.attention.gated_unit import GatedUnit
from bertjax.attention.grouped_query import GroupedQuery
from bertjax.attention.mixer import Mixer
from bertjax.attention.synthesizer import Synthesizer
from bertjax.bench import known
from bertjax.bench.block import Price, Rows, Timing, price
from bertjax.bench.equal import Equal, match
from bertjax.bench.growth import exponent
from bertjax.bench.table import markdown, plot
from bertjax.config import CHOICES
from bertjax.data.files import replace_file
from bertjax.layers.config import EncoderConfig
from bertjax.layers.position import Relative

# Settings of a variant that change what it costs, and so stand in the list beside its default.
FORMS: dict[str, AttentionOptions] = {
    "gated_unit_chunked": GatedUnit(form="chunked"),
    "mixer_random": Mixer(matrices="random"),
    "multi_query": GroupedQuery(groups=1),
    "synthesizer_random": Synthesizer(kinds=("random",)),
    "synthesizer_factorised": Synthesizer(kinds=("factorised_random",)),
}
PRICES = ("seconds", "bytes", "flops")

USAGE = """usage: python -m bertjax bench attention [--option=value ...]

Measures one block around every attention, forward and backward, over lengths of rows: time, memory, operations, and the
exponents with which they grow. Writes tables, numbers and a plot; a list that was stopped goes on.

    python -m bertjax bench attention --model=base --model.dtype=bfloat16 --tokens=65536
    python -m bertjax bench attention --variants=full,window,linear --equal=parameters
    python -m bertjax bench attention --variants=full,linformer --model.attention=linformer --model.attention.rank=64"""


@dataclasses.dataclass(frozen=True)
class AttentionBench:
    """What is measured, and how."""

    model: EncoderConfig = EncoderConfig(width=256, heads=4, dropout=0.0, attention_dropout=0.0)
    """The block around each attention: a preset, or its settings one by one."""
    variants: tuple[str, ...] = ()
    """Names from the registry; none means all, and the forms of them that cost differently."""
    lengths: tuple[int, ...] = (128, 256, 512, 1024, 2048, 4096, 8192)
    """Tokens in a row."""
    tokens: int = 16384
    """Tokens in a batch: as many rows as they fill, at least one; prices are for one. Two of the longest are fair."""
    documents: int = 1
    """Documents that each row is packed with; what cannot keep them apart is left out."""
    equal: Equal = "none"
    """What all blocks have in common with that of model.attention: nothing, parameters, or operations."""
    equal_length: int = 512
    """Length at which they do, and at which parameters are listed."""
    fit_from: int = 1024
    """Shortest length that the exponents are fitted to."""
    fit_to: int = 8192
    """Longest length that the exponents are fitted to."""
    repeats: int = 3
    """Runs of each block; the fastest counts."""
    clock: Literal["wall", "cpu"] = "wall"
    """What is read: the clock, or the processors' time, which other work on the machine disturbs less (CPU only)."""
    memory: float = 8.0
    """Gigabytes; a block that needs more is compiled but not run."""
    out: str = "runs/bench"
    """Folder for the results."""

    def __post_init__(self) -> None:
        """Refuses what measures nothing."""
        if not self.lengths or min(self.lengths) < 1:
            raise ValueError(
                f"lengths={','.join(map(str, self.lengths))}: one length or more, each at least 1"
            )
        for name in ("tokens", "documents", "repeats", "equal_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.documents > min(self.lengths):
            raise ValueError(
                f"documents={self.documents}: at most one a token of the shortest row, {min(self.lengths)}"
            )
        if self.fit_from >= self.fit_to:
            raise ValueError(f"fit_from={self.fit_from} must be below fit_to={self.fit_to}")


@dataclasses.dataclass(frozen=True)
class Line:
    """One variant of the price list."""

    name: str
    feedforward: int
    parameters: float
    prices: dict[int, Price]  # by length
    growth: dict[str, float | None]  # exponents of seconds, bytes and flops
    settings: str  # digest of all settings of the block


def choose(options: AttentionBench) -> dict[str, EncoderConfig]:
    """The blocks to measure by name; the settings of model.attention stand in for its variant's defaults.

    A variant that was named and cannot work here (its positions, packed rows) is refused. Of all of them, it is left
    out, and a line says so.
    """
    known = {**{name: variant.options for name, variant in ATTENTIONS.items()}, **FORMS}
    known[name_of(options.model.attention)] = options.model.attention
    for name in options.variants:
        if name not in known:
            raise ValueError(f"unknown variant {name!r}: {settings.suggest(name, list(known))}")
    chosen = {}
    for name in options.variants or sorted(known):
        try:
            config = dataclasses.replace(options.model, attention=known[name])
            if any(variant_of(kind).relative for kind in config.kinds):
                config = dataclasses.replace(config, position=Relative())
            check_attention(config, packed=options.documents > 1)
        except ValueError as error:
            if options.variants:
                raise
            print(f"left out: {error}")
        else:
            chosen[name] = config
    return chosen


def measure(name: str, config: EncoderConfig, options: AttentionBench) -> Line:
    """All prices of one variant."""
    timing = Timing(options.repeats, options.clock, options.memory * 1e9)
    prices = {
        length: price(config, Rows(length, options.tokens, options.documents), timing)
        for length in options.lengths
    }
    of = lambda what: {length: getattr(one, what) for length, one in prices.items()}  # noqa: E731
    growth = {what: exponent(of(what), options.fit_from, options.fit_to) for what in PRICES}
    parameters = price(config, Rows(options.equal_length), None).parameters
    return Line(name, config.hidden, parameters, prices, growth, stamp(config))


def stamp(config: EncoderConfig) -> str:
    """Differs where the settings of a block do."""
    return settings.digest(settings.to_dict(config, CHOICES))


def measured(folder: pathlib.Path, about: dict[str, Any]) -> dict[str, Line]:
    """The lines by name that the folder holds for just this."""
    lines = {}
    for line in known.read(folder / "attention.json", about):
        prices = {int(length): Price(**one) for length, one in line["prices"].items()}
        lines[line["name"]] = Line(**{**line, "prices": prices})
    return lines


def run(options: AttentionBench) -> list[Line]:
    """Measures what is not known yet, prints each line as it is known, and writes the results after each."""
    folder, about = pathlib.Path(options.out), header(options)
    chosen = choose(options)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={options.out} cannot be a folder: {error.strerror}; name another") from None
    before = measured(folder, about)
    lines = [line for name, line in before.items() if name not in chosen]
    for name, config in chosen.items():
        try:
            equal = match(config, options.model, options.equal, options.equal_length)
            if name in before and before[name].settings == stamp(equal):
                lines.append(before[name])
            else:
                lines.append(measure(name, equal, options))
        except ValueError as error:  # heads that a variant cannot group, more parameters than the base has
            if options.variants:
                raise
            print(f"left out: {error}", flush=True)
            continue
        grown = (f"{what} {value:.2f}" for what, value in lines[-1].growth.items() if value is not None)
        print(
            f"{name:24}{lines[-1].parameters:12,.0f} parameters   grows {', '.join(grown) or 'unknown'}",
            flush=True,
        )
        write(folder, about, lines)
    print(f"written to {folder}/attention.md, .json and .png" if lines else "nothing is left to measure")
    return lines


def header(options: AttentionBench) -> dict[str, Any]:
    """What the numbers hold for."""
    model, device = options.model, jax.devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "cores": os.cpu_count(),
        "jax": jax.__version__,
        "width": model.width,
        "heads": model.heads,
        "dtype": model.dtype,
        "dropout": model.dropout,
        "attention_dropout": model.attention_dropout,
        "tokens": options.tokens,
        "documents": options.documents,
        "clock": options.clock,
        "repeats": options.repeats,
        "memory": options.memory,
        "equal": options.equal,
        "equal_length": options.equal_length,
        "fit_from": options.fit_from,
        "fit_to": options.fit_to,
        "lengths": options.lengths,
        "code": known.digest_of_code(),
    }


def write(folder: pathlib.Path, about: dict[str, Any], lines: list[Line]) -> None:
    """The numbers, the tables and the plot."""
    data = {"about": about, "variants": [dataclasses.asdict(line) for line in lines]}
    replace_file(str(folder / "attention.json"), (json.dumps(data, indent=1) + "\n").encode())
    replace_file(str(folder / "attention.md"), markdown(about, lines).encode())
    plot(lines, folder / "attention.png")


OPTIONS = AttentionBench()
