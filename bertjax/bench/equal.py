"""Variants on equal terms: the feed-forward part grows or shrinks until a block costs what the base's block costs.

Every block has a feed-forward part (the gated unit is one), and its parameters and its operations are linear in its
width F, so two widths tell the third. Long Range Arena (2011.04006) compares at equal parameters, within 10 %; equal
operations are what equal training time asks for.
"""

import dataclasses
from typing import Literal

from bertjax.attention import name_of
from bertjax.bench.block import Rows, price
from bertjax.layers.config import EncoderConfig

Equal = Literal["none", "parameters", "flops"]
STEP = 8  # widths are multiples of it, so that they tile


def match(config: EncoderConfig, base: EncoderConfig, by: Equal, length: int) -> EncoderConfig:
    """The config with the width F at which its blocks cost what the base's do, for rows of that length."""
    if by == "none":
        return config

    def cost(config: EncoderConfig) -> float:
        return getattr(price(config, Rows(length), None), by)

    narrow, wide = (cost(dataclasses.replace(config, feedforward=n * STEP)) for n in (1, 2))
    number = 1 + round((cost(base) - narrow) / (wide - narrow))
    if number < 1:
        raise ValueError(
            f"{name_of(config.attention)} alone has more {by} than a block of the base for {length} tokens: "
            f"leave it out of --variants, or match another length"
        )
    return dataclasses.replace(config, feedforward=number * STEP)
