"""`python -m bertjax TOOL`: the tools beside the experiments."""

import importlib
import sys

from bertjax import settings

TOOLS = {
    "tokenizer": "train a WordPiece, SentencePiece or byte-level BPE vocabulary",
    "prepare": "turn text into a tokenised corpus",
    "import": "read a published model, of PyTorch or of Google's BERT",
    "export": "write a model for PyTorch's transformers",
    "predict": "use a trained model, on texts or on files of them",
    "bench": "measure what parts of a model cost",
    "plans": "what the encoders need on TPU pods, and how they scale",
}
MODULES = {"import": "import_weights", "export": "export_weights"}  # of tools that are called otherwise


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
        from absl import logging

        logging.set_verbosity(logging.FATAL)  # of Orbax, which tells all that it does
        module = MODULES.get(arguments[0], arguments[0])
        return importlib.import_module(f"bertjax.tools.{module}").main(arguments[1:])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
