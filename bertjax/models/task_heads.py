"""What stands on the encoder when it is used: scores of a row, scores of every token, or a vector of a text.

    classify   C scores of a row                     choose     one score of a row: rows compete
    tag        C scores of every token               answer     two of every token: an answer starts, ends here
    embed      a vector of a row, for comparing texts (Sentence-BERT, 1908.10084)

    scores = drop(x) W + b,      x = p  or, with a layer between,  norm(act(drop(p) U + c))

where p is the vector of the token, or what `pooling` makes of the row. The published heads are settings of these:

    BERT, ALBERT               pooled token                                        (1810.04805, Section 4.1)
    RoBERTa, XLM-R, MPNet      first token, tanh between                           (1907.11692)
    ELECTRA                    first token, gelu between                           (2003.10555)
    DistilBERT                 first token, relu between, dropout behind it only   (1910.01108)
    ModernBERT                 first token or mean, gelu and a norm between        (2412.13663)
    BigBird, answers           a feed-forward part with its norm before            (2007.14062)

Dropout is drawn where a step hands out the "dropout" stream, which only training does.
"""

import abc
import dataclasses
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from bertjax.layers.config import EncoderConfig
from bertjax.layers.dense import dense
from bertjax.layers.dropout import Dropout
from bertjax.layers.mlp import NONLINEAR, Mlp
from bertjax.layers.norm import Norm
from bertjax.models.features import FeatureReader, Features
from bertjax.types import Array, Batch, Bool, EncoderOutput, Float

__all__ = ["HEADS", "Answer", "Choose", "Classify", "Embed", "HeadOptions", "Tag", "pool"]

Activation = Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "tanh"]
Pooling = Literal["pooled", "first", "mean", "max"]


@dataclasses.dataclass(frozen=True)
class HeadOptions(abc.ABC):
    """Base of every head's options."""

    name: ClassVar[str]

    @abc.abstractmethod
    def module(self, config: EncoderConfig) -> nn.Module:
        """The head for an encoder."""


@dataclasses.dataclass(frozen=True)
class ScoreOptions(HeadOptions):
    """What heads that give scores have in common."""

    hidden: Activation | None = None
    """A layer as wide as the encoder with this nonlinearity before the scores; none for no such layer."""
    hidden_norm: bool = False
    """A norm behind the nonlinearity of that layer."""
    dropout: float | None = None
    """Rate before the scores; none takes the encoder's."""
    hidden_dropout: float | None = None
    """Rate before the layer between; none takes the one before the scores."""
    features: Features | None = None
    """States of other layers than the last that are read, and how; none reads the last layer."""

    classes: ClassVar[int]


@dataclasses.dataclass(frozen=True)
class Classify(ScoreOptions):
    """Scores of a row."""

    classes: int = 2  # type: ignore[misc]
    """How many scores."""
    labels: tuple[str, ...] = ()
    """Names of the classes in their order; empty where they have none."""
    problem: Literal["single", "multi", "regression"] = "single"
    """One class is right, several may be, or the scores are the numbers themselves."""
    pooling: Pooling = "pooled"
    """What stands for the row: the pooled token, the first, or the mean or maximum of all real ones."""

    name: ClassVar[str] = "classify"

    def __post_init__(self) -> None:
        """Refuses names that do not count up."""
        check_labels(self.name, self.classes, self.labels)
        check_pooling(f"heads.{self.name}", self.features, self.pooling)

    def module(self, config: EncoderConfig) -> nn.Module:
        """[B C]."""
        return RowHead(config, self)


@dataclasses.dataclass(frozen=True)
class Choose(ScoreOptions):
    """One score of a row; the rows of one question compete."""

    pooling: Pooling = "pooled"
    """What stands for the row: the pooled token, the first, or the mean or maximum of all real ones."""

    name: ClassVar[str] = "choose"
    classes: ClassVar[int] = 1

    def __post_init__(self) -> None:
        """Refuses a vector that is not made of the features."""
        check_pooling(f"heads.{self.name}", self.features, self.pooling)

    def module(self, config: EncoderConfig) -> nn.Module:
        """[B 1]."""
        return RowHead(config, self)


@dataclasses.dataclass(frozen=True)
class Tag(ScoreOptions):
    """Scores of every token."""

    classes: int = 2  # type: ignore[misc]
    """How many scores."""
    labels: tuple[str, ...] = ()
    """Names of the classes in their order; empty where they have none."""

    name: ClassVar[str] = "tag"

    def __post_init__(self) -> None:
        """Refuses names that do not count up."""
        check_labels(self.name, self.classes, self.labels)

    def module(self, config: EncoderConfig) -> nn.Module:
        """[B L C]."""
        return TokenHead(config, self)


@dataclasses.dataclass(frozen=True)
class Answer(ScoreOptions):
    """Scores of every token for being the first and the last of an answer."""

    feedforward: bool = False
    """A feed-forward part like those of the layers, with sum and norm, before the scores (BigBird)."""

    name: ClassVar[str] = "answer"
    classes: ClassVar[int] = 2

    def module(self, config: EncoderConfig) -> nn.Module:
        """[B L 2]."""
        return TokenHead(config, self)


@dataclasses.dataclass(frozen=True)
class Embed(HeadOptions):
    """A vector of a row."""

    pooling: Pooling = "mean"
    """What stands for the row: the pooled token, the first, or the mean or maximum of all real ones."""
    normalise: bool = True
    """The vector has length one."""

    name: ClassVar[str] = "embed"

    def module(self, config: EncoderConfig) -> nn.Module:
        """[B D]."""
        return VectorHead(self)


def check_labels(name: str, classes: int, labels: tuple[str, ...]) -> None:
    """Refuses a number of classes that is none, and names that are not as many."""
    if classes < 1:
        raise ValueError(f"heads.{name}.classes={classes}: a head has at least one")
    if labels and len(labels) != classes:
        raise ValueError(
            f"heads.{name}.labels names {len(labels)} of heads.{name}.classes={classes} classes: name all or none"
        )


def check_pooling(where: str, features: Features | None, pooling: Pooling) -> None:
    """Refuses the pooled token, which is made of the last layer, where others are read."""
    if features is not None and pooling == "pooled":
        raise ValueError(
            f"{where}.pooling=pooled is made of the last layer, and {where}.features reads its own: "
            f"set {where}.pooling to first, mean or max"
        )


HEADS: dict[str, HeadOptions] = {
    "classify": Classify(),
    "choose": Choose(),
    "tag": Tag(),
    "answer": Answer(),
    "embed": Embed(),
}


def pool(output: EncoderOutput, mask: Bool[Array, "B L"], pooling: str) -> Float[Array, "B D"]:
    """One vector a row; of rows without a real token it is zero or of no use."""
    match pooling:
        case "pooled":
            return output.pooled
        case "first":
            return output.hidden[:, 0]
    real, x = mask[:, :, None], output.hidden.astype(jnp.float32)
    if pooling == "max":
        return jnp.where(real, x, -1e9).max(1)
    return jnp.where(real, x, 0.0).sum(1) / jnp.maximum(real.sum(1), 1).astype(jnp.float32)


def scores(
    head: nn.Module, x: Float[Array, "*B D"], config: EncoderConfig, options: ScoreOptions, letters: str
) -> Float[Array, "*B C"]:
    """The product, with or without a layer before it."""
    c, train = config, head.has_rng("dropout")
    last = c.dropout if options.dropout is None else options.dropout
    if options.hidden is not None:
        first = last if options.hidden_dropout is None else options.hidden_dropout
        x = Dropout(first)(x, train=train)
        shape, axes = (x.shape[-1], c.width), ("width", "output")
        x = dense(c, f"{letters}d,de->{letters}e", shape, axes, "head", name="hidden")(x)
        x = NONLINEAR[options.hidden](x)
        x = Norm(c, name="norm")(x) if options.hidden_norm else x
    x = Dropout(last)(x, train=train)
    shape, axes = (x.shape[-1], options.classes), ("width", "classes")
    layer = dense(c, f"{letters}d,dc->{letters}c", shape, axes, "head", name="output", bias=True)
    return layer(x).astype(jnp.float32)


def read(
    output: EncoderOutput, mask: Bool[Array, "B L"], config: EncoderConfig, options: ScoreOptions
) -> Float[Array, "B L E"]:
    """What a head reads of every token."""
    if options.features is None:
        return output.hidden
    return FeatureReader(config, options.features, name="features")(output, mask)


class RowHead(nn.Module):
    """Scores of a row."""

    config: EncoderConfig
    options: Classify | Choose

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B C"]:
        """Float32 logits."""
        del table
        output = dataclasses.replace(output, hidden=read(output, batch.mask, self.config, self.options))
        pooled = pool(output, batch.mask, self.options.pooling)
        return scores(self, pooled, self.config, self.options, "b")


class TokenHead(nn.Module):
    """Scores of every token."""

    config: EncoderConfig
    options: Tag | Answer

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B L C"]:
        """Float32 logits."""
        del table
        c, x = self.config, read(output, batch.mask, self.config, self.options)
        if isinstance(self.options, Answer) and self.options.feedforward:
            drop, train = Dropout(c.dropout), self.has_rng("dropout")
            x = Norm(c, name="mlp_norm")(x + drop(Mlp(c, name="mlp")(drop(x, train=train)), train=train))
        return scores(self, x, c, self.options, "bl")


class VectorHead(nn.Module):
    """A vector of a row."""

    options: Embed

    @nn.compact
    def __call__(
        self, output: EncoderOutput, batch: Batch, table: Float[Array, "V E"]
    ) -> Float[Array, "B D"]:
        """Float32."""
        del table
        x = pool(output, batch.mask, self.options.pooling).astype(jnp.float32)
        if not self.options.normalise:
            return x
        # The root of a sum that may be zero has no gradient: a little keeps it finite.
        return x * jax.lax.rsqrt(jnp.square(x).sum(-1, keepdims=True) + 1e-24)
