"""Attention variants: one file each, one line each in the registry below."""

from bertjax.attention.base import Attention, Context, Variant
from bertjax.attention.full import FullAttention
from bertjax.layers.config import AttentionOptions, EncoderConfig, Full
from bertjax.layers.position import Position, scheme_of

__all__ = [
    "ATTENTIONS",
    "Attention",
    "AttentionOptions",
    "Context",
    "Variant",
    "check_attention",
    "make_attention",
    "name_of",
    "variant_of",
]

ATTENTIONS: dict[str, Variant] = {
    "full": Variant(Full(), FullAttention, 2_362_368, exact=lambda config: Full()),
}


def variant_of(options: AttentionOptions) -> Variant:
    """The registry entry that these options belong to."""
    return ATTENTIONS[name_of(options)]


def name_of(options: AttentionOptions) -> str:
    """The name in the registry that these options belong to."""
    return next(name for name, variant in ATTENTIONS.items() if type(variant.options) is type(options))


def make_attention(config: EncoderConfig, options: AttentionOptions, name: str) -> Attention:
    """The module of the variant that the options name."""
    return variant_of(options).module(config, options, name=name)


def check_attention(config: EncoderConfig, *, packed: bool = False, causal: bool = False) -> None:
    """Refuses what some layer cannot do: its position scheme, packed rows, a causal mask."""
    scheme = scheme_of(config.position)
    adds = scheme.module.bias is not Position.bias  # nothing but an override adds to the scores
    wanted = {
        "rotate": (scheme.rotate is not None, "has no queries and keys that positions could turn"),
        "bias": (adds, "has no scores that positions could be added to"),
        "segments": (packed, "cannot keep packed documents apart (one document a row works)"),
        "causal": (causal, "cannot obey a causal or windowed mask"),
    }
    for options in dict.fromkeys(config.attention.period()):
        for what, (needed, why) in wanted.items():
            if needed and not getattr(variant_of(options), what):
                able = ", ".join(name for name, variant in ATTENTIONS.items() if getattr(variant, what))
                fit = f"model.attention can be {able}"
                if what in ("rotate", "bias"):
                    fit = f"use model.position=learned, or {fit}"
                raise ValueError(f"model.attention={name_of(options)} {why}: {fit}")
