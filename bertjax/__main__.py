"""`python -m bertjax TOOL`: the tools beside the experiments."""

import importlib
import sys

from bertjax import settings

TOOLS = {
    "tokenizer": "train a WordPiece, SentencePiece or byte-level BPE vocabulary",
    "prepare": "turn text into a tokenised corpus",
    "predict": "use a trained model: fill-mask",
    "bench": "measure what parts of a model cost: attention",
}


def main(arguments: list[str]) -> int:
    """Runs one tool; what a user got wrong is one line and exit code 2."""
    if not arguments or arguments[0] in ("--help", "-h"):
        print("usage: python -m bertjax TOOL [--option=value ...]\n\nTools (TOOL --help explains one):")
        for name, purpose in TOOLS.items():
            print(f"  {name:12}{purpose}")
        print("\nA training run is an experiment: python -m experiments.NAME --help")
        return 0
    try:
        if arguments[0] not in TOOLS:
            raise ValueError(f"unknown tool {arguments[0]!r}: {settings.suggest(arguments[0], list(TOOLS))}")
        return importlib.import_module(f"bertjax.tools.{arguments[0]}").main(arguments[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
