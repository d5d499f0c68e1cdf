"""What every encoder has: sizes, switches, and the options of its exchangeable parts.

An option that belongs to one variant lives in that variant's own dataclass:
`EncoderConfig.attention` holds an `AttentionOptions`, `EncoderConfig.position` a `PositionOptions`.
The subclasses are in `attention/` and in `layers/position/`, each beside the code that it steers.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Literal

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class AttentionOptions:
    """Base of every attention variant's options."""

    def period(self) -> "tuple[AttentionOptions, ...]":
        """The options of consecutive layers, repeated over the depth; most variants have one kind of layer."""
        return (self,)

    def layout(self, layers: int) -> "Layout":
        """The options of every layer, in groups; a variant whose pattern does not repeat overrides this.

        What the depth leaves of a period that does not divide it is a group of its own.
        """
        period = self.period()
        repeats, rest = divmod(layers, len(period))
        groups = ((period, repeats), (period[:rest], 1))
        return tuple((kinds, times) for kinds, times in groups if kinds and times)


# Consecutive layers and how often they repeat, group after group.
Layout = tuple[tuple[tuple[AttentionOptions, ...], int], ...]


def runs(kinds: Sequence[AttentionOptions]) -> Layout:
    """The layout of layers given one by one: equal neighbours form a group."""
    groups = [(kind, sum(1 for _ in equal)) for kind, equal in itertools.groupby(kinds)]
    return tuple(((kind,), repeats) for kind, repeats in groups)


@dataclasses.dataclass(frozen=True)
class PositionOptions:
    """Base of every position scheme's options."""


# How softmax attention is computed: einsum everywhere, cuDNN on NVIDIA GPUs, Pallas splash attention on TPUs.
Backend = Literal["auto", "reference", "cudnn", "splash"]


@dataclasses.dataclass(frozen=True)
class Full(AttentionOptions):
    """Softmax attention of every token to every token."""

    backend: Backend = "auto"
    """Implementation: the fused kernel of the platform where it can do it, or always the one named."""


@dataclasses.dataclass(frozen=True)
class Learned(PositionOptions):
    """A learned vector per absolute position, added to the embeddings."""

    offset: int = 0
    """Rows of the table before that of the first position, which nothing reads: RoBERTa has 2."""


GATED = ("geglu", "swiglu")  # activations with a third matrix


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A small layer with a residual sum behind parts of every layer: layers/adapter.py."""

    size: int = 64
    """Width between its two products."""
    behind: Literal["both", "feedforward"] = "both"
    """It stands behind attention and feed-forward (Houlsby), or behind feed-forward alone (Pfeiffer)."""
    activation: Literal["gelu", "relu", "silu"] = "gelu"
    """Between the products."""

    def __post_init__(self) -> None:
        """Refuses a width that is none."""
        if self.size < 1:
            raise ValueError(
                f"model.adapter.size={self.size} must be at least 1; model.adapter=none for none"
            )


@dataclasses.dataclass(frozen=True)
class Prompt:
    """Learned vectors before the tokens of every row, which heads do not see."""

    size: int = 20
    """How many."""
    at: Literal["input", "layers"] = "input"
    """They enter with the embeddings (2104.08691), or every layer has its own in their place (2110.07602)."""

    def __post_init__(self) -> None:
        """Refuses a number that is none."""
        if self.size < 1:
            raise ValueError(f"model.prompt.size={self.size} must be at least 1; model.prompt=none for none")


ADAPTERS = {"houlsby": Adapter(), "pfeiffer": Adapter(48, "feedforward", "relu")}
PROMPTS = {"input": Prompt(), "layers": Prompt(at="layers")}


@dataclasses.dataclass(frozen=True)
class EncoderConfig:
    """Sizes and switches of one encoder."""

    layers: int = 12
    """Number of blocks."""
    width: int = 768
    """Size of the residual stream."""
    heads: int = 12
    """Attention heads."""
    head_size: int | None = None
    """Size of one head; none means width / heads."""
    feedforward: int | None = None
    """Hidden size of the feed-forward part; none means 4 * width, or two thirds of it where it is gated."""
    vocab: int = 30522
    """Tokens in the vocabulary."""
    vocab_multiple: int = 128
    """The embedding has rows up to the next multiple of this, so that it shards; none is predicted."""
    max_length: int = 512
    """Longest row that the position table serves."""
    embedding_width: int | None = None
    """Width of the embedding tables, from which a product leads to the model's (ALBERT); none means width."""
    types: int | None = 2
    """Kinds of segment, each with a vector: 2 for pairs of sentences; none where a model has no such table."""
    attention: AttentionOptions = Full()
    """How tokens exchange information."""
    position: PositionOptions = Learned()
    """How tokens know where they are."""
    direction: Literal["both", "left_to_right", "right_to_left"] = "both"
    """What a token may see: all of its sequence, or itself and what is before it, or what is after it."""
    block: Literal["post", "pre", "sandwich", "parallel"] = "post"
    """Norm after each residual sum (BERT), before each branch, before and after it, or one for both."""
    residual: Literal["plain", "deepnorm"] = "plain"
    """Weight of the stream in a sum: 1, or that of DeepNorm, which lets post-norm grow deep."""
    norm: Literal["layernorm", "rmsnorm"] = "layernorm"
    """How the stream is normalised; rmsnorm neither centres nor shifts."""
    norm_bias: bool = True
    """Layernorm shifts its result."""
    embedding_norm: bool = True
    """A norm on the embeddings."""
    first_norm: bool = True
    """With block=pre, a norm before the first attention; ModernBERT has only that of the embeddings."""
    norm_epsilon: float = 1e-12
    """Added to the variance in every norm."""
    activation: Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "geglu", "swiglu"] = "gelu"
    """Of the feed-forward part and, without its gate, of the masked-LM head."""
    head_activation: Literal["gelu", "gelu_tanh", "relu", "relu2", "silu"] | None = None
    """Of the masked-LM head where it has one of its own (RoBERTa: gelu whatever the layers have)."""
    bias: bool = True
    """Matrix products add a vector; those that give logits always do."""
    convolution: int | None = None
    """Width of a convolution of the embeddings that joins the first layer, odd (DeBERTa v2: 3); none for none."""
    convolution_activation: Literal["gelu", "gelu_tanh", "relu", "relu2", "silu", "tanh"] = "tanh"
    """Of that convolution."""
    adapter: Adapter | None = None
    """A small layer behind parts of every layer, for tune.trained=adapters; none for none."""
    prompt: Prompt | None = None
    """Learned vectors before the tokens of every row, for tune.trained=prompt; none for none."""
    sharing: Literal["none", "attention", "ffn", "all"] = "none"
    """Parts whose parameters all layers of one kind have in common (ALBERT)."""
    tied: bool = True
    """The masked-LM head reads the token embedding; else it has a matrix of its own."""
    pooler: bool = True
    """A layer and a tanh on the first token make the pooled one; without it the first token is pooled as it is."""
    layer_drop: float = 0.0
    """Probability that a training step skips a layer."""
    dropout: float = 0.1
    """Rate on embeddings and on the output of every branch."""
    attention_dropout: float = 0.1
    """Rate on attention probabilities."""
    init_std: float = 0.02
    """Standard deviation of the truncated normal that embeddings and, by most schemes, weights start from."""
    init: str | None = None
    """Workdir of a run whose parameters this one starts from; none starts from random ones."""
    init_scheme: Literal["bert", "depth", "fan_in", "xavier", "small"] = "bert"
    """What weights start from: layers/dense.py says how the schemes differ."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and matrix products; parameters, softmax, norms and losses stay float32."""
    scan: bool = False
    """Compile one block and loop over it: compile time independent of depth, slightly slower steps."""
    remat: Literal["none", "block", "dots"] = "none"
    """What the backward pass computes again: nothing, whole blocks, or all but matrix products."""

    def __post_init__(self) -> None:
        """Refuses settings that contradict each other."""
        if self.head_size is None and self.width % self.heads:
            most = min(self.heads, self.width)
            around = (h for distance in range(most) for h in (most - distance, most + distance))
            near = next(h for h in around if self.width % h == 0)  # at the latest 1
            raise ValueError(
                f"model.heads={self.heads} does not divide model.width={self.width}: heads={near} would"
            )
        if self.layers < 1:
            raise ValueError(f"model.layers={self.layers}: an encoder has at least one")
        depth = sum(len(period) * repeats for period, repeats in self.layout)
        assert depth == self.layers, f"{self.attention} lays out {depth} of {self.layers} layers"
        if self.residual == "deepnorm" and self.block != "post":
            raise ValueError(
                f"model.residual=deepnorm is for model.block=post, not {self.block}: set model.residual=plain"
            )
        if not self.first_norm and not (self.block == "pre" and self.embedding_norm):
            raise ValueError(
                "model.first_norm=false leaves the first layer without any norm: "
                "it needs model.block=pre and model.embedding_norm=true"
            )
        if self.convolution is not None:
            if self.convolution < 1 or self.convolution % 2 == 0:
                raise ValueError(f"model.convolution={self.convolution}: an odd width, or none")
            if self.block != "post" or self.direction != "both":
                raise ValueError(
                    f"model.convolution={self.convolution} reads both neighbours and has a norm behind it: it needs "
                    f"model.block=post and model.direction=both"
                )
        for name in ("dropout", "attention_dropout", "layer_drop"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"model.{name}={getattr(self, name)} is a probability: 0 <= {name} < 1")

    @property
    def key_size(self) -> int:
        """Size K of one head."""
        return self.head_size or self.width // self.heads

    @property
    def layout(self) -> Layout:
        """The attention of every layer, in groups that repeat a period."""
        layout = self.attention.layout(self.layers)
        period, repeats = layout[0]
        if repeats == 1 or not self.first_differs:
            return layout
        return ((period, 1), (period, repeats - 1), *layout[1:])

    @property
    def first_differs(self) -> bool:
        """The first layer is not like the others."""
        return not self.first_norm or self.convolution is not None

    @property
    def kinds(self) -> tuple[AttentionOptions, ...]:
        """The attentions that occur in some layer, each once."""
        return tuple(dict.fromkeys(options for period, _ in self.layout for options in period))

    @property
    def hidden(self) -> int:
        """Size F of the feed-forward part."""
        gated = -(-8 * self.width // (3 * 64)) * 64  # as many parameters as 4 * width without a gate
        return self.feedforward or (gated if self.activation in GATED else 4 * self.width)

    @property
    def table_width(self) -> int:
        """Width of the embedding tables."""
        return self.embedding_width or self.width

    @property
    def rows(self) -> int:
        """Rows of the embedding: the vocabulary, rounded up."""
        return -(-self.vocab // self.vocab_multiple) * self.vocab_multiple

    @property
    def compute(self) -> jnp.dtype:
        """The dtype of activations."""
        return jnp.dtype(self.dtype)
