"""A family's table of names, and the transforms between two layouts of the same numbers.

A row says where a parameter of ours lies in their files:

    Row("encoder/{layer}/attention/query/kernel", "encoder.layer.{i}.attention.self.query.weight", TO_HEADS)

`{layer}` stands for the path of layer i in an unrolled stack, `{i}` for its number; a row with them is one row per
layer. The table is read in both directions, and every transform has an exact inverse: importing what was exported
cannot give other bits. Rows whose parameters a model does not have are skipped; parameters without a row are an error.

Their shapes are not written down anywhere: they follow from ours by sending shapes through the transform.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bertjax.layers.config import EncoderConfig
from bertjax.models.stacking import locate

Shape = tuple[int, ...]
Arrays = Sequence[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Transform:
    """Two layouts of the same numbers: from theirs to ours, whose shapes are known, and back."""

    load: Callable[[Arrays, Sequence[Shape], EncoderConfig], Arrays]
    dump: Callable[[Arrays, EncoderConfig], Arrays]


def one_to_one(
    load: Callable[[np.ndarray, Shape], np.ndarray], dump: Callable[[np.ndarray], np.ndarray]
) -> Transform:
    """A transform of one tensor that needs to know nothing else."""
    return Transform(
        lambda theirs, shapes, config: [load(theirs[0], shapes[0])],
        lambda ours, config: [dump(ours[0])],
    )


def _padded(table: np.ndarray, shape: Shape) -> np.ndarray:
    return np.pad(table, [(0, shape[0] - len(table)), *((0, 0),) * (table.ndim - 1)])


# The tensor as it is, and a matrix of a linear layer, which PyTorch keeps as [out, in].
SAME = one_to_one(lambda x, shape: x, lambda y: y)
TRANSPOSE = one_to_one(lambda x, shape: x.T, lambda y: y.T)
# A linear layer whose output is cut into heads: [H K, D] and [D, H, K], and its bias.
TO_HEADS = one_to_one(lambda x, shape: x.T.reshape(shape), lambda y: y.reshape(len(y), -1).T)
HEAD_BIAS = one_to_one(lambda x, shape: x.reshape(shape), lambda y: y.reshape(-1))
# A linear layer that reads all heads: [D, H K] and [H, K, D].
FROM_HEADS = one_to_one(lambda x, shape: x.T.reshape(shape), lambda y: y.reshape(-1, y.shape[-1]).T)
# A table with a row a token: ours has rows of zeros beyond the vocabulary, so that it can be split over devices.
TOKENS = Transform(
    lambda theirs, shapes, config: [_padded(theirs[0], shapes[0])],
    lambda ours, config: [ours[0][: config.vocab]],
)


def fused(part: Transform, number: int) -> Transform:
    """One tensor of theirs that is several of ours, one below the other: their query, key and value in one matrix."""

    def load(theirs: Arrays, shapes: Sequence[Shape], config: EncoderConfig) -> Arrays:
        pieces = np.split(theirs[0], number)
        return [part.load([x], [shape], config)[0] for x, shape in zip(pieces, shapes, strict=True)]

    def dump(ours: Arrays, config: EncoderConfig) -> Arrays:
        return [np.concatenate([part.dump([y], config)[0] for y in ours])]

    return Transform(load, dump)


@dataclasses.dataclass(frozen=True)
class Row:
    """One parameter, or a few that belong together, in both worlds."""

    ours: str | tuple[str, ...]
    theirs: str | tuple[str, ...]
    how: Transform = SAME
    when: Callable[[EncoderConfig], bool] = lambda config: True
    """Whether it is this row's parameter, where ours is several of theirs."""


@dataclasses.dataclass(frozen=True)
class Copy:
    """A tensor that their files may repeat under another name where weights are tied: `name` is the same as `of`.

    Where they are not tied it is written, too, and what is read if both are there.
    """

    name: str
    of: str
    always: bool = False
    """It is written where weights are tied, too: their class has it as a parameter of its own."""


def linear(ours: str, theirs: str, kernel: Transform = TRANSPOSE, bias: Transform = SAME) -> tuple[Row, ...]:
    """The rows of a linear layer."""
    return Row(f"{ours}/kernel", f"{theirs}.weight", kernel), Row(f"{ours}/bias", f"{theirs}.bias", bias)


def norm(ours: str, theirs: str) -> tuple[Row, ...]:
    """The rows of a layer norm."""
    return Row(f"{ours}/scale", f"{theirs}.weight"), Row(f"{ours}/bias", f"{theirs}.bias")


def attention(ours: str, query: str, key: str, value: str, output: str) -> tuple[Row, ...]:
    """The rows of an attention with four projections."""
    return (
        *linear(f"{ours}/query", query, TO_HEADS, HEAD_BIAS),
        *linear(f"{ours}/key", key, TO_HEADS, HEAD_BIAS),
        *linear(f"{ours}/value", value, TO_HEADS, HEAD_BIAS),
        *linear(f"{ours}/output", output, FROM_HEADS),
    )


# ---------------------------------------------------------------------------------------------- matching


@dataclasses.dataclass(frozen=True)
class Match:
    """A row of one model: paths of ours with their shapes, names of theirs with theirs."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    how: Transform
    shapes: tuple[Shape, ...]
    their_shapes: tuple[Shape, ...]

    def load(self, tensors: Arrays, config: EncoderConfig) -> dict[str, np.ndarray]:
        """Ours from theirs, by path."""
        arrays = self.how.load(tensors, self.shapes, config)
        found = [np.ascontiguousarray(array) for array in arrays]
        assert tuple(array.shape for array in found) == self.shapes, self.ours
        return dict(zip(self.ours, found, strict=True))

    def dump(self, arrays: Arrays, config: EncoderConfig) -> dict[str, np.ndarray]:
        """Theirs from ours, by name."""
        return dict(zip(self.theirs, self.how.dump(arrays, config), strict=True))


def layer_paths(config: EncoderConfig) -> list[str]:
    """Where each layer's parameters lie in an unrolled stack, below the encoder."""
    found = []
    for (stack, group, layers, block), index in locate(config):
        found.append(f"{stack}/{group}/{layers}_{index}/{block}")
    return found


def match(
    rows: Sequence[Row], declared: Mapping[str, Shape], config: EncoderConfig, prefix: str, family: str
) -> list[Match]:
    """The rows that a model has, with all paths and names written out; `prefix` is before their encoder's names."""
    found, left = [], dict(declared)
    numbers = (int(number) for path in declared for number in re.findall(r"/layers_(\d+)/", path))
    deepest = max(
        config.layers, max(numbers, default=0) + 1
    )  # a decoder may have more layers than the encoder
    layers = layer_paths(dataclasses.replace(config, layers=deepest))
    for row in rows:
        ours, theirs = _tuple(row.ours), _tuple(row.theirs)
        before = prefix if ours[0].startswith("encoder/") else ""
        repeated = any("{layer}" in path for path in ours)
        for index, layer in enumerate(layers if repeated else [""]):
            paths = tuple(path.replace("{layer}", layer) for path in ours)
            here = [path in left for path in paths]
            if not any(here) or not row.when(config):
                continue
            assert all(here), f"{family}: a model has only some of {paths}"
            shapes = tuple(tuple(left.pop(path)) for path in paths)
            empty = [np.broadcast_to(np.float32(0), shape) for shape in shapes]
            names = tuple(before + name.replace("{i}", str(index)) for name in theirs)
            their_shapes = tuple(np.shape(x) for x in row.how.dump(empty, config))
            found.append(Match(paths, names, row.how, shapes, their_shapes))
    if left:
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        raise ValueError(f"the family {family} has no place for {min(left)}{more}: it cannot hold this model")
    return found


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
