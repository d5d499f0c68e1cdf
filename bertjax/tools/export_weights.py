"""python -m bertjax export: a model of this project becomes a folder that transformers loads."""

import dataclasses
import pathlib

from bertjax import settings

USAGE = """usage: python -m bertjax export --source=WORKDIR --out=FOLDER [options]

Writes config.json, model.safetensors, tokenizer files and a model card, reads them back, and compares what the model
computes with PyTorch where that is installed. Nothing is left of an export that fails.

    python -m bertjax export --source=runs/bert_base --out=exports/bert_base
    python -m bertjax export --source=runs/electra --out=exports/discriminator --heads=rtd
    python -m bertjax export --source=runs/electra --out=exports/generator --heads=generator"""


@dataclasses.dataclass(frozen=True)
class ExportOptions:
    """What to write and where to put it."""

    source: str = ""
    """The workdir of a run, or an imported folder."""
    out: str = ""
    """The folder to write; it must not exist."""
    family: str | None = None
    """The published family; none takes the one it came from, or the first that can hold the model."""
    heads: tuple[str, ...] = ()
    """The heads to write, `none` for the encoder alone, `generator` for that of ELECTRA; empty writes all of them."""


def main(arguments: list[str]) -> int:
    """Runs the tool."""
    options = settings.from_arguments(ExportOptions(), arguments, {}, USAGE)
    for name in ("source", "out"):
        if not getattr(options, name):
            raise ValueError(f"--{name} is missing: see python -m bertjax export --help")

    from bertjax import bundle
    from bertjax.convert.export import export

    model, family, heads = bundle.load(options.source), options.family, options.heads
    if heads == ("generator",) and "generator" in model.model.rewriters:
        model, family, heads = model.generator(), family or "electra", ()
    for line in export(model, options.out, workdir=options.source, family=family, heads=heads):
        print(line)
    print(f"written     {pathlib.Path(options.out)}")
    return 0
