"""`AutoTokenizer` gives the tokens that ours gives, of folders as they are published and of folders written here.

Theirs is told to take special tokens in a text for text, as ours does. From a bare SentencePiece model version 5 of
transformers builds some tokenizers otherwise than SentencePiece, with which tests/convert/test_tokenizer.py compares:
DeBERTa's and BigBird's without the table of the normaliser, FNet's without the start of a first word, ALBERT's with a
new word behind each symbol that the trainer kept whole. So these are compared as written, by us and by them.
"""

import json
import pathlib
from typing import Any

import pytest

from bertjax.convert.tokenizer import read_tokenizer, write_tokenizer
from tests.convert.vocabularies import HARD, LITERAL, PUBLISHED

REBUILT = ("albert", "big_bird", "deberta-v2", "deberta-v3", "fnet")


def compare(folder: pathlib.Path, ours: Any, texts: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert len(theirs) == ours.vocabulary.size
    for role in ("pad", "unk", "cls", "sep", "mask"):
        assert getattr(theirs, f"{role}_token_id") == getattr(ours.vocabulary, role), role
    for number, text in enumerate(texts):
        for second in (
            None,
            "The object, it's new.",
            texts[number - 1] or "a",
        ):  # "" is no second text to theirs
            for length in (None, 9, 12, 15):
                found = theirs(
                    text,
                    second,
                    truncation=length is not None,
                    max_length=length,
                    split_special_tokens=True,
                    return_token_type_ids=True,
                )
                tokens, types = ours.encode_pair(text, second, length=length)
                assert found["input_ids"] == tokens.tolist(), (text, second, length)
                assert found["token_type_ids"] == types.tolist(), (text, second, length)


def literals(kind: str) -> list[str]:
    """Texts with special tokens, which theirs cannot take for text where the pieces are Unigram's."""
    return LITERAL if kind.startswith(("bert", "mpnet", "roberta")) else []


@pytest.mark.parity
@pytest.mark.parametrize("kind", [kind for kind in PUBLISHED if kind not in REBUILT])
def test_published(tmp_path: pathlib.Path, kind: str) -> None:
    PUBLISHED[kind](tmp_path)
    compare(tmp_path, read_tokenizer(str(tmp_path)), [*HARD, *literals(kind)])


@pytest.mark.parity
@pytest.mark.parametrize("kind", PUBLISHED)
def test_written(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    PUBLISHED[kind](tmp_path / "in")
    ours = read_tokenizer(str(tmp_path / "in"))
    model = json.loads((tmp_path / "in" / "config.json").read_text())
    write_tokenizer(ours, str(tmp_path / "out"), family=model["model_type"])
    (tmp_path / "out" / "config.json").write_text(json.dumps(model))
    compare(tmp_path / "out", ours, [*HARD, *literals(kind)])


@pytest.mark.parity
@pytest.mark.parametrize("kind", PUBLISHED)
def test_saved_by_them(tmp_path: pathlib.Path, kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    (tmp_path / "in").mkdir()
    PUBLISHED[kind](tmp_path / "in")
    transformers.AutoTokenizer.from_pretrained(str(tmp_path / "in")).save_pretrained(str(tmp_path / "out"))
    (tmp_path / "out" / "config.json").write_text((tmp_path / "in" / "config.json").read_text())
    compare(tmp_path / "out", read_tokenizer(str(tmp_path / "out")), [*HARD, *literals(kind)])
