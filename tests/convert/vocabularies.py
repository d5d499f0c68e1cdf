"""Small tokenizers of every published kind, trained here and written as their makers publish them."""

import functools
import io
import json
import pathlib
import pydoc_data.topics
import unicodedata
from collections.abc import Callable, Iterator

import sentencepiece

# Accents, scripts from right to left, Chinese and Japanese, emoji, control characters, very long words, odd spaces.
HARD = [
    "Hello, world! It's 3.14, isn't it?",
    "Café naïve ÀÉÎÕÜ ñ ﬁnal ½ ²",
    "e\u0301 combining n\u0303 marks",
    "東京は日本の首都です。 中文字符测试",
    "한국어 문장",
    "emoji 😀👍🏽 👩‍👩‍👧 ok",
    "tab\tnew\nline\r\x00\x01\u200b\u200d zero",
    "x" * 300,
    "a " + "pneumono" * 30,
    "שלום עולם مرحبا بالعالم",
    "``quoted'' \"text\" ''a``",
    "  leading and   inner  ",
    "1,000,000 9, 10, 2,5",
    "ｆｕｌｌ ｗｉｄｔｈ Ⅳ ①",
    "",
    " ",
    "ß ſ İ ı Σς",
    "don't-stop_me.now/ok\\back",
    "\u2581 low ▁▁ line",
    "no\u00a0break \u3000ideographic",
    "The class statement defines a new object.",
]
LITERAL = ["[CLS] [MASK]<s></s><mask><pad> [SEP]<unk>[UNK]", "a[SEP]b", "<mask>", "[MASK] , </s>"]


@functools.cache
def lines() -> tuple[str, ...]:
    topics = sorted(pydoc_data.topics.topics.items())[:30]
    return (
        tuple(line for _, text in topics for line in text.split("\n") if line.strip()) + tuple(HARD[:6]) * 3
    )


@functools.cache
def spm(layout: str, kind: str = "unigram") -> bytes:
    layouts = {
        "albert": dict(
            pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, pad_piece="<pad>", control_symbols=["[CLS]", "[SEP]", "[MASK]"],
            user_defined_symbols=["(", ")", "-"],
        ),
        "fairseq": dict(unk_id=0, bos_id=1, eos_id=2),
        "deberta": dict(
            pad_id=0, bos_id=1, eos_id=2, unk_id=3, pad_piece="[PAD]", bos_piece="[CLS]", eos_piece="[SEP]",
            unk_piece="[UNK]",
        ),
    }  # fmt: skip
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines()), model_writer=model, minloglevel=2, num_threads=2, model_type=kind,
        vocab_size=700, character_coverage=0.9995, **layouts[layout],
    )  # fmt: skip
    return model.getvalue()


def wordpiece(lowercase: bool, special: list[str]) -> list[str]:
    """Special tokens, every character twice, and frequent words and ends of words."""
    text = " ".join([*lines(), *HARD])
    text = unicodedata.normalize("NFD", text.lower()) if lowercase else text
    characters = sorted({char for char in text if not char.isspace() and char.isprintable()} - set("½한"))
    words = sorted({word for word in text.split() if word.isalpha() and len(word) < 12})
    ends = sorted({f"##{word[2:]}" for word in words if len(word) > 3})
    found = [*special, *characters, *(f"##{char}" for char in characters), *words[::3], *ends[::4]]
    return list(dict.fromkeys(found))


@functools.cache
def byte_bpe() -> tuple[dict[str, int], list[str]]:
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(lines(), vocab_size=700, special_tokens=special, show_progress=False)
    model = json.loads(trained.to_str())["model"]
    return model["vocab"], [
        " ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]
    ]


# ------------------------------------------------------------------------------------- folders


def _bert(folder: pathlib.Path, **settings: object) -> None:
    special = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = wordpiece(settings.get("do_lower_case") is not False, special)
    (folder / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    _settings(folder, "bert", "BertTokenizer", **settings)


def _mpnet(folder: pathlib.Path) -> None:
    special = ["<s>", "<pad>", "</s>", "<unk>", "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    names = [*wordpiece(True, special), "<mask>"]
    (folder / "vocab.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    _settings(folder, "mpnet", "MPNetTokenizer", do_lower_case=True)


def _roberta(folder: pathlib.Path) -> None:
    vocabulary, merges = byte_bpe()
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    _settings(folder, "roberta", "RobertaTokenizer")


def _spm(file: str, layout: str, model: str, name: str, **settings: object) -> Callable[[pathlib.Path], None]:
    def write(folder: pathlib.Path) -> None:
        (folder / file).write_bytes(spm(layout))
        _settings(folder, model, name, **settings)

    return write


def _settings(folder: pathlib.Path, model: str, name: str, **settings: object) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": model}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **settings}))


PUBLISHED: dict[str, Callable[[pathlib.Path], None]] = {
    "bert-uncased": lambda folder: _bert(folder, do_lower_case=True),
    "bert-cased": lambda folder: _bert(folder, do_lower_case=False),
    "bert-no-chinese": lambda folder: _bert(folder, do_lower_case=False, tokenize_chinese_chars=False),
    "bert-accents": lambda folder: _bert(folder, do_lower_case=True, strip_accents=False),
    "mpnet": _mpnet,
    "roberta": _roberta,
    "albert": _spm(
        "spiece.model", "albert", "albert", "AlbertTokenizer", do_lower_case=True, keep_accents=False
    ),
    "fnet": _spm("spiece.model", "albert", "fnet", "FNetTokenizer", do_lower_case=False, keep_accents=True),
    "xlm-roberta": _spm("sentencepiece.bpe.model", "fairseq", "xlm-roberta", "XLMRobertaTokenizer"),
    "camembert": _spm("sentencepiece.bpe.model", "fairseq", "camembert", "CamembertTokenizer"),
    "big_bird": _spm("spiece.model", "albert", "big_bird", "BigBirdTokenizer"),
    "deberta-v3": _spm("spm.model", "deberta", "deberta-v2", "DebertaV2Tokenizer", do_lower_case=False),
    "deberta-v2": _spm(
        "spm.model", "deberta", "deberta-v2", "DebertaV2Tokenizer", do_lower_case=True, split_by_punct=True
    ),
}


# ------------------------------------------------------------------------------------- what the makers' code does


def pieces_of(kind: str, text: str) -> Iterator[int]:
    """The numbers that SentencePiece itself gives after what the makers do to a text before it."""
    layout = {
        "xlm-roberta": "fairseq",
        "camembert": "fairseq",
        "deberta-v2": "deberta",
        "deberta-v3": "deberta",
    }
    model = spm(layout.get(kind, "albert"))
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    if kind in ("albert", "fnet"):
        text = " ".join(text.split()).replace("``", '"').replace("''", '"')
    if kind == "albert":
        text = "".join(
            char for char in unicodedata.normalize("NFKD", text) if not unicodedata.combining(char)
        ).lower()
    parts = [text]
    if kind == "deberta-v2":
        parts = _at_punctuation(text.lower())
    for part in parts:
        for number in processor.encode(part):
            if kind == "xlm-roberta":
                yield number + 1 if number else 3
            elif kind == "camembert":
                yield number + 4 if number else 3
            else:
                yield number


def _at_punctuation(text: str) -> list[str]:
    parts = [""]
    for char in text:
        if unicodedata.category(char).startswith("P") or (
            char.isascii() and not char.isalnum() and char.isprintable() and char != " "
        ):
            parts += [char, ""]
        else:
            parts[-1] += char
    return [part for part in parts if part.strip()]
