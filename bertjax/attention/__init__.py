"""Attention variants: one file each, one line each in the registry below."""

from bertjax.attention.base import Attention, Context, Variant
from bertjax.attention.full import FullAttention
from bertjax.layers.config import AttentionOptions, EncoderConfig, Full

__all__ = [
    "ATTENTIONS",
    "Attention",
    "AttentionOptions",
    "Context",
    "Variant",
    "make_attention",
    "variant_of",
]

ATTENTIONS: dict[str, Variant] = {
    "full": Variant(Full(), FullAttention, exact=Full()),
}


def variant_of(options: AttentionOptions) -> Variant:
    """The registry entry that these options belong to."""
    return next(variant for variant in ATTENTIONS.values() if type(variant.options) is type(options))


def make_attention(config: EncoderConfig, options: AttentionOptions, name: str) -> Attention:
    """The module of the variant that the options name."""
    return variant_of(options).module(config, options, name=name)
