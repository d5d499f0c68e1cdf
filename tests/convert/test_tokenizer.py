"""Published tokenizers give the tokens of those who trained them, in folders of every kind, and go back to folders."""

import json
import pathlib
from typing import Any

import numpy as np
import pytest

from bertjax.convert.tokenizer import read_tokenizer, write_tokenizer
from bertjax.data.corpus import Vocabulary
from bertjax.data.fast_tokenizer import Special, wordpiece_json
from bertjax.data.subword import Tokenizer
from tests.convert.broken import mutated, refused
from tests.convert.vocabularies import HARD, LITERAL, PUBLISHED, byte_bpe, pieces_of, spm
from tests.data.test_tokenizer import reference

ROBERTA = ("mpnet", "roberta", "xlm-roberta", "camembert")  # two separators, one type


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pathlib.Path]:
    made = {}
    for kind, write in PUBLISHED.items():
        made[kind] = tmp_path_factory.mktemp(kind)
        write(made[kind])
    return made


@pytest.fixture(params=PUBLISHED)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def expected(kind: str, folder: pathlib.Path, text: str) -> list[int]:
    """The tokens of a text by other means: BERT's reference, SentencePiece itself, a trainer's own tokenizer."""
    if kind.startswith(("bert", "mpnet")):
        names = (folder / "vocab.txt").read_text(encoding="utf-8").split("\n")[:-1]
        vocabulary = {name: number for number, name in enumerate(names)}
        return reference(text, vocabulary, lowercase=kind in ("bert-uncased", "mpnet"))
    if kind == "roberta":
        from tokenizers import ByteLevelBPETokenizer

        vocabulary, merges = byte_bpe()
        trained = ByteLevelBPETokenizer(vocabulary, [tuple(merge.split(" ")) for merge in merges])
        return list(trained.encode(text).ids)
    return list(pieces_of(kind, text))


def test_tokens_are_those_of_the_makers(kind: str, folders: dict[str, pathlib.Path]) -> None:
    if kind in ("bert-no-chinese", "bert-accents"):
        pytest.skip("compared with transformers only: BERT's reference has no such settings")
    tokenizer = read_tokenizer(str(folders[kind]))
    texts = [*HARD, *LITERAL]
    for text, tokens in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert tokens.tolist() == expected(kind, folders[kind], text), text


def test_settings_of_wordpiece(folders: dict[str, pathlib.Path]) -> None:
    by_character = read_tokenizer(str(folders["bert-cased"])).encode_batch(["東京は"])[0]
    whole = read_tokenizer(str(folders["bert-no-chinese"]))
    assert len(by_character) == 3 and whole.tokens(whole.encode_batch(["東京は"])[0]) == [
        "東",
        "##京",
        "##は",
    ]
    kept, dropped = (read_tokenizer(str(folders[f"bert-{name}"])) for name in ("accents", "uncased"))
    assert dropped.tokens(dropped.encode_batch(["É"])[0]) == ["e"] != kept.tokens(kept.encode_batch(["É"])[0])


def test_framing(kind: str, folders: dict[str, pathlib.Path]) -> None:
    """Special tokens, types, and what remains of each text when both are cut, longest first."""
    tokenizer = read_tokenizer(str(folders[kind]))
    cls, sep = tokenizer.vocabulary.cls, tokenizer.vocabulary.sep
    texts = ["The class statement defines a new object.", "Café naïve, 3.14 東京", ""]
    for first in texts:
        one = tokenizer.encode_batch([first])[0].tolist()
        for length in (None, 2, 3, 7, 512):
            tokens, types = tokenizer.encode_pair(first, length=length) if length != 2 else (None, None)
            if tokens is None:
                continue
            kept = one if length is None else one[: length - 2]
            assert tokens.tolist() == [cls, *kept, sep] and not types.any()
        for second in texts:
            two = tokenizer.encode_batch([second])[0].tolist()
            between = [sep] * (2 if kind in ROBERTA else 1)
            for length in (None, 8, 11, 12, 512):
                a, b = list(one), list(two)
                while length is not None and len(a) + len(b) > length - 2 - len(between):
                    # In turn, from the longer one; the last of an odd number stays with it, or with the second.
                    (a if (len(a), len(one)) > (len(b), len(two)) or not b else b).pop()
                room = length and length - 2 - len(between)
                if room and min(len(one), len(two)) > room // 2:
                    half = [room // 2, room - room // 2]
                    sizes = half if len(one) <= len(two) else half[::-1]
                    a, b = one[: sizes[0]], two[: sizes[1]]
                tokens, types = tokenizer.encode_pair(first, second, length=length)
                assert tokens.tolist() == [cls, *a, *between, *b, sep]
                ones = 0 if kind in ROBERTA else len(b) + 1
                assert types.tolist() == [0] * (len(tokens) - ones) + [1] * ones


def test_what_is_written_out_is_text(kind: str, folders: dict[str, pathlib.Path]) -> None:
    tokenizer = read_tokenizer(str(folders[kind]))
    allowed = {tokenizer.vocabulary.unk}
    for tokens in tokenizer.encode_batch(LITERAL):
        assert len(tokens) and not (set(np.flatnonzero(tokenizer.vocabulary.special)) - allowed) & set(
            tokens.tolist()
        )


def test_batches_and_offsets(kind: str, folders: dict[str, pathlib.Path]) -> None:
    tokenizer = read_tokenizer(str(folders[kind]))
    many = [*HARD, *LITERAL] * 4
    for text, tokens in zip(many, tokenizer.encode_batch(many), strict=True):
        [(again, offsets)] = tokenizer.encode_with_offsets([text])
        assert tokens.tolist() == again.tolist() and offsets.shape == (len(tokens), 2)
        assert tokens.max(initial=0) < tokenizer.vocabulary.size


def test_written_and_read_again(kind: str, folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    tokenizer = read_tokenizer(str(folders[kind]))
    family = json.loads((folders[kind] / "config.json").read_text())["model_type"]
    write_tokenizer(tokenizer, str(tmp_path), family=family, length=77)
    back = read_tokenizer(str(tmp_path))
    assert back.digest == tokenizer.digest and same_vocabulary(back.vocabulary, tokenizer.vocabulary)
    tokenizer.save(str(tmp_path / "saved"))
    assert same_vocabulary(read_tokenizer(str(tmp_path / "saved")).vocabulary, tokenizer.vocabulary)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["model_max_length"] == 77 and config["mask_token"] == tokenizer.roles()["mask"]
    assert ("token_type_ids" in config["model_input_names"]) == (kind not in ROBERTA)
    assert (
        (tmp_path / "vocab.txt").exists()
        == (config["tokenizer_class"] == "BertTokenizer")
        == ("bert-" in kind)
    )
    if "bert-" in kind:
        (tmp_path / "tokenizer.json").unlink()
        if tokenizer.roles()["unk"] == "[UNK]":  # the vocabulary and the settings say it all
            again = read_tokenizer(str(tmp_path))
            for text in HARD:
                assert again.encode_pair(text)[0].tolist() == tokenizer.encode_pair(text)[0].tolist()


def same_vocabulary(one: Vocabulary, other: Vocabulary) -> bool:
    numbers = ("size", "pad", "unk", "cls", "sep", "mask")
    return all(getattr(one, name) == getattr(other, name) for name in numbers) and all(
        np.array_equal(getattr(one, name), getattr(other, name)) for name in ("special", "starts_word")
    )


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_own_sentencepiece_is_written_as_tokenizer_json(tmp_path: pathlib.Path, kind: str) -> None:
    (tmp_path / "spm.model").write_bytes(spm("albert", kind))
    tokenizer = read_tokenizer(str(tmp_path))
    assert tokenizer.kind == "sentencepiece"
    write_tokenizer(tokenizer, str(tmp_path / "out"), family="albert")
    written = read_tokenizer(str(tmp_path / "out"))
    assert written.kind == kind and same_vocabulary(written.vocabulary, tokenizer.vocabulary)
    for text in [*HARD, *LITERAL]:
        for second in (None, "a new object"):
            for found, wanted in zip(
                written.encode_pair(text, second), tokenizer.encode_pair(text, second), strict=True
            ):
                assert found.tolist() == wanted.tolist(), text


# ------------------------------------------------------------------------------------- what a folder tells


def json_of(folder: pathlib.Path, name: str, **data: Any) -> None:
    (folder / name).write_text(json.dumps(data), encoding="utf-8")


def small(folder: pathlib.Path, names: dict[str, str], more: str = "") -> Tokenizer:
    words = [*names.values(), *more.split(), "a", "b", "é", "e"]
    vocabulary = {name: number for number, name in enumerate(dict.fromkeys(words))}
    text = wordpiece_json(vocabulary, lowercase=False, special=Special(names))
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    return read_tokenizer(str(folder))


OWN = {"pad": "<PAD>", "unk": "?", "cls": "<CLS>", "sep": "<SEP>", "mask": "<MASK>"}


def test_special_tokens_with_names_of_their_own(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="has no pad token: it needs one of"):
        small(tmp_path, OWN).vocabulary  # noqa: B018
    json_of(tmp_path, "config.json", model_type="bert")
    json_of(
        tmp_path,
        "special_tokens_map.json",
        **{f"{role}_token": {"content": name} for role, name in OWN.items()},
    )
    tokenizer = small(tmp_path, OWN, "[CLS]")
    assert [getattr(tokenizer.vocabulary, role) for role in OWN] == [0, 1, 2, 3, 4]
    assert tokenizer.encode_pair("a b")[0].tolist() == [2, 6, 7, 3]
    tokenizer.save(str(tmp_path / "saved"))
    write_tokenizer(tokenizer, str(tmp_path / "written"))
    for copy in ("saved", "written"):
        back = read_tokenizer(str(tmp_path / copy))
        assert same_vocabulary(back.vocabulary, tokenizer.vocabulary) and back.digest == tokenizer.digest
    assert json.loads((tmp_path / "written/tokenizer_config.json").read_text())["cls_token"] == "<CLS>"


def test_tokenizer_config_wins_over_the_normaliser(tmp_path: pathlib.Path) -> None:
    names = {role: f"[{role.upper()}]" for role in OWN}
    assert small(tmp_path, names).encode_batch(["A é"])[0].tolist() == [1, 7]
    json_of(tmp_path, "tokenizer_config.json", tokenizer_class="BertTokenizer", do_lower_case=True)
    assert small(tmp_path, names).encode_batch(["A é"])[0].tolist() == [5, 8]
    json_of(
        tmp_path,
        "tokenizer_config.json",
        tokenizer_class="BertTokenizerFast",
        do_lower_case=True,
        strip_accents=False,
    )
    assert small(tmp_path, names).encode_batch(["A é"])[0].tolist() == [5, 7]


def test_the_model_type_tells_where_no_class_does(
    folders: dict[str, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    for kind, file in {"albert": "spiece.model", "xlm-roberta": "sentencepiece.bpe.model"}.items():
        (tmp_path / file).write_bytes((folders[kind] / file).read_bytes())
        json_of(tmp_path, "config.json", model_type=kind)
        assert read_tokenizer(str(tmp_path)).digest == read_tokenizer(str(folders[kind])).digest
        (tmp_path / file).unlink()


def test_numbers_that_are_left_out(tmp_path: pathlib.Path) -> None:
    names = {role: f"[{role.upper()}]" for role in OWN}
    small(tmp_path, names)
    described = json.loads((tmp_path / "tokenizer.json").read_text())
    described["model"]["vocab"]["b"] = 41
    (tmp_path / "tokenizer.json").write_text(json.dumps(described))
    tokenizer = read_tokenizer(str(tmp_path))
    assert tokenizer.vocabulary.size == 42 and tokenizer.encode_batch(["b"])[0].tolist() == [41]
    write_tokenizer(tokenizer, str(tmp_path / "out"))
    assert not (tmp_path / "out" / "vocab.txt").exists()  # lines cannot leave numbers out


# ------------------------------------------------------------------------------------- bad folders


def test_folders_that_cannot_be_read(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    roberta: dict[str, Any] = {"config.json": {"model_type": "roberta"}}
    cases: list[tuple[dict[str, Any], str]] = [
        ({"config.json": {"model_type": "bert"}, "vocab.txt": "a\nb\n"}, r"the vocabulary has no [PAD]"),
        ({"config.json": {"model_type": "albert"}, "spiece.model": "no model"}, "it is no SentencePiece model"),
        ({**roberta, "vocab.json": "[]", "merges.txt": ""}, "is not a JSON object"),
        ({**roberta, "vocab.json": "{}", "merges.txt": ""}, "does not number tokens"),
        ({**roberta, "vocab.json": '{"a": "b"}', "merges.txt": ""}, "does not number"),
        ({**roberta, "vocab.json": '{"a": 0}', "merges.txt": "a b c"}, "no pair of pieces"),
        ({**roberta, "vocab.json": '{"a": 0}', "merges.txt": "a b"}, "is not a tokenizer"),
        ({**roberta, "vocab.json": "{}"}, "merges.txt cannot be read"),
        ({**roberta, "vocab.txt": "a"}, "it needs tokenizer.json or vocab.json"),
        ({"config.json": {"tokenizer_class": "HerbertTokenizer"}, "vocab.json": "{}"}, "a HerbertTokenizer"),
        ({"config.json": {"model_type": "roformer"}, "vocab.txt": "a"}, "cuts words with the dictionary of jieba"),
        ({"config.json": {"model_type": "bert"}, "tokenizer.json": "{}"}, "is not a tokenizer"),
        ({"config.json": {"model_type": "bert"}, "tokenizer.json": "{"}, "tokenizer.json is not JSON"),
        ({"config.json": "[]", "tokenizer.json": "{}"}, "config.json is not a JSON object"),
        ({"tokenizer_config.json": "{" * 9999, "vocab.txt": "a"}, "tokenizer_config.json is not JSON"),
    ]  # fmt: skip
    for number, (files, message) in enumerate(cases):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
        with refused(str(folder), message):
            read_tokenizer(str(folder))


def test_random_changes(folders: dict[str, pathlib.Path], tmp_path: pathlib.Path) -> None:
    """A changed file is read or refused in one line; never anything else."""
    draw, refusals = np.random.default_rng(0), 0
    for kind in ("bert-cased", "roberta", "albert"):
        for file in sorted(folders[kind].iterdir()):
            (tmp_path / file.name).write_bytes(file.read_bytes())
        for file in sorted(folders[kind].iterdir()):
            for _ in range(12):
                (tmp_path / file.name).write_bytes(mutated(file.read_bytes(), draw))
                try:
                    read_tokenizer(str(tmp_path)).vocabulary  # noqa: B018
                except ValueError as error:
                    assert "\n" not in str(error) and len(str(error)) < 600, error
                    refusals += 1
            (tmp_path / file.name).write_bytes(file.read_bytes())
        for file in tmp_path.iterdir():
            file.unlink()
    assert refusals > 30
