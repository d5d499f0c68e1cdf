"""python -m bertjax prepare: makes a tokenised corpus from text."""

from bertjax import settings
from bertjax.data.prepare import PrepareOptions, prepare

USAGE = """usage: python -m bertjax prepare --input=TEXT --tokenizer=FOLDER --out=FOLDER [options]

Writes a tokenised corpus: on all cores, in bounded memory; interrupted and run again, it continues.

    python -m bertjax prepare --input=python-docs --tokenizer=runs/tokenizer --out=corpora/docs
    python -m bertjax prepare --input='wiki/*.parquet,books/*.zst' --tokenizer=vocab.txt --out=corpora/books
    python -m bertjax prepare --input=hub:NAME@CONFIG:train --tokenizer=spm.model --out=corpora/hub"""


def main(argv: list[str]) -> int:
    """Runs the tool."""
    prepare(settings.from_arguments(PrepareOptions(), argv, {}, USAGE))
    return 0
