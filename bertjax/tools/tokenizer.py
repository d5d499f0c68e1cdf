"""python -m bertjax tokenizer: trains a tokenizer, or extends one."""

from bertjax import settings
from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer

USAGE = """usage: python -m bertjax tokenizer --input=TEXT --out=FOLDER [options]

Trains a subword tokenizer, the same every time from the same text.

    python -m bertjax tokenizer --input=python-docs --out=runs/tokenizer --kind=wordpiece --vocab=8192
    python -m bertjax tokenizer --input='text/*.jsonl.gz' --out=runs/spm --kind=sentencepiece --vocab=30000

--extend keeps the tokens of another one and adds whole words that are frequent in the text:

    python -m bertjax tokenizer --input='papers/*.txt' --out=runs/papers --extend=runs/bert --vocab=32522"""


def main(argv: list[str]) -> int:
    """Runs the tool."""
    train_tokenizer(settings.from_arguments(TokenizerOptions(), argv, {}, USAGE))
    return 0
