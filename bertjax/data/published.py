"""The tokenizers of published models: which files they are in, and what was done to a text before its vocabulary.

A folder of Hugging Face says in tokenizer_config.json (tokenizer_class), or in config.json (model_type), of which kind
its tokenizer is. Where there is a tokenizer.json that is the tokenizer; of BERT's kind it yields to the settings of
tokenizer_config.json, as it does there. Otherwise it is built from the vocabulary:

bert         vocab.txt             WordPiece: BERT, DistilBERT, ELECTRA, MobileBERT and others
mpnet        vocab.txt             the same with RoBERTa's special tokens
roberta      vocab.json, merges    byte-level BPE: RoBERTa, Longformer
deberta      vocab.json, merges    the same with BERT's special tokens
albert       spiece.model          SentencePiece, quotes alike, accents and case dropped: ALBERT, FNet, Nystroemformer
xlm-roberta  sentencepiece.bpe.model   its numbers moved by one, for fairseq's four special tokens before them
camembert    sentencepiece.bpe.model   its numbers moved by four
big_bird     spiece.model          as the model has it
deberta-v2   spm.model             as the model has it, [MASK] after it

Names of special tokens are those that the folder tells (special_tokens_map.json, tokenizer_config.json), else those of
the kind. `transformers` 5 rebuilds some tokenizers otherwise than those who trained the models: see `KINDS`.
"""

import dataclasses
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

from bertjax.data.fast_tokenizer import FastTokenizer, Special, wordpiece_json
from bertjax.data.sentencepiece_model import CONTROL, UNKNOWN, SentencePieces, read_pieces, sentencepiece_json
from bertjax.data.subword import ROLES, Tokenizer
from bertjax.data.wire import Damaged
from bertjax.settings import suggest

__all__ = ["VOCABULARIES", "is_published", "load_published", "vocabulary_of"]

# The files that one of the kinds below is built from.
VOCABULARIES = ("vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model", "spm.model")
ROLE_NAMES = ("pad", "unk", "cls", "sep", "mask")

BERT = dict(zip(ROLE_NAMES, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True))
ROBERTA = dict(zip(ROLE_NAMES, ("<pad>", "<unk>", "<s>", "</s>", "<mask>"), strict=True))


@dataclasses.dataclass(frozen=True)
class Kind:
    """How a tokenizer is built from its vocabulary."""

    special: Special
    files: tuple[str, ...]
    build: Callable[["Folder", Special], str]
    defaults: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Folder:
    """A folder and what its two configs say of the tokenizer."""

    path: str
    settings: Mapping[str, Any]
    files: tuple[str, ...] = ()

    def file(self) -> tuple[str, bytes]:
        """The vocabulary that is there."""
        for name in self.files:
            path = os.path.join(self.path, name)
            if os.path.exists(path):
                return path, _content(path)
        raise ValueError(
            f"{self.path} holds no vocabulary: it needs tokenizer.json or {' or '.join(self.files)}"
        )

    def pieces(self) -> tuple[str, SentencePieces]:
        """The SentencePiece model that is there."""
        path, content = self.file()
        try:
            return path, read_pieces(content)
        except Damaged as error:
            raise ValueError(f"{path} is not read ({error}): fetch it again") from None


def is_published(folder: str) -> bool:
    """Whether a folder says of which published kind its tokenizer is."""
    return _class_name(folder) is not None


def load_published(folder: str) -> Tokenizer:
    """The tokenizer of a published model."""
    name = _class_name(folder)
    assert name is not None
    told = _object(os.path.join(folder, "tokenizer_config.json"))
    _check_words(folder, name)
    whole = os.path.join(folder, "tokenizer.json")
    if os.path.exists(whole):
        content = _adapted(whole, _content(whole), told)
    else:
        if name not in KINDS:
            hint = "load it with transformers and save_pretrained it, which writes tokenizer.json"
            raise ValueError(
                f"{folder} has a {name}, which is not built here ({suggest(name, list(KINDS))}): {hint}"
            )
        kind = KINDS[name]
        own = {role: told_name for role, told_name in _told_roles(folder).items() if told_name is not None}
        special = dataclasses.replace(kind.special, names={**kind.special.names, **own})
        source = Folder(folder, {**kind.defaults, **told}, kind.files)
        try:
            content = kind.build(source, special).encode()
        except ValueError as error:
            raise ValueError(str(error) if folder in str(error) else f"{folder}: {error}") from None
    tokenizer = FastTokenizer({"tokenizer.json": content})
    roles = {
        role: name
        for role, name in _told_roles(folder).items()
        if name is not None and tokenizer.token(name) is not None
    }
    found = tokenizer.roles()
    if all(found[role] == name for role, name in roles.items()):
        return tokenizer
    named = json.dumps({**{role: name for role, name in found.items() if name}, **roles}, sort_keys=True)
    return FastTokenizer({"tokenizer.json": content, ROLES: named.encode()})


# ------------------------------------------------------------------------------------- what a folder says


def _content(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror})") from None


def _object(path: str) -> dict[str, Any]:
    """A JSON object; an empty one where there is no file."""
    if not os.path.exists(path):
        return {}
    try:
        found = json.loads(_content(path))
    except (ValueError, RecursionError) as error:
        if str(error).startswith(path):
            raise
        raise ValueError(f"{path} is not JSON ({str(error).splitlines()[0]}): fetch it again") from None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is not a JSON object: fetch it again")
    return found


def _class_name(folder: str) -> str | None:
    """The class of the tokenizer, under the name it has in KINDS where it is there."""
    told = _object(os.path.join(folder, "tokenizer_config.json"))
    config = _object(os.path.join(folder, "config.json"))
    name = told.get("tokenizer_class") or config.get("tokenizer_class")
    general = name in ("PreTrainedTokenizerFast", "TokenizersBackend")
    if isinstance(name, str) and (not general or os.path.exists(os.path.join(folder, "tokenizer.json"))):
        return name.removesuffix("Fast")
    model = config.get("model_type")
    if isinstance(model, str) and model in MODELS:
        return MODELS[model]
    return name if isinstance(name, str) else None


def _told_roles(folder: str) -> dict[str, str | None]:
    """The names of the special tokens that a folder tells."""
    told = {
        **_object(os.path.join(folder, "special_tokens_map.json")),
        **_object(os.path.join(folder, "tokenizer_config.json")),
    }
    found = {}
    for role in ROLE_NAMES:
        value = told.get(f"{role}_token")
        value = value.get("content") if isinstance(value, dict) else value
        found[role] = value if isinstance(value, str) else None
    return found


def _adapted(path: str, content: bytes, told: Mapping[str, Any]) -> bytes:
    """A tokenizer.json with the settings of BERT's normaliser that tokenizer_config.json tells."""
    names = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    described = _object(path)
    normalizer = described.get("normalizer")
    if not isinstance(normalizer, dict) or normalizer.get("type") != "BertNormalizer":
        return content
    changed = {ours: told[theirs] for theirs, ours in names.items() if theirs in told}
    if all(normalizer.get(name) == value for name, value in changed.items()):
        return content
    return json.dumps({**described, "normalizer": {**normalizer, **changed}}, ensure_ascii=False).encode()


def _check_words(folder: str, name: str) -> None:
    """Refuses a tokenizer that cuts text with a dictionary outside of its files."""
    if name in OUTSIDE:
        raise ValueError(
            f"{folder} has a {name}, which cuts words with {OUTSIDE[name]} and so is not read here: "
            f"cut the text with it first, and give token numbers"
        )


# ------------------------------------------------------------------------------------- how they are built


def vocabulary_of(name: str, content: bytes) -> dict[str, int]:
    """The numbers of the tokens of a vocab.txt, one a line."""
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{name} line {line}: not UTF-8, so not a vocabulary of tokens: give another file"
        ) from None
    tokens = [line.rstrip("\r") for line in (lines[:-1] if not lines[-1] else lines)]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    if len(vocabulary) < len(tokens):
        twice = next(token for number, token in enumerate(tokens) if vocabulary[token] != number)
        raise ValueError(
            f"{name} has the token {twice!r} twice: token numbers would not be unique, mend the file"
        )
    return vocabulary


def _wordpiece(folder: Folder, special: Special) -> str:
    path, content = folder.file()
    vocabulary = vocabulary_of(path, content)
    settings = folder.settings
    lowercase = settings.get("do_lower_case")
    if lowercase is None:  # as its tokens show
        lowercase = not any(
            token != token.lower() for token in vocabulary if not token.startswith(("[", "<"))
        )
    return wordpiece_json(
        vocabulary, lowercase=bool(lowercase), split_cjk=settings.get("tokenize_chinese_chars", True) is not False,
        strip_accents=settings.get("strip_accents"), special=special,
    )  # fmt: skip


def _byte_bpe(folder: Folder, special: Special) -> str:
    from tokenizers import Tokenizer as Fast
    from tokenizers import decoders, models, pre_tokenizers

    path, _ = folder.file()
    merges_path = os.path.join(folder.path, "merges.txt")
    lines = _content(merges_path).decode(errors="replace").split("\n")
    pairs = []
    for line in lines:
        if line and not line.startswith("#version"):
            left, *right = line.rstrip("\r").split(" ")
            if len(right) != 1:
                raise ValueError(
                    f"{merges_path} has a line that is no pair of pieces ({line[:40]!r}): fetch it again"
                )
            pairs.append((left, right[0]))
    vocabulary = _object(path)
    if not vocabulary or not all(
        type(number) is int and 0 <= number < 1 << 31 for number in vocabulary.values()
    ):
        raise ValueError(f"{path} does not number tokens: fetch it again")
    fast = Fast(models.BPE(vocabulary, pairs))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(
        add_prefix_space=bool(folder.settings.get("add_prefix_space", False))
    )
    fast.decoder = decoders.ByteLevel()
    special.add_to(fast)
    return str(fast.to_str(pretty=True))


def _albert(folder: Folder, special: Special) -> str:
    """Quotes alike, accents off, lower case; digits keep no comma: a piece like "9," is split before it."""
    from tokenizers import normalizers, pre_tokenizers

    _, model = folder.pieces()
    pieces = tuple(
        (name, score - 100 if len(name) > 1 and name[-1] == "," and name[-2].isdigit() else score)
        for name, score in model.pieces
    )
    before: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
    if not folder.settings["keep_accents"]:
        before += [normalizers.NFKD(), normalizers.StripAccents()]
    if folder.settings["do_lower_case"]:
        before.append(normalizers.Lowercase())
    model = dataclasses.replace(model, pieces=pieces)
    return sentencepiece_json(model, special, before=before, split=[pre_tokenizers.WhitespaceSplit()])


def _moved(folder: Folder, special: Special, first: list[tuple[str, float]], dropped: int) -> str:
    """A model whose pieces, but for the first few, are numbered behind others; the mask is the last."""
    from tokenizers import pre_tokenizers

    _, model = folder.pieces()
    pieces = (*first, *model.pieces[dropped:], (special.names["mask"], 0.0))
    unknown = [name for name, _ in first].index(special.names["unk"])
    kinds = (*[CONTROL] * len(first), *model.kinds[dropped:], CONTROL)
    kinds = (*kinds[:unknown], UNKNOWN, *kinds[unknown + 1 :])
    moved = dataclasses.replace(model, pieces=pieces, kinds=kinds)
    return sentencepiece_json(moved, special, split=[pre_tokenizers.WhitespaceSplit()])


def _xlm_roberta(folder: Folder, special: Special) -> str:
    return _moved(folder, special, [(name, 0.0) for name in ("<s>", "<pad>", "</s>", "<unk>")], 3)


def _camembert(folder: Folder, special: Special) -> str:
    first = [
        ("<s>NOTUSED", 0.0),
        ("<pad>", 0.0),
        ("</s>NOTUSED", 0.0),
        ("<unk>", 0.0),
        ("<unk>NOTUSED", -100.0),
    ]
    return _moved(folder, special, first, 1)


def _as_it_is(folder: Folder, special: Special) -> str:
    from tokenizers import normalizers, pre_tokenizers

    _, model = folder.pieces()
    before = [normalizers.Lowercase()] if folder.settings.get("do_lower_case") else []
    split: list[Any] = []
    if folder.settings.get("split_by_punct"):  # each mark is a word, and the space between two is none
        split = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")]
    return sentencepiece_json(model, special, before=before, split=split)


_PIECES = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
_ALBERT = Kind(
    Special(_PIECES, greedy_mask=True),
    ("spiece.model",),
    _albert,
    {"keep_accents": False, "do_lower_case": True},
)
_BERT = Kind(Special(BERT), ("vocab.txt",), _wordpiece)

# By the class that transformers has for them.
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        [
            f"{name}Tokenizer"
            for name in ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "SqueezeBert")
        ],
        _BERT,
    ),
    "MPNetTokenizer": Kind(
        Special({**ROBERTA, "unk": "[UNK]"}, separators=2, greedy_mask=True), ("vocab.txt",), _wordpiece
    ),
    **dict.fromkeys(
        ("RobertaTokenizer", "LongformerTokenizer"),
        Kind(Special(ROBERTA, separators=2, greedy_mask=True), ("vocab.json",), _byte_bpe),
    ),
    "DebertaTokenizer": Kind(Special(BERT, greedy_mask=True), ("vocab.json",), _byte_bpe),
    "AlbertTokenizer": _ALBERT,
    "FNetTokenizer": dataclasses.replace(_ALBERT, defaults={"keep_accents": True, "do_lower_case": False}),
    "XLMRobertaTokenizer": Kind(
        Special(ROBERTA, separators=2, greedy_mask=True), ("sentencepiece.bpe.model",), _xlm_roberta
    ),
    "CamembertTokenizer": Kind(
        Special(ROBERTA, separators=2, greedy_mask=True), ("sentencepiece.bpe.model",), _camembert
    ),
    "BigBirdTokenizer": Kind(Special(_PIECES, greedy_mask=True), ("spiece.model",), _as_it_is),
    "DebertaV2Tokenizer": Kind(Special(BERT), ("spm.model", "spiece.model"), _as_it_is),
}

# What needs more than its files.
OUTSIDE = {
    "RoFormerTokenizer": "the dictionary of jieba",
    "BertJapaneseTokenizer": "MeCab or Sudachi",
}

# By model_type, where no class is told.
MODELS = {
    **dict.fromkeys(
        ("bert", "distilbert", "electra", "mobilebert", "convbert", "squeezebert"), "BertTokenizer"
    ),
    "mpnet": "MPNetTokenizer",
    **dict.fromkeys(("roberta", "longformer"), "RobertaTokenizer"),
    "deberta": "DebertaTokenizer",
    **dict.fromkeys(("albert", "nystromformer", "yoso"), "AlbertTokenizer"),
    "fnet": "FNetTokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
    "camembert": "CamembertTokenizer",
    "big_bird": "BigBirdTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "modernbert": "PreTrainedTokenizer",
    "roformer": "RoFormerTokenizer",
}
