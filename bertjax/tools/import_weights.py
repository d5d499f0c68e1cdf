"""python -m bertjax import: a published model becomes a folder of this project."""

import contextlib
import dataclasses

from bertjax import settings

USAGE = """usage: python -m bertjax import --source=FOLDER_OR_NAME --out=FOLDER [options]

Reads a published model, compares what it computes with PyTorch where that is installed, and writes a folder that
evaluate, predict, export and model.init read like the workdir of a run.

    python -m bertjax import --source=bert-base-uncased --out=models/bert          a name on the hub, or its cache
    python -m bertjax import --source=downloads/roberta-base --out=models/roberta  a folder of Hugging Face
    python -m bertjax import --source=uncased_L-12_H-768_A-12.zip --out=models/google"""


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """What to read and where to put it."""

    source: str = ""
    """A folder of Hugging Face or sentence-transformers, Google's folder or zip, or a name on the hub."""
    out: str = ""
    """The folder to write; it must not exist."""
    layers: int | None = None
    """Another depth: the first layers, or all of them repeated; none keeps it."""


def main(arguments: list[str]) -> int:
    """Runs the tool."""
    options = settings.from_arguments(ImportOptions(), arguments, {}, USAGE)
    for name in ("source", "out"):
        if not getattr(options, name):
            raise ValueError(f"--{name} is missing: see python -m bertjax import --help")

    from bertjax import bundle
    from bertjax.convert.export import readable
    from bertjax.convert.families import FAMILIES
    from bertjax.convert.hub import resolve
    from bertjax.convert.model import heads_of
    from bertjax.convert.parity import installed, report
    from bertjax.convert.source import is_published
    from bertjax.data.files import check_new

    check_new(options.out)
    path = resolve(options.source)
    if not is_published(path):
        raise ValueError(f"{options.source} is no published model: it has no config.json with a model_type")
    model = bundle.load(path)
    about, config, heads = model.about, model.config.model, heads_of(model.model)
    print(
        f"imported    {about['class']}: {config.layers} layers of {config.width}, heads {', '.join(heads) or 'none'}"
    )
    if model.tokenizer is None:
        print("note        the folder has no tokenizer: token numbers are all that this model reads")
    kinds = {name: kind for name, (kind, _) in heads.items()}
    pad = about["pad"] if model.tokenizer is None else model.vocabulary.pad
    with readable(model, path) if installed() else contextlib.nullcontext(path) as theirs:
        for line in report(model, theirs, FAMILIES[about["family"]], about["class"], kinds, pad or 0):
            print(line)
    if options.layers is not None:
        model = bundle.load(path, layers=options.layers)
        print(f"depth       {options.layers} layers instead of {config.layers}")
    model.save(options.out)
    print(f"written     {options.out}")
    return 0
