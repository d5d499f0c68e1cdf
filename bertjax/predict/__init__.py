"""Using a trained model: a bundle and texts in, plain Python values out. One file a pipeline, one line each below.

    bundle = bertjax.load("runs/quickstart")
    fill_mask(bundle, ["The [MASK] is empty."], top=3)

The same from a command line, over files of any size: `python -m bertjax predict KIND --help`.
"""

from collections.abc import Sequence

from bertjax.bundle import Bundle
from bertjax.predict.base import Answer, Pipeline
from bertjax.predict.filling import FillMask
from bertjax.predict.run import RunOptions, run

__all__ = ["PIPELINES", "Pipeline", "RunOptions", "fill_mask", "run"]

PIPELINES: dict[str, Pipeline] = {
    "fill-mask": FillMask(),
}


def fill_mask(
    bundle: Bundle, texts: Sequence[str], *, top: int = 5, options: RunOptions | None = None
) -> list[Answer]:
    """The likeliest tokens at every [MASK] of every text; several gaps of one text are judged independently."""
    return run(FillMask(top=top), bundle, ({"text": text} for text in texts), options)
