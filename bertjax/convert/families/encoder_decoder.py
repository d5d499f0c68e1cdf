"""Two BERTs as one model that writes: BERT2BERT (1907.12461), transformers' EncoderDecoderModel.

config.json holds two of BERT's, `encoder` and `decoder`, and tensors lie under `encoder.` and `decoder.`. Both sides
are of one size here, but for their numbers of layers; the decoder has a table of tokens of its own, unless its tensors
are those of the encoder's.

Deviations: a decoder looks at the encoder with its own width, so that sides of different widths are refused; so is a
decoder that is no BERT.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from bertjax.convert.families.bert import BERT, EMBEDDINGS, ENCODER_ONLY, LAYER, POOLER
from bertjax.convert.family import Architecture, Family, Form, Tensors
from bertjax.convert.fields import Fields, Json, Only, unlike
from bertjax.convert.model import listed
from bertjax.convert.table import TOKENS, Copy, Row, attention, linear, norm
from bertjax.layers.config import EncoderConfig
from bertjax.models.decoder import DecoderHead, DecoderOptions

OURS, THEIRS = "heads_translate", "decoder.bert"
LAST = "decoder.cls.predictions"
TABLE = f"{THEIRS}.embeddings.word_embeddings.weight"
# What makes a BERT a decoder, in place of what its config.json may not say otherwise.
WRITES = (Only("is_decoder", True), Only("add_cross_attention", True))
DECODER = Fields(
    (*(row for row in BERT.fields.rows if row not in ENCODER_ONLY), *WRITES, *ENCODER_ONLY[len(WRITES) :])
)


def side(theirs: Json, name: str) -> Json:
    """The config of one side."""
    found = theirs.get(name)
    if not isinstance(found, Mapping) or found.get("model_type", BERT.name) != BERT.name:
        kind = found.get("model_type") if isinstance(found, Mapping) else found
        raise ValueError(
            f"config.json: the {name} is of the family {kind!r}: both sides must be of the family bert"
        )
    return found


def load(theirs: Json) -> dict[str, Any]:
    """What both sides say; the decoder's tables are tied or not."""
    encoder = BERT.fields.to_config(side(theirs, "encoder"))
    decoder = DECODER.to_config(side(theirs, "decoder"))
    encoder = dataclasses.replace(encoder, tied=decoder.tied)
    different = unlike(dataclasses.replace(decoder, layers=encoder.layers), encoder)
    if different:
        raise ValueError(
            f"config.json: decoder and encoder differ ({listed(different)}), and only their layers may"
        )
    return {field.name: getattr(encoder, field.name) for field in dataclasses.fields(encoder)}


def dump(ours: EncoderConfig) -> dict[str, Any]:
    """Both sides with the same settings."""
    sides = {"encoder": BERT.fields.from_config(ours), "decoder": DECODER.from_config(ours)}
    return {
        **{name: {"model_type": BERT.name, **fields} for name, fields in sides.items()},
        "is_encoder_decoder": True,
    }


def load_head(theirs: Json) -> DecoderHead:
    """The decoder's own settings: none where it has as many layers as the encoder."""
    layers, others = (theirs.get(name, {}).get("num_hidden_layers") for name in ("decoder", "encoder"))
    return DecoderHead(DecoderOptions(layers=None if layers == others else layers))


def dump_head(head: DecoderHead) -> dict[str, Any]:
    """The same in their words."""
    layers = head.decoder.layers
    return {} if layers is None else {"decoder": {"num_hidden_layers": layers}}


def told_head(head: DecoderHead, tensors: Tensors) -> DecoderHead:
    """Which table the decoder reads: its own, unless it equals the encoder's."""
    if (head.decoder.layers or 0) > len(tensors):
        raise ValueError(
            f"{head.decoder.layers} layers of the decoder are more than {len(tensors)} tensors could fill"
        )
    names = [name for name in (TABLE, f"{LAST}.decoder.weight") if name in tensors]
    shared = "encoder.embeddings.word_embeddings.weight"
    if not names or shared not in tensors or np.array_equal(tensors.read(names[0]), tensors.read(shared)):
        return head
    return DecoderHead(dataclasses.replace(head.decoder, table="own"))


def of_decoder(rows: Iterable[Row]) -> tuple[Row, ...]:
    """Rows of an encoder as those of a decoder."""
    found = []
    for row in rows:
        assert isinstance(row.ours, str) and isinstance(row.theirs, str)
        ours = row.ours.replace("encoder/", f"{OURS}/", 1)
        found.append(dataclasses.replace(row, ours=ours, theirs=f"{THEIRS}.{row.theirs}"))
    return tuple(found)


CROSS = f"{THEIRS}.encoder.layer.{{i}}.crossattention"

ENCODER_DECODER = Family(
    name="encoder-decoder",
    classes="EncoderDecoder",
    base="encoder",
    fields=Fields((), load=load, dump=dump),
    architectures={"Model": Architecture((DecoderHead.name,), pooler=True)},
    rows=(
        *EMBEDDINGS,
        *LAYER,
        *POOLER,
        *of_decoder((*EMBEDDINGS, *LAYER)),
        *attention(
            f"{OURS}/{{layer}}/cross",
            query=f"{CROSS}.self.query",
            key=f"{CROSS}.self.key",
            value=f"{CROSS}.self.value",
            output=f"{CROSS}.output.dense",
        ),
        *norm(f"{OURS}/{{layer}}/cross_norm", f"{CROSS}.output.LayerNorm"),
        *linear(f"{OURS}/head/transform", f"{LAST}.transform.dense"),
        *norm(f"{OURS}/head/norm", f"{LAST}.transform.LayerNorm"),
        Row(f"{OURS}/head/bias", f"{LAST}.bias", TOKENS),
        Row(f"{OURS}/head/table", f"{LAST}.decoder.weight", TOKENS),
    ),
    copies=(
        Copy(TABLE, "encoder/embedder/tokens", always=True),
        Copy(f"{LAST}.decoder.weight", "encoder/embedder/tokens"),
        Copy(f"{LAST}.decoder.weight", f"{OURS}/embedder/tokens"),
        Copy(f"{LAST}.decoder.bias", f"{OURS}/head/bias"),
    ),
    forms={DecoderHead.name: Form(load_head, dump_head, told_head)},
    writes=True,
)
