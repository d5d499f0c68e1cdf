"""Tokenizers: trained the same every time, equal to BERT's reference, and deaf to special tokens in text."""

import itertools
import json
import pathlib
import pickle
import shutil
import unicodedata

import numpy as np
import pytest

from bertjax.data.fast_tokenizer import wordpiece_json
from bertjax.data.subword import SPECIAL, Tokenizer, fit_lengths
from bertjax.data.tokenizer import TokenizerOptions, load, train_tokenizer
from tests.data.corpora import documents, run_python, write_text

KINDS = {"wordpiece": 200, "byte_bpe": 400, "sentencepiece": 80, "sentencepiece_bpe": 80}
FILE = {"wordpiece": "tokenizer.json", "byte_bpe": "tokenizer.json"}
LITERALS = [name for names in SPECIAL.values() for name in names]
SCRIPTS = [
    "Hello, World! It's U.S.A.-style (e.g.) $3.50...",
    "ÀÉÎÕÜ naïve Ångström ŁÓDŹ İstanbul ẞtraße Ǆ",
    "中文字符 and 日本語のカタカナ 한국어 조선말",
    "Русский текст, ещё Ёлка",
    "اللغة العربية، هل؟",
    "हिन्दी में लिखा। ไทยภาษา",
    "tab\tnew\nline\r\nreturn\u00a0nbsp\u2028sep\u200bzero\u200djoin",
    "control\x00\x07\x1f\x7f\ufffd chars \x85 end",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 😀👩\u200d🚀 ﬁ ½ ² 㐀 𠀀 豈",
    "e\u0301 e\u0301\u0327 ñ n\u0303",
    "a" * 99 + " " + "b" * 100 + " " + "c" * 101 + " end",
    "__under_score__ #hash @at `tick` ~tilde^ <tag> [MASK] [UNK] «quote» — dash … 「」。",
    "",
    "   ",
]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Some text with special tokens written out in it, often."""
    texts = documents(300)
    for number, literal in enumerate(LITERALS * 20):
        texts[number % 300].append(f"Here {literal} is{literal}text.")
    return write_text(tmp_path_factory.mktemp("text") / "text.txt", texts)


@pytest.fixture(scope="module")
def folders(text: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    where = tmp_path_factory.mktemp("trained")
    for kind, vocab in KINDS.items():
        train_tokenizer(options(text, where / kind, kind, vocab))
    return {kind: where / kind for kind in KINDS}


@pytest.fixture(params=KINDS)
def tokenizer(request: pytest.FixtureRequest, folders: dict[str, pathlib.Path]) -> Tokenizer:
    return load(str(folders[request.param]))


def options(
    text: str, out: pathlib.Path, kind: str = "wordpiece", vocab: int = 200, **more: object
) -> TokenizerOptions:
    return TokenizerOptions(input=(text,), out=str(out), kind=kind, vocab=vocab, workers=1, **more)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def elsewhere(text: str, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """All kinds, trained in another process: the order of a hash map is another one in each."""
    where = tmp_path_factory.mktemp("elsewhere")
    run_python(
        "from bertjax.data.tokenizer import *\n"
        f"for kind, vocab in {KINDS!r}.items():\n"
        f"    options = dict(input=({text!r},), out={str(where)!r} + '/' + kind)\n"
        "    train_tokenizer(TokenizerOptions(kind=kind, vocab=vocab, **options))"
    )
    return where


@pytest.mark.parametrize("kind", KINDS)
def test_another_process_trains_the_same_bytes(
    kind: str, folders: dict[str, pathlib.Path], elsewhere: pathlib.Path
) -> None:
    for file in folders[kind].iterdir():
        assert (elsewhere / kind / file.name).read_bytes() == file.read_bytes(), file.name


def test_the_first_numbers_are_the_special_tokens(tokenizer: Tokenizer) -> None:
    vocabulary = tokenizer.vocabulary
    assert tokenizer.tokens(range(5)) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (vocabulary.pad, vocabulary.unk, vocabulary.cls, vocabulary.sep, vocabulary.mask) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert vocabulary.size == len(vocabulary.special) == len(vocabulary.starts_word) in KINDS.values()
    assert np.flatnonzero(vocabulary.special).tolist() == [0, 1, 2, 3, 4]


def test_no_token_is_junk(folders: dict[str, pathlib.Path], text: str) -> None:
    lines = pathlib.Path(text).read_text().lower()
    for name in (folders["wordpiece"] / "vocab.txt").read_text().splitlines()[5:]:
        assert name.removeprefix("##") in lines
    assert (folders["wordpiece"] / "vocab.txt").read_text().count("\n") == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_the_text_cannot_fill_is_an_error(
    kind: str, text: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(
        ValueError, match=r"^vocab=20000 is more than the text can fill.*--vocab=\d+ or less"
    ) as caught:
        train_tokenizer(options(text, tmp_path / "out", kind, 20000))
    assert not (tmp_path / "out").exists()
    fits = int(str(caught.value).split("--vocab=")[1].split()[0])
    assert train_tokenizer(options(text, tmp_path / "out", kind, fits)).vocabulary.size == fits


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_that_does_not_hold_the_characters_is_an_error(
    kind: str, text: str, tmp_path: pathlib.Path
) -> None:
    with pytest.raises(
        ValueError, match=r"^vocab=20 is less than the \d+ (characters|bytes) and special tokens"
    ):
        train_tokenizer(options(text, tmp_path / "out", kind, 20))


def test_the_alphabet_covers_what_it_is_told_to(tmp_path: pathlib.Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(["abc abc abc abd abd"] * 200 + ["xyz"]))
    whole = train_tokenizer(options(str(tmp_path / "text.txt"), tmp_path / "all", vocab=19, coverage=1.0))
    most = train_tokenizer(options(str(tmp_path / "text.txt"), tmp_path / "most", vocab=15, coverage=0.99))
    assert whole.token("x") is not None and whole.token("##z") is not None
    assert most.token("x") is None and most.token("a") is not None
    assert most.encode_batch(["xyz"])[0].tolist() == [most.vocabulary.unk]


def test_the_sample_is_drawn_from_all_of_the_text(tmp_path: pathlib.Path) -> None:
    texts = [[f"{'early' if n < 3000 else 'late'} {n} " + "word " * 100] for n in range(6000)]  # 3 MB
    path = write_text(tmp_path / "text.txt", texts)
    train_tokenizer(options(path, tmp_path / "out", vocab=60, sample_mb=1))
    record = json.loads((tmp_path / "out" / "training.json").read_text())
    assert 0.99e6 < record["sampled_bytes"] <= 1e6 < 3e6 < record["text_bytes"]
    assert 1700 < record["documents"] < 2100


def test_trained_once_for_the_same_text_and_options(
    text: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pathlib.Path(shutil.copy(text, tmp_path / "text.txt"))
    first = train_tokenizer(options(str(path), tmp_path / "out"))
    with monkeypatch.context() as patch:
        patch.setattr("bertjax.data.tokenizer.Pool", None)  # nothing is read
        assert train_tokenizer(options(str(path), tmp_path / "out")).digest == first.digest
    assert "is finished: nothing to do" in capsys.readouterr().out
    with pytest.raises(ValueError, match="holds another tokenizer .vocab: 200 there, 190 here"):
        train_tokenizer(options(str(path), tmp_path / "out", vocab=190))
    path.touch()
    monkeypatch.setattr("bertjax.data.tokenizer.Pool", None)  # read, but not trained on
    assert train_tokenizer(options(str(path), tmp_path / "out")).digest == first.digest
    path.write_text(path.read_text().replace("and", "und"))
    with pytest.raises(ValueError, match=r"was made before .*text\.txt changed: choose another out"):
        train_tokenizer(options(str(path), tmp_path / "out"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match="is not empty and holds no trained tokenizer"):
        train_tokenizer(options(str(path), tmp_path / "full"))
    assert (tmp_path / "full" / "thesis.tex").exists()


def test_options_without_sense(text: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "empty.txt").write_text("\n\n")
    for refused, message in {
        options(text, tmp_path / "out", vocab=5): "vocab=5 leaves no room",
        options(text, tmp_path / "out", coverage=0.0): "coverage=0.0 is not a share",
        options(text, tmp_path / "out", sample_mb=0): "sample_mb=0: it must be at least 1",
        options(text, tmp_path / "empty.txt"): "is a file",
        options(str(tmp_path / "empty.txt"), tmp_path / "out"): "no document to train on",
        TokenizerOptions(input=(text,)): "no out given",
    }.items():
        with pytest.raises(ValueError, match=message):
            train_tokenizer(refused)
    assert not (tmp_path / "out").exists()


# ------------------------------------------------------------------------------------- one interface


def test_special_tokens_in_text_are_text(tokenizer: Tokenizer) -> None:
    texts = [f"a {name} b{name}c" for name in LITERALS] + [" ".join(LITERALS), *LITERALS]
    texts += [name.upper() for name in LITERALS] + [name.lower() for name in LITERALS]
    vocabulary = tokenizer.vocabulary
    allowed = {vocabulary.unk}  # a character that the training text did not have is unknown
    for tokens in [
        *tokenizer.encode_batch(texts),
        *(tokens for tokens, _ in tokenizer.encode_with_offsets(texts)),
    ]:
        assert len(tokens)
        assert not (set(np.flatnonzero(vocabulary.special)) - allowed) & set(tokens.tolist())
    tokens, _ = tokenizer.encode_pair(" ".join(LITERALS), LITERALS[-1])
    assert np.isin(tokens, [vocabulary.cls, vocabulary.sep]).sum() == 3 and vocabulary.mask not in tokens


def test_encoding_in_batches_and_one_by_one(tokenizer: Tokenizer) -> None:
    texts = [" ".join(document) for document in documents(20, seed=5)] + [""]
    flat, lengths = tokenizer.encode_flat(texts)
    batch = tokenizer.encode_batch(texts)
    assert [len(tokens) for tokens in batch] == lengths.tolist() and lengths[-1] == 0
    np.testing.assert_array_equal(np.concatenate(batch), flat)
    for text, tokens in zip(texts, batch, strict=True):
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal(tokens, tokenizer.encode_batch([text])[0])
        assert tokenizer.decode(tokens).replace(" ", "") == text.lower().replace(" ", "")
        assert [tokenizer.token(name) for name in tokenizer.tokens(tokens)] == tokens.tolist()
    assert tokenizer.encode_batch([]) == []


def test_offsets_point_into_the_text(tokenizer: Tokenizer) -> None:
    texts = ["Stand by the Water, and the other!", "Ünder wÄter  land"]
    for text, (tokens, offsets) in zip(texts, tokenizer.encode_with_offsets(texts), strict=True):
        np.testing.assert_array_equal(tokens, tokenizer.encode_batch([text])[0])
        assert offsets.shape == (len(tokens), 2) and (np.diff(offsets[:, 0]) >= 0).all()
        covered = "".join(text[start:stop] for start, stop in np.unique(offsets, axis=0))
        assert covered.replace(" ", "") == text.replace(" ", "")
        for name, token, (start, stop) in zip(tokenizer.tokens(tokens), tokens, offsets, strict=True):
            if token != tokenizer.vocabulary.unk and text.isascii():
                assert text[start:stop].strip().lower() == name.strip("#▁Ġ")


def test_where_words_start(tokenizer: Tokenizer) -> None:
    text = " ".join(documents(1, seed=9)[0])
    [(tokens, offsets)] = tokenizer.encode_with_offsets([tokenizer.word_prefix + text])
    starts = tokenizer.vocabulary.starts_word[tokens]
    assert not starts.all()
    if tokenizer.kind == "wordpiece":  # punctuation is a word of its own
        text = text.translate({ord(mark): f" {mark}" for mark in ".!?"})
    assert starts.sum() == len(text.split())
    assert tokenizer.vocabulary.starts_word[:5].all()


def test_pairs(tokenizer: Tokenizer) -> None:
    first, second = (
        tokens.tolist() for tokens in tokenizer.encode_batch(["the old water", "stand by the other land"])
    )
    tokens, types = tokenizer.encode_pair("the old water")
    assert tokens.tolist() == [2, *first, 3] and not types.any()
    tokens, types = tokenizer.encode_pair("the old water", "stand by the other land")
    assert tokens.tolist() == [2, *first, 3, *second, 3]
    assert types.tolist() == [0] * (len(first) + 2) + [1] * (len(second) + 1)
    assert len(second) > len(first) > 3
    for length in range(5, len(tokens) + 2):
        short, types = tokenizer.encode_pair("the old water", "stand by the other land", length=length)
        assert len(short) == min(length, len(tokens)) == len(types)
        one, two = (part.tolist() for part in np.split(short, [int((types == 0).sum())]))
        assert one == [2, *first[: len(one) - 2], 3] and two == [*second[: len(two) - 1], 3]
        # The longer one gives way, and no more than it must.
        assert len(one) - 2 == min(len(first), (len(short) - 3) // 2) or len(two) - 1 == len(second)
    assert tokenizer.encode_pair("the old water", length=4)[0].tolist() == [2, *first[:2], 3]
    with pytest.raises(ValueError, match="length=4 leaves no room for text: use 5 or more"):
        tokenizer.encode_pair("a", "b", length=4)


def test_lengths_that_fit_are_those_of_the_library() -> None:
    from tokenizers import Tokenizer as Fast
    from tokenizers import models, pre_tokenizers

    fast = Fast(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    fast.pre_tokenizer = pre_tokenizers.Whitespace()
    for first, second, room in itertools.product(range(7), range(7), range(2, 14)):
        fast.enable_truncation(room)
        ids = fast.encode("a " * first, "b " * second).ids
        assert fit_lengths([first, second], room, room) == [ids.count(0), ids.count(1)], (first, second, room)


def test_decoding_special_tokens(tokenizer: Tokenizer) -> None:
    tokens, _ = tokenizer.encode_pair("the water", "the land")
    assert tokenizer.decode(tokens).split() == ["the", "water", "the", "land"]
    shown = tokenizer.decode(tokens, special=True)
    assert shown.replace(" ", "") == "[CLS]thewater[SEP]theland[SEP]"


def test_saved_sent_and_loaded_it_is_the_same(tokenizer: Tokenizer, tmp_path: pathlib.Path) -> None:
    tokenizer.save(str(tmp_path / "copy"))
    text = " ".join(documents(1, seed=2)[0])
    for other in (load(str(tmp_path / "copy")), pickle.loads(pickle.dumps(tokenizer))):
        assert other.digest == tokenizer.digest and other.kind == tokenizer.kind
        np.testing.assert_array_equal(other.encode_batch([text])[0], tokenizer.encode_batch([text])[0])


# ------------------------------------------------------------------------------------- BERT's reference


def reference(text: str, vocabulary: dict[str, int], *, lowercase: bool) -> list[int]:
    """BERT's tokenisation as its paper and README describe it, written for clarity."""

    def is_space(char: str) -> bool:
        return char in " \t\n\r" or unicodedata.category(char) == "Zs"

    def is_control(char: str) -> bool:
        return char not in "\t\n\r" and unicodedata.category(char) in ("Cc", "Cf")

    def is_punctuation(char: str) -> bool:
        ascii_mark = char.isascii() and char.isprintable() and not char.isalnum() and char != " "
        return ascii_mark or unicodedata.category(char).startswith("P")

    def is_chinese(char: str) -> bool:
        blocks = [
            (0x4E00, 0x9FFF),
            (0x3400, 0x4DBF),
            (0x20000, 0x2A6DF),
            (0x2A700, 0x2B73F),
            (0x2B740, 0x2B81F),
        ]
        blocks += [(0x2B820, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F)]
        return any(first <= ord(char) <= last for first, last in blocks)

    clean = "".join(
        " " if is_space(char) else char for char in text if char not in "\0\ufffd" and not is_control(char)
    )
    spaced = "".join(f" {char} " if is_chinese(char) else char for char in clean)
    pieces = []
    for word in spaced.split():
        if lowercase:
            lower = unicodedata.normalize("NFD", word.lower())
            word = "".join(char for char in lower if unicodedata.category(char) != "Mn")
        pieces += "".join(f" {char} " if is_punctuation(char) else char for char in word).split()
    tokens = []
    for piece in pieces:
        start, found = 0, []
        while start < len(piece) and len(piece) <= 100:
            names = (("##" if start else "") + piece[start:end] for end in range(len(piece), start, -1))
            name = next((name for name in names if name in vocabulary), None)
            if name is None:
                break
            found.append(vocabulary[name])
            start += len(name) - (2 if start else 0)
        whole = start == len(piece) and len(piece) <= 100
        tokens += found if whole else [vocabulary["[UNK]"]]
    return tokens


@pytest.mark.parametrize("lowercase", [True, False])
@pytest.mark.parametrize("suffix", ["vocab.txt", "tokenizer.json"])
def test_wordpiece_is_berts(tmp_path: pathlib.Path, lowercase: bool, suffix: str) -> None:
    joined = " ".join(SCRIPTS)
    decomposed = unicodedata.normalize("NFD", joined.lower())
    characters = sorted(
        {char for char in joined + joined.lower() + decomposed if not char.isspace()} - set("豈½")
    )
    names = [names[0] for names in SPECIAL.values()]
    names += (
        characters + [f"##{char}" for char in characters] + ["hello", "##llo", "aa", "##aa", "##bb", "##cc"]
    )
    vocabulary = {name: number for number, name in enumerate(names)}
    if suffix == "vocab.txt":
        (tmp_path / suffix).write_text("\n".join(names) + "\n", encoding="utf-8")
    else:
        (tmp_path / suffix).write_text(wordpiece_json(vocabulary, lowercase=lowercase), encoding="utf-8")
    tokenizer = load(str(tmp_path / suffix), lowercase=lowercase)
    for text in SCRIPTS:
        expected = reference(text, vocabulary, lowercase=lowercase)
        assert tokenizer.tokens(tokenizer.encode_batch([text])[0]) == [
            names[number] for number in expected
        ], text


def test_a_bare_vocabulary_tells_its_case(tmp_path: pathlib.Path) -> None:
    special = [names[0] for names in SPECIAL.values()]
    for name, words in {"uncased": ["a", "b"], "cased": ["a", "A", "b", "B"]}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "vocab.txt").write_text("\n".join([*special, "[unused0]", *words]))
    assert load(str(tmp_path / "uncased")).encode_batch(["A B"])[0].tolist() == [6, 7]
    assert load(str(tmp_path / "cased")).encode_batch(["A B"])[0].tolist() == [7, 9]
    assert load(str(tmp_path / "cased"), lowercase=True).encode_batch(["A B"])[0].tolist() == [6, 8]
    (tmp_path / "cased" / "tokenizer_config.json").write_text('{"do_lower_case": true}')
    assert load(str(tmp_path / "cased")).encode_batch(["A B"])[0].tolist() == [6, 8]


def test_files_that_are_no_tokenizers(tmp_path: pathlib.Path) -> None:
    special = "\n".join(names[0] for names in SPECIAL.values())
    contents = {
        "vocab.txt": {
            "a\nb\n": r"the vocabulary has no \[PAD\], .*is it the vocabulary of this model",
            f"{special}\na\na\n": "has the token 'a' twice",
        },
        "tokenizer.json": {"{}": "is not a tokenizer", "no json": "is not a tokenizer"},
        "spm.model": {"no model": "is not a tokenizer"},
        "words.csv": {"a": "is not a tokenizer's file"},
    }
    for name, cases in contents.items():
        for content, message in cases.items():
            (tmp_path / name).write_text(content)
            with pytest.raises(ValueError, match=message) as caught:
                load(str(tmp_path / name))
            assert "\n" not in str(caught.value)
    (tmp_path / "vocab.txt").write_bytes(special.encode() + b"\n\xff\n")
    with pytest.raises(ValueError, match=r"vocab\.txt line 6: not UTF-8"):
        load(str(tmp_path / "vocab.txt"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no tokenizer: it needs one of"):
        load(str(tmp_path / "empty"))
    with pytest.raises(ValueError, match=r"cannot be read \(No such file or directory\): train one"):
        load(str(tmp_path / "nowhere"))


def test_a_model_that_makes_special_tokens_of_text_is_refused(tmp_path: pathlib.Path, text: str) -> None:
    from sentencepiece import SentencePieceTrainer

    SentencePieceTrainer.train(
        input=text, model_prefix=str(tmp_path / "spm"), vocab_size=80, minloglevel=2, pad_id=0, unk_id=1,
        bos_id=2, eos_id=3, pad_piece="<pad>", user_defined_symbols=["<mask>"],
    )  # fmt: skip
    with pytest.raises(ValueError, match="turns '<mask>' in raw text into the special token"):
        load(str(tmp_path / "spm.model"))
