"""A vocabulary with more words: old tokens stay, old texts stay, new words are whole."""

import dataclasses
import pathlib
import shutil

import numpy as np
import pytest

from bertjax.data.extend import new_words
from bertjax.data.fast_tokenizer import FastTokenizer
from bertjax.data.prepare import PrepareOptions, prepare
from bertjax.data.tokenizer import TokenizerOptions, load, train_tokenizer
from tests.data.corpora import documents, write_text
from tests.data.test_tokenizer import LITERALS, SCRIPTS

NEW = ("Spectrin", "café", "p53", "kinase", "β")


def domain(count: int = 60) -> list[list[str]]:
    """Old sentences with new words in them."""
    return [
        [f"{text} {NEW[i % 5].upper() if i % 2 else NEW[i % 5]} {NEW[(i + 1) % 5]}, 2019 2019."]
        for i, (text, *_) in enumerate(documents(count, seed=3))
    ]


@pytest.fixture(scope="module")
def options(tokenizer_folder: str, tmp_path_factory: pytest.TempPathFactory) -> TokenizerOptions:
    where = tmp_path_factory.mktemp("domain")
    text = write_text(where / "domain.txt", domain())
    return TokenizerOptions(
        input=(text,), out=str(where / "tokenizer"), extend=tokenizer_folder, vocab=205, workers=1
    )


@pytest.fixture(scope="module")
def pair(options: TokenizerOptions) -> tuple[FastTokenizer, FastTokenizer]:
    """Before and after."""
    assert options.extend is not None
    train_tokenizer(options)
    old, new = load(options.extend), load(options.out)
    assert isinstance(old, FastTokenizer) and isinstance(new, FastTokenizer)
    return old, new


def test_old_tokens_keep_their_numbers_and_new_words_follow(
    pair: tuple[FastTokenizer, FastTokenizer],
) -> None:
    old, new = pair
    assert new.vocabulary.size == 205
    assert new.tokens(range(200)) == old.tokens(range(200))
    assert set(new.tokens(range(200, 205))) == {"spectrin", "cafe", "p53", "kinase", "β"}
    assert new.vocabulary.starts_word[200:].all() and not new.vocabulary.special[200:].any()
    np.testing.assert_array_equal(new.vocabulary.starts_word[:200], old.vocabulary.starts_word)
    np.testing.assert_array_equal(new.vocabulary.special[:200], old.vocabulary.special)


def test_a_text_without_new_words_keeps_its_tokens(pair: tuple[FastTokenizer, FastTokenizer]) -> None:
    old, new = pair
    texts = [sentence for document in documents(200, seed=9) for sentence in document]
    # Words that begin or end with a new one, or hold one, are not that word.
    texts += [text.replace("the", f"{word}s") for word in ("spectrin", "kinase") for text in texts[:50]]
    texts += ["prokinase kinases unspectrined cafes", "kinase2 2kinase p534 a_p53", *SCRIPTS, *LITERALS]
    for mine, theirs in zip(new.encode_batch(texts), old.encode_batch(texts), strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_a_new_word_is_one_token_however_it_is_written(pair: tuple[FastTokenizer, FastTokenizer]) -> None:
    old, new = pair
    number = new.token("spectrin")
    assert number is not None and number >= 200
    for text in ("spectrin", "SPECTRIN", "Spectrín", "(spectrin)", "all-spectrin.", "my spectrin all"):
        (tokens,) = new.encode_batch([text])
        around = old.encode_batch([text.lower().replace("spectrin", "|").replace("spectrín", "|")])[0]
        assert (tokens == number).sum() == 1 and len(tokens) == max(len(around), 1), text
        np.testing.assert_array_equal(new.encode_with_offsets([text])[0][0], tokens)
    # Encoded together or one by one, in runs or with special tokens written out among them.
    texts = ["the spectrin", "spectrin", "kinase [SEP] spectrin", "all"] * 40
    for tokens, text in zip(new.encode_batch(texts), texts, strict=True):
        np.testing.assert_array_equal(tokens, new.encode_batch([text])[0])
    assert new.decode(new.encode_batch(["all spectrin and"])[0]) == "all spectrin and"


def test_words_that_save_most_tokens_come_first(tokenizer_folder: str) -> None:
    old = load(tokenizer_folder)
    assert isinstance(old, FastTokenizer)
    two, many = "countall", "countotherallearest"
    pieces = {word: len(old.encode_batch([word])[0]) for word in (two, many)}
    assert 1 < pieces[two] < pieces[many] - 2
    text = [f"{two} {many} ", f"{two}, {two}. 77 77 77 once [MASK]", "strange zebra's"] + ["7 7 é"] * 9
    found = new_words(old, text, min_frequency=1)
    saved = [(3 if word == two else 1) * max(len(old.encode_batch([word])[0]) - 1, 1) for word in found]
    assert {two, many, "once", "zebra", "mask"} <= set(found) and "77" not in found
    assert all(old.token(word) is None for word in found)
    assert saved == sorted(saved, reverse=True)
    assert new_words(old, text, min_frequency=2) == [two]
    assert new_words(old, ["zebra\u00a0Zebra\tZEBRA\nzébra"], min_frequency=4) == ["zebra"]


def test_the_same_command_finds_it_finished(
    options: TokenizerOptions, pair: tuple[FastTokenizer, FastTokenizer], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train_tokenizer(options).digest == pair[1].digest
    assert "is finished: nothing to do" in capsys.readouterr().out


def test_a_corpus_of_it_can_be_extended_again(
    options: TokenizerOptions, pair: tuple[FastTokenizer, FastTokenizer], tmp_path: pathlib.Path
) -> None:
    corpus = prepare(PrepareOptions(input=options.input, tokenizer=options.out, out=str(tmp_path / "corpus")))
    assert corpus.vocabulary.size == 205
    out = str(tmp_path / "more")
    more = dataclasses.replace(options, extend=str(tmp_path / "corpus"), vocab=206, out=out)
    again = train_tokenizer(more)
    assert again.tokens(range(205)) == pair[1].tokens(range(205))
    assert not (tmp_path / "more" / "vocab.txt").exists()  # it would be read otherwise


def test_what_cannot_be_extended_is_one_line(options: TokenizerOptions, tmp_path: pathlib.Path) -> None:
    bpe = dataclasses.replace(options, extend=None, kind="byte_bpe", vocab=300, out=str(tmp_path / "bpe"))
    train_tokenizer(bpe)
    (tmp_path / "run").mkdir()
    shutil.copytree(tmp_path / "bpe", tmp_path / "run" / "tokenizer")
    out = str(tmp_path / "out")
    for change, message in (
        ({"vocab": 200}, "vocab=200 leaves no room beside the 200 tokens of .*: use --vocab=1200"),
        ({"vocab": 4000}, "vocab=4000 is more than the text can fill: it gives \\d+ tokens"),
        ({"extend": str(tmp_path / "run")}, "run is a byte_bpe tokenizer: only wordpiece can be extended"),
        ({"extend": str(tmp_path)}, "holds no tokenizer"),
        ({"lowercase": False}, "lowercase=False: extend=.* keeps its own, leave out --lowercase"),
        ({"kind": "byte_bpe"}, "kind=byte_bpe: extend="),
    ):
        with pytest.raises(ValueError, match=message) as error:
            train_tokenizer(dataclasses.replace(options, out=out, **change))  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert not pathlib.Path(out).exists()
