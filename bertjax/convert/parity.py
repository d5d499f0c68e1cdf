"""Do both worlds compute the same? The report at the end of every import and export.

A fixed batch goes through the model here and, where PyTorch and transformers are installed, through the class of the
published folder: a row of the longest length, a row with padding, both segments in each. The largest difference of
every layer and head, relative to its largest value, must stay below the tolerance. Where the other framework is not
installed a checksum of the outputs is printed instead, for comparing two machines or two versions.
"""

import contextlib
import dataclasses
import hashlib
import importlib.util
import os
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from bertjax.convert.family import Family
from bertjax.convert.source import open_source
from bertjax.data.corpus import Vocabulary
from bertjax.layers.config import EncoderConfig
from bertjax.models.decoder import Decoder

TOLERANCE = 1e-4
LONGEST = 4096  # of rows that are compared; models with longer ones compute nothing else there


@dataclasses.dataclass(frozen=True)
class Probe:
    """The fixed batch."""

    tokens: np.ndarray
    mask: np.ndarray
    types: np.ndarray
    written: np.ndarray
    """What a decoder is told to have written about each row."""


def make_probe(config: EncoderConfig, vocabulary: Vocabulary, pad: int) -> Probe:
    """Two rows of ordinary tokens; `pad` fills the second and stands nowhere else."""
    length = min(config.max_length, LONGEST)
    random = np.random.default_rng(0)
    ordinary = np.flatnonzero(~vocabulary.special[: config.vocab])
    ordinary = ordinary[ordinary != pad]
    real = np.array([length, max(length * 5 // 8, 1)])
    mask = np.arange(length)[None, :] < real[:, None]
    tokens = np.where(mask, random.choice(ordinary, (2, length)), pad).astype(np.int32)
    second = np.arange(length)[None, :] >= real[:, None] // 2
    types = (second & mask & ((config.types or 1) > 1)).astype(np.int32)
    written = random.choice(ordinary, (2, max(length // 2, 1))).astype(np.int32)
    return Probe(tokens, mask, types, written)


@dataclasses.dataclass(frozen=True)
class Outputs:
    """States of the embeddings and of every layer at the real tokens, and what heads gave."""

    states: list[np.ndarray]
    heads: Mapping[str, np.ndarray]


def our_outputs(bundle: Any, probe: Probe) -> Outputs:
    """What a bundle computes."""
    found = bundle.outputs(probe.tokens, probe.mask, probe.types, states=True)
    output = found.pop("encoder")
    states = [np.asarray(state)[probe.mask] for state in output.states]
    states[-1] = np.asarray(output.hidden)[probe.mask]  # behind the last norm, where there is one
    heads = {name: np.asarray(value) for name, value in found.items()}
    for name, head in bundle.model.heads.items():
        if isinstance(head, Decoder):
            heads[name] = bundle.following(name, probe.written, probe.tokens, probe.mask, probe.types)
    return Outputs(states, {"pooled": np.asarray(output.pooled), **heads})


def installed() -> bool:
    """Whether there is something to compare with."""
    return all(importlib.util.find_spec(name) is not None for name in ("torch", "transformers"))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps the other framework from telling of its progress."""
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(before[0])
        if before[1]:
            logging.enable_progress_bar()


def their_outputs(
    folder: str, family: Family, class_name: str, probe: Probe, config: EncoderConfig
) -> Outputs:
    """What the class of a published folder computes; an error where tensors and class do not fit each other."""
    import torch
    import transformers

    with open_source(folder) as source:
        told = family.told(source.config, source.weights)
    offline = os.environ.get("HF_HUB_OFFLINE")
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        with quiet():
            model, info = getattr(transformers, class_name).from_pretrained(
                folder,
                output_loading_info=True,
                dtype=torch.float32,
                attn_implementation=family.implementation,
                **told,
            )
    finally:
        if offline is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = offline
    for kind in ("missing_keys", "mismatched_keys"):
        if info[kind]:
            raise ValueError(
                f"{folder}: {class_name} of transformers finds {kind.replace('_', ' ')}: {sorted(info[kind])[:3]}"
            )
    inputs = {"input_ids": probe.tokens}
    if family.has_mask:
        inputs["attention_mask"] = probe.mask
    if family.has_types:
        inputs["token_type_ids"] = probe.types
    inputs.update(family.inputs(config, probe.mask))
    if family.writes:
        inputs["decoder_input_ids"] = probe.written
    choices = "MultipleChoice" in class_name
    given = {
        name: torch.tensor(np.asarray(x)[None] if choices else np.asarray(x)).long()
        for name, x in inputs.items()
    }
    with torch.no_grad():
        found = model.eval()(**given, output_hidden_states=True, return_dict=True)
    number = lambda tensor: tensor.detach().float().cpu().numpy()  # noqa: E731
    length = probe.tokens.shape[1]  # some classes fill rows up to what their attention needs
    theirs = found.encoder_hidden_states if family.writes else found.hidden_states
    states = [number(state)[:, :length][probe.mask] for state in theirs]
    return Outputs(states, {name: number(value) for name, value in found.items() if hasattr(value, "shape")})


# Where the logits of a head are in their output, the first name that is there.
THEIR_NAMES = {
    "mlm": ("prediction_logits", "logits"),
    "nsp": ("seq_relationship_logits", "logits"),
    "sop": ("sop_logits",),
    "rtd": ("logits",),
    "classify": ("logits",),
    "tag": ("logits",),
    "choose": ("logits",),
    "translate": ("logits",),
}


def pairs(
    ours: Outputs, theirs: Outputs, kinds: Mapping[str, str], probe: Probe, vocab: int
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """(what, ours, theirs) of everything that can be compared; `kinds` tells what each head of ours is."""
    for index, (mine, other) in enumerate(zip(ours.states, theirs.states, strict=True)):
        yield ("embeddings" if index == 0 else f"layer {index}"), mine, other
    if theirs.heads.get("pooler_output") is not None:
        yield "pooled", ours.heads["pooled"], theirs.heads["pooler_output"]
    for name, kind in kinds.items():
        if kind == "embed":
            continue
        mine = ours.heads[name]
        if kind == "answer":
            other = np.stack([theirs.heads["start_logits"], theirs.heads["end_logits"]], axis=-1)
        else:
            other = next(theirs.heads[key] for key in THEIR_NAMES[kind] if key in theirs.heads)
        if kind == "choose":
            other = other.T
        if kind in ("mlm", "translate"):
            mine, other = mine[..., :vocab], other[..., :vocab]
        if kind in ("mlm", "tag", "answer", "rtd"):
            mine, other = mine[probe.mask], other[probe.mask]
        yield name, mine, other


def report(
    bundle: Any, folder: str, family: Family, class_name: str, kinds: Mapping[str, str], pad: int
) -> Iterator[str]:
    """The lines of the report; an error at the end where something is past the tolerance.

    `folder` is the published one, `class_name` that of transformers that reads it.
    """
    probe = make_probe(bundle.config.model, bundle.vocabulary, pad)
    ours = our_outputs(bundle, probe)
    real = int(probe.mask.sum())
    shape = f"{len(probe.tokens)} rows of {probe.tokens.shape[1]}, {real} tokens"
    if not np.isfinite(ours.states[-1]).all():
        raise ValueError(f"{folder}: the model computes NaN here: its weights are damaged")
    if not installed():
        yield f"parity      PyTorch and transformers are not installed: {shape}, checksum {checksum(ours)}"
        return
    import transformers

    theirs = their_outputs(folder, family, class_name, probe, bundle.config.model)
    yield f"parity      with {class_name} of transformers {transformers.__version__}: {shape}"
    worst = "", 0.0
    for what, mine, other in pairs(ours, theirs, kinds, probe, bundle.config.model.vocab):
        assert mine.shape == other.shape, (what, mine.shape, other.shape)
        largest = float(np.abs(mine - other).max())
        relative = largest / max(float(np.abs(other).max()), 1e-6)
        worst = max(worst, (what, relative), key=lambda item: item[1])
        yield f"  {what:<12}largest difference {largest:.1e}, of the largest value {relative:.1e}"
    if not worst[1] <= TOLERANCE:
        raise ValueError(
            f"{folder}: {worst[0]} differs from {class_name} by {worst[1]:.1e} of its largest value, "
            f"more than {TOLERANCE:.0e}: nothing was written"
        )
    yield f"  {'worst':<12}{worst[0]}: {worst[1]:.1e}, tolerance {TOLERANCE:.0e}"


def checksum(outputs: Outputs) -> str:
    """Sixteen digits of the SHA-256 of all numbers, and their mean size."""
    digest = hashlib.sha256()
    for array in (*outputs.states, *(outputs.heads[name] for name in sorted(outputs.heads))):
        digest.update(np.ascontiguousarray(array, np.float32).tobytes())
    return f"{digest.hexdigest()[:16]}, mean size of the last layer {np.abs(outputs.states[-1]).mean():.6f}"
