"""Tokenizers of the `tokenizers` library: BERT's WordPiece, byte-level BPE, or others with marked words.

WordPiece is split as in BERT's reference (clean, lower-case and strip accents, Chinese characters apart, white
space, punctuation, longest match first). Compared with it code point by code point over the vocabulary of a
published uncased model, the library differs in three things: characters younger than its Unicode tables,
private-use characters (it drops them), and U+2B820 to U+2B91F, which it does not take for Chinese. The
published fast tokenizers are the same library, so they do likewise.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np

from bertjax.data.corpus import Vocabulary
from bertjax.data.subword import SPECIAL, Tokenizer, fit_lengths

__all__ = ["FastTokenizer", "Special", "wordpiece_json"]

RUN = 64  # texts encoded as one string
RUNS_AT_ONCE = 4  # strings handed to the library in one call: many more of them take more time, too


class FastTokenizer(Tokenizer):
    """A tokenizer.json."""

    def __init__(self, files: dict[str, bytes]) -> None:
        from tokenizers import Tokenizer as Fast

        super().__init__(files)
        self.fast = Fast.from_str(files["tokenizer.json"].decode())
        self.fast.encode_special_tokens = True  # a literal "[MASK]" in a text is five ordinary tokens
        self.fast.no_padding()
        self.fast.no_truncation()
        described = json.loads(files["tokenizer.json"])
        self._model = described["model"]
        parts = list(_parts(described["pre_tokenizer"]))
        kinds = {part["type"]: part for part in parts}
        model = self._model.get("type") or (
            "WordPiece" if "continuing_subword_prefix" in self._model else "BPE"
        )
        if model == "WordPiece":
            self.kind, self._sign, self._continues = (
                "wordpiece",
                self._model["continuing_subword_prefix"],
                True,
            )
        elif "ByteLevel" in kinds:
            self.kind, self._sign, self._continues = "byte_bpe", "Ġ", False
            self.word_prefix = "" if kinds["ByteLevel"]["add_prefix_space"] else " "
        elif "Metaspace" in kinds:
            self.kind, self._sign, self._continues = model.lower(), kinds["Metaspace"]["replacement"], False
        elif any(part.get("content") == "▁" for part in _parts(described.get("normalizer"))):
            self.kind, self._sign, self._continues = (
                model.lower(),
                "▁",
                False,
            )  # spaces are marked, not split at
        else:
            legal = "WordPiece, ByteLevel or Metaspace"
            raise ValueError(
                f"a {model} tokenizer.json that is split by {list(kinds)} is not known: it needs {legal}"
            )

        added = list(self.fast.get_added_tokens_decoder().values())
        self._special = {token.content for token in added if token.special}
        self._plain = _without(self._special, described) if model == "Unigram" else self.fast
        # Special tokens are recognised here: never show it a text in which one of their names stands.
        self._splitting = Fast.from_str(files["tokenizer.json"].decode())
        self._splitting.no_padding()
        self._splitting.no_truncation()
        # Those that are normalised are looked for after the text has been split at the others.
        self._names = [token.content for token in added if not token.normalized]
        exact = not any(
            token.lstrip or token.rstrip or token.single_word for token in added if not token.normalized
        )
        exact = exact and not any(token.special and token.normalized for token in added)
        ends = [name for name in SPECIAL["sep"] if name in self._names]
        # With Unigram and Metaspace what begins a string may be encoded otherwise than what follows a token.
        self._separator = ends[0] if ends and exact and self.kind in ("wordpiece", "byte_bpe") else None

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        named = self.fast.get_vocab(with_added_tokens=True)
        # Numbers may be left out, and a list of pieces may hold a name twice: the highest number counts.
        listed = len(self._model["vocab"]) if isinstance(self._model["vocab"], list) else 0
        size = max(listed, 1 + max(named.values()))
        starts_word = np.zeros(size, bool)
        for name, number in named.items():
            starts_word[number] = name.startswith(self._sign) != self._continues
        added = self.fast.get_added_tokens_decoder()
        return self._vocabulary(
            size, starts_word, [number for number, token in added.items() if token.special]
        )

    def encode_flat(self, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        runs = [list(texts[start : start + RUN]) for start in range(0, len(texts), RUN)]
        parts, lengths = [], []
        for first in range(0, len(runs), RUNS_AT_ONCE):
            for tokens, sizes in self._encode_runs(runs[first : first + RUNS_AT_ONCE]):
                parts.append(tokens)
                lengths.append(sizes)
        return np.concatenate([np.zeros(0, np.int32), *parts]), np.concatenate(
            [np.zeros(0, np.int64), *lengths]
        )

    def _encode_runs(self, runs: list[list[str]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(tokens, tokens of each text) of every run of texts.

        An object for each text costs a fifth of the time. So a run goes in as one string with a [SEP]
        between texts, unless a token's name stands in the texts themselves.
        """
        separator = self._separator
        joined = [separator is not None and not self._named(run) for run in runs]
        whole = [(separator or "").join(run) for run, one in zip(runs, joined, strict=True) if one]
        encoded = iter(self._splitting.encode_batch_fast(whole, add_special_tokens=False))
        for run, one in zip(runs, joined, strict=True):
            if one:
                tokens = np.array(next(encoded).ids, np.int32)
                ends = np.append(np.flatnonzero(tokens == self.vocabulary.sep), len(tokens))
                assert len(ends) == len(run)
                yield tokens[tokens != self.vocabulary.sep], np.diff(ends, prepend=-1) - 1
            else:
                each = [text.ids for text in self._plain.encode_batch_fast(run, add_special_tokens=False)]
                sizes = np.array([len(ids) for ids in each], np.int64)
                yield np.fromiter(chain.from_iterable(each), np.int32, int(sizes.sum())), sizes

    def _named(self, run: list[str]) -> bool:
        text = "\n".join(run)
        return any(name in text for name in self._names)

    def encode_with_offsets(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        encoded = self._plain.encode_batch(list(texts), add_special_tokens=False)
        return [
            (np.array(one.ids, np.int32), np.array(one.offsets, np.int32).reshape(-1, 2)) for one in encoded
        ]

    def encode_pair(
        self, first: str, second: str | None = None, *, length: int | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        texts = [first] if second is None else [first, second]
        encoded = self._plain.encode_batch(texts, add_special_tokens=False)
        if length is not None:
            room = length - self.fast.num_special_tokens_to_add(len(texts) == 2)
            for one, keep in zip(
                encoded, fit_lengths([len(one) for one in encoded], room, length), strict=True
            ):
                one.truncate(keep)
        pair = encoded[1] if len(encoded) == 2 else None
        whole = self.fast.post_process(encoded[0], pair, add_special_tokens=True)
        return np.array(whole.ids, np.int32), np.array(whole.type_ids, np.int32)

    def decode(self, tokens: Iterable[int], *, special: bool = False) -> str:
        return self.fast.decode([int(token) for token in tokens], skip_special_tokens=not special)

    def save(self, folder: str) -> None:
        super().save(folder)
        added = self.fast.get_added_tokens_decoder().values()
        # What every other BERT reads, too; it cannot tell words that are matched as a whole only.
        if self.kind == "wordpiece" and all(token.special for token in added):
            names = self.tokens(range(self.vocabulary.size))
            with open(os.path.join(folder, "vocab.txt"), "w", encoding="utf-8", newline="\n") as file:
                file.writelines(f"{name}\n" for name in names)

    def tokens(self, tokens: Iterable[int]) -> list[str]:
        return [str(self.fast.id_to_token(int(token))) for token in tokens]

    def token(self, name: str) -> int | None:
        return self.fast.token_to_id(name)

    def is_special(self, name: str) -> bool:
        return name in self._special


def _without(special: set[str], described: dict[str, Any]) -> Any:
    """The same Unigram tokenizer without names for its special tokens.

    They are pieces like others to it, with the best of scores: a "[CLS]" written in a text would become one.
    """
    from tokenizers import Tokenizer as Fast

    unwritten = "\U0010fffe\U0010ffff"  # no characters, so in no text
    pieces = [
        [unwritten + name if name in special else name, score] for name, score in described["model"]["vocab"]
    ]
    added = [token for token in described.get("added_tokens", ()) if not token["special"]]
    model = {**described["model"], "vocab": pieces}
    plain = Fast.from_str(
        json.dumps({**described, "model": model, "added_tokens": added, "post_processor": None})
    )
    plain.no_padding()
    plain.no_truncation()
    return plain


def _parts(node: Any) -> Iterable[dict[str, Any]]:
    """A normaliser or pre-tokenizer and those inside it."""
    if isinstance(node, dict):
        yield node
        for inner in (*node.get("pretokenizers", ()), *node.get("normalizers", ())):
            yield from _parts(inner)


@dataclasses.dataclass(frozen=True)
class Special:
    """The special tokens of a tokenizer and how they frame one text or two."""

    names: Mapping[str, str] = dataclasses.field(
        default_factory=lambda: {role: names[0] for role, names in SPECIAL.items()}
    )
    separators: int = 1
    """How many stand between two texts: two in RoBERTa and what came from it, whose texts have one type besides."""
    greedy_mask: bool = False
    """Whether a mask that is written in a text takes the space before it along; that is for other readers."""
    more: tuple[str, ...] = ()
    """Further tokens that stand for no text."""

    def add_to(self, fast: Any) -> None:
        """Adds them to a tokenizer of the library that has them in its vocabulary."""
        from tokenizers import AddedToken, processors

        names = list(dict.fromkeys([*self.names.values(), *self.more]))
        missing = [name for name in names if fast.token_to_id(name) is None]
        if missing:
            raise ValueError(
                f"the vocabulary has no {', '.join(missing)}: is it the vocabulary of this model?"
            )
        mask = self.names["mask"]
        fast.add_special_tokens(
            [
                AddedToken(name, special=True, normalized=False, lstrip=self.greedy_mask and name == mask)
                for name in names
            ]
        )
        cls, sep = self.names["cls"], self.names["sep"]
        second = "$B:1" if self.separators == 1 else "$B"
        end = f"{sep}:1" if self.separators == 1 else sep
        fast.post_processor = processors.TemplateProcessing(
            single=f"{cls} $A {sep}",
            pair=f"{cls} $A {' '.join([sep] * self.separators)} {second} {end}",
            special_tokens=[(name, fast.token_to_id(name)) for name in dict.fromkeys((cls, sep))],
        )


def wordpiece_json(
    vocabulary: dict[str, int],
    *,
    lowercase: bool,
    split_cjk: bool = True,
    strip_accents: bool | None = None,
    special: Special | None = None,
) -> str:
    """The tokenizer.json of BERT's WordPiece: split at white space and punctuation, longest match first.

    Accents go with the case, as in the reference implementation, where `strip_accents` does not say otherwise.
    """
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    special = special or Special()
    fast = Fast(models.WordPiece(vocabulary, unk_token=special.names["unk"], max_input_chars_per_word=100))
    fast.normalizer = normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=split_cjk, strip_accents=strip_accents, lowercase=lowercase
    )
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.decoder = decoders.WordPiece(prefix="##")
    special.add_to(fast)
    return str(fast.to_str(pretty=True))
