"""Tokenizers between here and `transformers`: any published folder to a tokenizer of ours, and any of ours to a folder.

What is written is read by `AutoTokenizer` of versions 4 and 5 alike:
tokenizer.json           the tokenizer itself; one of SentencePiece becomes one of the `tokenizers` library
tokenizer_config.json    the class, the special tokens, the inputs of the model
special_tokens_map.json  the special tokens once more, for older readers
vocab.txt                where the tokenizer is BERT's WordPiece and nothing else

The class is BertTokenizer where that builds the same tokenizer from its vocabulary, else PreTrainedTokenizerFast,
which takes tokenizer.json as it is: version 5 builds DeBERTa's and others anew, and not as they were trained.

One difference is deliberate: a special token that is written out in a text is text here. There it becomes the special
token, unless split_special_tokens=True is given.
"""

import json
import os
from typing import Any

from bertjax.data.fast_tokenizer import FastTokenizer, Special
from bertjax.data.files import replace_file
from bertjax.data.sentencepiece_model import read_pieces, sentencepiece_json
from bertjax.data.subword import Tokenizer
from bertjax.data.tokenizer_files import load

__all__ = ["read_tokenizer", "write_tokenizer"]

# Families whose models take no types of segments; FNet takes no mask.
WITHOUT_TYPES = (
    "camembert", "distilbert", "longformer", "modernbert", "mpnet", "roberta", "xlm-roberta",
)  # fmt: skip
WITHOUT_MASK = ("fnet",)


def read_tokenizer(folder: str) -> Tokenizer:
    """The tokenizer of a published model, whatever files it is in."""
    return load(folder)


def write_tokenizer(
    tokenizer: Tokenizer, folder: str, *, family: str | None = None, length: int | None = None
) -> None:
    """Writes the files with which `AutoTokenizer` gives the same tokens; `length` is the longest row of the model."""
    fast = as_fast(tokenizer)
    described = json.loads(fast.files["tokenizer.json"])
    special = {f"{role}_token": name for role, name in fast.roles().items()}
    inputs = ["input_ids"]
    inputs += [] if family in WITHOUT_TYPES else ["token_type_ids"]
    inputs += [] if family in WITHOUT_MASK else ["attention_mask"]
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **special,
        "model_input_names": inputs,
        "clean_up_tokenization_spaces": False,
    }
    if length is not None:
        config["model_max_length"] = length
    os.makedirs(folder, exist_ok=True)
    if is_berts(described, fast):
        normalizer = described["normalizer"]
        config |= {
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": normalizer["lowercase"],
            "strip_accents": normalizer["strip_accents"],
            "tokenize_chinese_chars": normalizer["handle_chinese_chars"],
        }
        names = fast.tokens(range(fast.vocabulary.size))
        replace_file(os.path.join(folder, "vocab.txt"), "".join(f"{name}\n" for name in names).encode())
    replace_file(os.path.join(folder, "tokenizer.json"), fast.files["tokenizer.json"])
    for name, data in {"tokenizer_config.json": config, "special_tokens_map.json": special}.items():
        text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
        replace_file(os.path.join(folder, name), text.encode())


def as_fast(tokenizer: Tokenizer) -> FastTokenizer:
    """The same tokenizer as a tokenizer.json."""
    if isinstance(tokenizer, FastTokenizer):
        return tokenizer
    pieces = read_pieces(tokenizer.files["spm.model"])
    names = {role: name for role, name in tokenizer.roles().items() if name is not None}
    return FastTokenizer({"tokenizer.json": sentencepiece_json(pieces, Special(names)).encode()})


def is_berts(described: dict[str, Any], fast: FastTokenizer) -> bool:
    """Whether the class BertTokenizer builds this from vocab.txt and the settings of its normaliser."""
    model, added = described["model"], described["added_tokens"]
    if fast.kind != "wordpiece" or fast.roles() != {role: f"[{role.upper()}]" for role in fast.roles()}:
        return False
    numbers = sorted(fast.fast.get_vocab(with_added_tokens=True).values())
    return bool(
        (described["normalizer"] or {}).get("type") == "BertNormalizer"
        and described["normalizer"]["clean_text"]
        and described["pre_tokenizer"].get("type") == "BertPreTokenizer"
        and model["max_input_chars_per_word"] == 100
        and model["continuing_subword_prefix"] == "##"
        and all(token["special"] and token["content"] in fast.roles().values() for token in added)
        and numbers == list(range(len(numbers)))
    )
