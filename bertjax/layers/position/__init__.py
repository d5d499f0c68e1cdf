"""How tokens know where they are: one scheme a file, one line each in the registry below.

A scheme may act at four places, and implements those it needs:

    embed      adds to the embeddings before the first block     learned, sinusoidal, learned_t5
    rotate     turns queries and keys in every layer             rope
    bias       adds to the scores, the same for all layers       alibi, t5, learned_t5
    relative   a vector per distance, read by the attention      relative

All but `learned` and `learned_t5` serve rows of any length: what was trained on short rows runs on longer ones.
"""

from bertjax.layers.config import EncoderConfig, Learned, PositionOptions
from bertjax.layers.position.alibi import Alibi, AlibiPosition
from bertjax.layers.position.base import NoPosition, Position, Scheme
from bertjax.layers.position.learned import LearnedPosition
from bertjax.layers.position.learned_t5 import LearnedT5, LearnedT5Position
from bertjax.layers.position.relative import Relative, RelativePosition
from bertjax.layers.position.rope import Rope, turn
from bertjax.layers.position.sinusoidal import Sinusoidal, SinusoidalPosition
from bertjax.layers.position.t5 import T5, T5Position
from bertjax.types import Array, Float, Int

__all__ = [
    "POSITIONS",
    "T5",
    "Alibi",
    "Learned",
    "LearnedT5",
    "NoPosition",
    "Position",
    "PositionOptions",
    "Relative",
    "Rope",
    "Scheme",
    "Sinusoidal",
    "rotate",
    "scheme_of",
]

POSITIONS: dict[str, Scheme] = {
    "learned": Scheme(Learned(), LearnedPosition),
    "sinusoidal": Scheme(Sinusoidal(), SinusoidalPosition),
    "none": Scheme(NoPosition(), Position),
    "rope": Scheme(Rope(), Position, rotate=turn),
    "alibi": Scheme(Alibi(), AlibiPosition),
    "t5": Scheme(T5(), T5Position),
    "relative": Scheme(Relative(), RelativePosition),
    "learned_t5": Scheme(LearnedT5(), LearnedT5Position),
}


def scheme_of(options: PositionOptions) -> Scheme:
    """The registry entry that these options belong to."""
    return next(scheme for scheme in POSITIONS.values() if type(scheme.options) is type(options))


def rotate(
    config: EncoderConfig, x: Float[Array, "B L H K"], positions: Int[Array, "B L"]
) -> Float[Array, "B L H K"]:
    """Queries or keys turned by their positions, where the scheme turns them."""
    turn = scheme_of(config.position).rotate
    return x if turn is None else turn(config.position, x, positions)
