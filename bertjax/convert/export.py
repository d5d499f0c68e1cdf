"""Writing a published folder to its end: files, read back and compared, or nothing."""

import contextlib
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from bertjax.convert.card import model_card
from bertjax.convert.model import Model, heads_of
from bertjax.convert.parity import report
from bertjax.convert.reading import read_model
from bertjax.convert.source import encoder_folder, open_source
from bertjax.convert.tokenizer import read_tokenizer, write_tokenizer
from bertjax.convert.writing import (
    Plan,
    plan_writing,
    write_config,
    write_sentence_modules,
    write_tensors,
)
from bertjax.data.files import check_new, new_folder
from bertjax.data.subword import Tokenizer

# Texts that a tokenizer is held against itself with: case, accents, scripts without spaces, emoji, spaces, long words.
HARD = (
    "A text, isn't it?",
    "ÀÉÎ naïve \u0301",
    "今日は 漢字ABC",
    "🤗🏳️‍🌈",
    "  two  spaces\t",
    "a" * 120,
    "[MASK] <mask>",
)


def export(
    bundle: Any, out: str, *, workdir: str, family: str | None = None, heads: Sequence[str] = ()
) -> Iterator[str]:
    """Writes a bundle as a published folder; the lines say what was done. Nothing is left where it fails."""
    check_new(out)
    plan = plan_writing(bundle.opened(), family=family, heads=heads)
    config = bundle.config
    yield f"exporting   {plan.class_name} of the family {plan.family.name}, {len(plan.tensors())} tensors"
    yield from (f"note        {note}" for note in plan.notes)
    with new_folder(out) as folder:
        write_config(plan, folder)
        write_tensors(plan, folder / "model.safetensors")
        if plan.model.tokenizer is not None:
            longest = config.model.max_length
            write_tokenizer(plan.model.tokenizer, str(folder), family=plan.family.name, length=longest)
            compare_tokenizers(plan.model.tokenizer, read_tokenizer(str(folder)), str(folder))
        if plan.embed is not None:
            write_sentence_modules(plan.embed, config.model.width, config.data.length, folder)
        card = model_card(plan, name=pathlib.Path(out).name, workdir=workdir, step=bundle.step)
        (folder / "README.md").write_text(card, encoding="utf-8")
        with open_source(str(folder)) as source:
            compare(plan, read_model(source, plan.model.tokenizer), str(folder))
        yield f"read back   {len(plan.model.shapes)} parameters, every bit the same"
        kinds = {n: k for n, (k, _) in heads_of(bundle.model).items() if not heads or n in heads}
        pad = plan.config.get("pad_token_id") or 0
        yield from report(bundle, str(folder), plan.family, plan.class_name, kinds, pad)


def compare_tokenizers(tokenizer: Tokenizer, back: Tokenizer, folder: str) -> None:
    """Holds the tokenizer that was written against the one there is."""
    names = tokenizer.tokens(range(tokenizer.vocabulary.size))
    pairs = [(text, None) for text in HARD] + [(HARD[0], HARD[-1])]
    same = back.tokens(range(back.vocabulary.size)) == names
    for first, second in pairs if same else ():
        ours, theirs = tokenizer.encode_pair(first, second), back.encode_pair(first, second)
        same = same and all(map(np.array_equal, ours, theirs))
    if not same:
        raise ValueError(
            f"{folder}: the tokenizer ({tokenizer.kind}) does not come back as it is: it cannot be exported"
        )


@contextlib.contextmanager
def readable(bundle: Any, path: str) -> Iterator[str]:
    """The folder that the other framework can read: a published one, or what Google's is when it is exported."""
    if bundle.about.get("files") != "tensorflow":
        yield encoder_folder(path)
        return
    with tempfile.TemporaryDirectory(prefix="bertjax-") as folder:
        plan = plan_writing(bundle.opened())
        write_config(plan, pathlib.Path(folder))
        write_tensors(plan, pathlib.Path(folder) / "model.safetensors")
        yield folder


def compare(plan: Plan, back: Model, folder: str) -> None:
    """Holds what was written against what there is."""
    config = plan.model.config.model
    for path in plan.model.shapes:
        wanted = plan.model.read(path)
        if path.startswith("encoder/pooler/") and path not in back.shapes and not wanted.any():
            continue  # zeros stand for none
        found = back.read(path) if path in back.shapes else None
        rows = (
            config.vocab
            if path.split("/")[-1] in ("tokens", "table", "bias") and len(wanted) == config.rows
            else None
        )
        if found is None or not np.array_equal(found[:rows], wanted[:rows]):
            raise ValueError(f"{folder}: {path} was not written as it is: is the disk sound?")
