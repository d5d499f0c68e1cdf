"""Attention variants: one file each, one line each in the registry below."""

import dataclasses

import jax.numpy as jnp

from bertjax import sharding
from bertjax.attention.base import Attention, Context, Variant
from bertjax.attention.bigbird import BigBird, BigBirdAttention
from bertjax.attention.cosformer import Cosformer, CosformerAttention
from bertjax.attention.disentangled import Disentangled, DisentangledAttention
from bertjax.attention.feedforward_only import FeedforwardOnly, FeedforwardOnlyAttention
from bertjax.attention.fourier import Fourier, FourierAttention
from bertjax.attention.full import FullAttention
from bertjax.attention.gated_unit import GatedUnit, GatedUnitAttention
from bertjax.attention.grouped_query import GroupedQuery, GroupedQueryAttention
from bertjax.attention.hybrid import Hybrid, HybridAttention
from bertjax.attention.kernels import Request, choose
from bertjax.attention.linear import Linear, LinearAttention
from bertjax.attention.linformer import Linformer, LinformerAttention
from bertjax.attention.local_global import LocalGlobal, LocalGlobalAttention
from bertjax.attention.longformer import Longformer, LongformerAttention
from bertjax.attention.mixer import Mixer, MixerAttention
from bertjax.attention.nystroem import Nystroem, NystroemAttention
from bertjax.attention.performer import Performer, PerformerAttention
from bertjax.attention.qk_norm import QkNorm, QkNormAttention
from bertjax.attention.state_space import StateSpace, StateSpaceAttention
from bertjax.attention.synthesizer import Synthesizer, SynthesizerAttention
from bertjax.attention.talking_heads import TalkingHeads, TalkingHeadsAttention
from bertjax.attention.window import Window, WindowAttention
from bertjax.layers.config import AttentionOptions, EncoderConfig, Full
from bertjax.layers.position import Position, scheme_of
from bertjax.types import Tree

__all__ = [
    "ATTENTIONS",
    "Attention",
    "AttentionOptions",
    "Context",
    "Variant",
    "check_attention",
    "explain",
    "make_attention",
    "name_of",
    "shrink",
    "variant_of",
]


def _with_global_projections(own: Tree, full: Tree) -> Tree:
    return {**full, **{f"global_{name}": full[name] for name in ("query", "key", "value")}}


def _silent_heads(own: Tree, full: Tree) -> Tree:
    return {**full, **{name: jnp.eye(*own[name].shape) for name in ("scores", "weights")}}


def _compress_nothing(own: Tree, full: Tree) -> Tree:
    return {**full, **{name: jnp.eye(*own[name].shape) for name in ("compress_keys", "compress_values")}}


ATTENTIONS: dict[str, Variant] = {
    "full": Variant(Full(), FullAttention, 2_362_368, exact=lambda c: Full()),
    "window": Variant(
        Window(),
        WindowAttention,
        2_362_368,
        Window(2),
        exact=lambda c: Window(2 * c.max_length),
        linear=True,
    ),
    "local_global": Variant(
        LocalGlobal(),
        LocalGlobalAttention,
        2_362_368,
        LocalGlobal(2, 2),
        exact=lambda c: LocalGlobal(every=1),
    ),
    "longformer": Variant(
        Longformer(),
        LongformerAttention,
        4_134_144,
        Longformer(size=2, slots=2),
        prefix=False,
        exact=lambda c: Longformer(size=2 * c.max_length),
        adapt=_with_global_projections,
        linear=True,
    ),
    "bigbird": Variant(
        BigBird(),
        BigBirdAttention,
        2_362_368,
        BigBird(1, 1, plans=1),
        exact=lambda c: BigBird(1, random=c.max_length, plans=1),
        linear=True,
    ),
    "talking_heads": Variant(
        TalkingHeads(), TalkingHeadsAttention, 2_362_656, exact=lambda c: TalkingHeads(), adapt=_silent_heads
    ),
    "grouped_query": Variant(
        GroupedQuery(),
        GroupedQueryAttention,
        1_574_912,
        GroupedQuery(groups=2),
        exact=lambda c: GroupedQuery(groups=c.heads),
    ),
    "disentangled": Variant(
        Disentangled(),
        DisentangledAttention,
        2_362_368,
        relative=True,
        exact=lambda c: Disentangled(c2p=False, p2c=False),
    ),
    "qk_norm": Variant(QkNorm(), QkNormAttention, 2_362_369),
    "linformer": Variant(
        Linformer(),
        LinformerAttention,
        2_493_440,
        Linformer(rank=3),
        any_length=False,
        segments=False,
        causal=False,
        bias=False,
        prefix=False,
        exact=lambda c: Linformer(rank=c.max_length),
        adapt=_compress_nothing,
        linear=True,
    ),
    "performer": Variant(
        Performer(), PerformerAttention, 2_362_368, Performer(16), causal=False, bias=False, linear=True
    ),
    "linear": Variant(Linear(), LinearAttention, 2_362_368, bias=False, linear=True),
    "cosformer": Variant(Cosformer(), CosformerAttention, 2_362_368, rotate=False, bias=False, linear=True),
    "nystroem": Variant(
        Nystroem(),
        NystroemAttention,
        2_363_148,
        Nystroem(landmarks=3, convolution=3),
        segments=False,
        causal=False,
        bias=False,
        exact=lambda c: Nystroem(landmarks=c.max_length, convolution=None),
        linear=True,
    ),
    "synthesizer": Variant(
        Synthesizer(),
        SynthesizerAttention,
        2_165_504,
        any_length=False,
        rotate=False,
        prefix=False,
        exact=lambda c: Synthesizer(kinds=("content",)),
    ),
    "gated_unit": Variant(GatedUnit(), GatedUnitAttention, 7_183_744, bias=False, feedforward=False),
    "fourier": Variant(
        Fourier(),
        FourierAttention,
        0,
        segments=False,
        causal=False,
        rotate=False,
        bias=False,
        linear=True,
    ),
    "mixer": Variant(
        Mixer(), MixerAttention, 851_968, any_length=False, rotate=False, bias=False, prefix=False
    ),
    "feedforward_only": Variant(
        FeedforwardOnly(),
        FeedforwardOnlyAttention,
        0,
        rotate=False,
        bias=False,
        prefix=False,
        linear=True,
    ),
    "state_space": Variant(
        StateSpace(),
        StateSpaceAttention,
        2_004_272,
        StateSpace(state=4, convolution=3),
        causal=False,
        rotate=False,
        bias=False,
        linear=True,
    ),
    "hybrid": Variant(
        Hybrid(),
        HybridAttention,
        1_181_184,
        Hybrid(number=1),
        segments=False,
        causal=False,
        rotate=False,
        bias=False,
        exact=lambda c: Hybrid(number=c.layers),
    ),
}


def variant_of(options: AttentionOptions) -> Variant:
    """The registry entry that these options belong to."""
    return ATTENTIONS[name_of(options)]


def name_of(options: AttentionOptions) -> str:
    """The name in the registry that these options belong to."""
    return next(name for name, variant in ATTENTIONS.items() if type(variant.options) is type(options))


def shrink(options: AttentionOptions) -> AttentionOptions:
    """The same attention with sizes for short rows and few heads: those of `Variant.small`, where they are less."""
    variant, inner, sizes = variant_of(options), {}, {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if isinstance(value, AttentionOptions):
            inner[field.name] = shrink(value)
        elif variant.small is not None and isinstance(value, int):
            small, default = (getattr(one, field.name) for one in (variant.small, variant.options))
            if small != default:
                sizes[field.name] = min(value, small)
    options = dataclasses.replace(options, **inner)
    shrunk = dataclasses.replace(options, **sizes)
    before, after = ({type(kind) for kind in one.period()} for one in (options, shrunk))
    return shrunk if before == after else options  # no kind of layer may be lost


def make_attention(config: EncoderConfig, options: AttentionOptions, name: str) -> Attention:
    """The module of the variant that the options name."""
    return variant_of(options).module(config, options, name=name)


def check_attention(config: EncoderConfig, *, packed: bool = False, causal: bool = False) -> None:
    """Refuses what some layer cannot do: its position scheme, learned vectors, packed rows, a causal mask."""
    if config.prompt is not None and packed:
        raise ValueError(
            "model.prompt stands before one text, and these rows have several: choose a data.format with one"
        )
    scheme = scheme_of(config.position)
    adds = scheme.module.bias is not Position.bias  # nothing but an override adds to the scores
    describes = scheme.module.relative is not Position.relative  # a vector per distance
    readers = [options for options in config.kinds if variant_of(options).relative]
    if readers and not describes:
        raise ValueError(
            f"model.attention={name_of(readers[0])} reads a vector per distance: set model.position=relative"
        )
    if describes and not readers:
        able = ", ".join(name for name, variant in ATTENTIONS.items() if variant.relative)
        raise ValueError(f"model.position=relative is read by no layer here: set model.attention={able}")
    wanted = {
        "rotate": (scheme.rotate is not None, "has no queries and keys that positions could turn"),
        "bias": (adds, "has no scores that positions could be added to"),
        "segments": (packed, "cannot keep packed documents apart (one document a row works)"),
        "causal": (causal, "cannot obey a causal or windowed mask"),
        "prefix": (config.prompt is not None, "has no room for model.prompt before the tokens"),
    }
    for options in config.kinds:
        for what, (needed, why) in wanted.items():
            if needed and not getattr(variant_of(options), what):
                able = ", ".join(name for name, variant in ATTENTIONS.items() if getattr(variant, what))
                fit = f"model.attention can be {able}"
                if what in ("rotate", "bias"):
                    fit = f"use model.position=learned, or {fit}"
                raise ValueError(f"model.attention={name_of(options)} {why}: {fit}")


def explain(config: EncoderConfig, platform: str, *, length: int | None = None) -> str:
    """What each kind of layer trains with on that platform, for rows of that length, and why, in one line."""
    found = []
    for options in config.kinds:
        what = name_of(options)
        if isinstance(options, Full | Window):
            request = Request(
                platform=platform,
                dtype=config.dtype,
                length=length or config.max_length,
                head_size=config.key_size,
                dropout=config.attention_dropout,
                bias=scheme_of(config.position).module.bias is not Position.bias,
                window=isinstance(options, Window),
                ring=isinstance(options, Full) and sharding.in_ring(),
            )
            what += " by {} ({})".format(*choose(options.backend, request))
        found.append(what)
    return ", ".join(found)
