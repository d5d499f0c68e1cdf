"""`python -m bertjax predict fill-mask --model=WORKDIR --text="..."`."""

import dataclasses

from bertjax import settings

USAGE = """usage: python -m bertjax predict fill-mask --model=WORKDIR --text="The capital of France is [MASK]."

Prints, for every [MASK], the likeliest tokens with their probabilities."""

KINDS = ("fill-mask",)


@dataclasses.dataclass(frozen=True)
class PredictOptions:
    """What to predict with."""

    model: str = ""
    """Workdir of a run."""
    text: str = ""
    """The text."""
    top: int = 5
    """Candidates a gap."""


def main(arguments: list[str]) -> int:
    """Runs the tool."""
    kind, rest = (
        (arguments[0], arguments[1:]) if arguments and not arguments[0].startswith("-") else ("", arguments)
    )
    options = settings.from_arguments(PredictOptions(), rest, {}, USAGE)
    if kind not in KINDS:
        raise ValueError(f"unknown prediction {kind!r}: {settings.suggest(kind, KINDS)}")
    for name in ("model", "text"):
        if not getattr(options, name):
            raise ValueError(f"--{name} is missing: see python -m bertjax predict --help")

    from bertjax.bundle import load
    from bertjax.predict import fill_mask

    print_filled(options.text, fill_mask(load(options.model), [options.text], top=options.top)[0])
    return 0


def print_filled(text: str, gaps: list) -> None:
    """A text and what would fill its gaps."""
    print(text)
    for gap in gaps:
        print("    " + "   ".join(f"{word} {probability:.2f}" for word, probability in gap.candidates))
