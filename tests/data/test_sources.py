"""Every kind of source gives the same documents, wherever its blocks are cut, and bad input is named."""

import bz2
import gc
import gzip
import json
import lzma
import pathlib
import subprocess
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from bertjax.data import streams
from bertjax.data.python_docs import documentation, prose, python_files
from bertjax.data.records import BadRecords, texts
from bertjax.data.sentences import split_sentences
from bertjax.data.sources import SourceOptions, Unit, find_sources
from tests.data.corpora import documents

TEXTS = ["\n".join(document) for document in documents(60, seed=3)]
TEXTS[7] = "Größe, naïve café 中文。\nДа! 🙂 A lone \\u0041 and [MASK]."


def read(*inputs: object, **options: Any) -> list[str]:
    """All documents of some inputs."""
    chosen = SourceOptions(input=tuple(map(str, inputs)), **options)
    bad = BadRecords(chosen.on_bad_record)
    return [text for unit in units(chosen) for text in texts(unit, chosen.field, bad)]


def units(options: SourceOptions) -> list[Unit]:
    return [unit for source in find_sources(options) for unit in source.units()]


def compress(path: pathlib.Path, content: bytes) -> pathlib.Path:
    """Writes content under a name that says how it is compressed."""
    tools = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    if path.suffix == ".zst":
        content = pa.compress(content, "zstd", asbytes=True)
    path.write_bytes(tools[path.suffix](content) if path.suffix in tools else content)
    return path


def table(texts: list[Any] = TEXTS) -> pa.Table:
    return pa.table({"number": list(range(len(texts))), "text": texts})


# ------------------------------------------------------------------------------------- formats


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2", ".xz", ".zst"])
@pytest.mark.parametrize("block", [1, 50, 700, 1 << 22])
def test_text_and_json_lines_in_blocks_of_any_size(
    tmp_path: pathlib.Path, suffix: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK", block)
    joined = compress(tmp_path / f"a.txt{suffix}", "\n\n".join(TEXTS).encode())
    assert read(joined) == TEXTS
    lines = "".join(json.dumps({"n": n, "text": text}) + "\n" for n, text in enumerate(TEXTS))
    assert read(compress(tmp_path / f"a.jsonl{suffix}", lines.encode())) == TEXTS
    assert read(joined, documents="line") == [line for text in TEXTS for line in text.split("\n")]


@pytest.mark.parametrize(
    "content",
    [
        "One.\r\nTwo.\r\n\r\nThree.\r\n",
        "\ufeffOne.\nTwo.\n \t \nThree.",
        "\n\n\nOne.\nTwo.\n\n\n\n\nThree.\n\n\n",
    ],
)
@pytest.mark.parametrize("block", [1, 3, 1000])
def test_empty_lines_of_all_sorts(
    tmp_path: pathlib.Path, content: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK", block)
    (tmp_path / "a.txt").write_bytes(content.encode())
    assert read(tmp_path / "a.txt") == ["One.\nTwo.", "Three."]


def test_a_file_can_be_a_document(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, text in enumerate(TEXTS):
        compress(tmp_path / f"{number:02d}.txt{'.gz' if number % 2 else ''}", f"{text}\n\nMore.".encode())
    expected = [f"{text}\n\nMore." for text in TEXTS]
    assert read(tmp_path / "*", documents="file") == expected
    monkeypatch.setattr(streams, "BLOCK", 500)
    options = SourceOptions(input=(str(tmp_path / "*"),), documents="file")
    assert len(units(options)) > 5 and read(tmp_path / "*", documents="file") == expected


@pytest.mark.parametrize("block", [300, 1 << 22])
def test_tables(tmp_path: pathlib.Path, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BLOCK", block)
    parquet.write_table(table(), tmp_path / "a.parquet", row_group_size=17)
    parquet.write_table(table(), tmp_path / "b.parquet", use_dictionary=["text"])
    with pa.ipc.new_stream(str(tmp_path / "stream.arrow"), table().schema) as writer:
        writer.write_table(table(), max_chunksize=13)
    with pa.ipc.new_file(str(tmp_path / "file.arrow"), table().schema) as writer:
        writer.write_table(table().cast(table().schema), max_chunksize=13)
    for name in ("a.parquet", "b.parquet", "stream.arrow", "file.arrow"):
        assert read(tmp_path / name) == TEXTS, name
    first = units(SourceOptions(input=(str(tmp_path / "a.parquet"),)))
    assert len(first) == 1 if block > 300 else len(first) > 5
    assert [unit.first for unit in first] == sorted({unit.first for unit in first})


def test_a_hub_data_set_in_a_local_folder(tmp_path: pathlib.Path) -> None:
    (tmp_path / "set").mkdir()
    parquet.write_table(table(TEXTS[:40]), tmp_path / "set" / "train.parquet")
    parquet.write_table(table(TEXTS[40:]), tmp_path / "set" / "test.parquet")
    assert read(f"hub:{tmp_path}/set") == TEXTS[:40]
    assert read(f"hub:{tmp_path}/set:test") == TEXTS[40:]
    with pytest.raises(ValueError, match=r"hub:.* has no column 'txt': did you mean 'text'\?"):
        read(f"hub:{tmp_path}/set", field="txt")
    with pytest.raises(ValueError, match=r"hub:.*/set:dev: [^\n]*$"):
        read(f"hub:{tmp_path}/set:dev")
    with pytest.raises(
        ValueError, match=r"hub:nobody/nothing cannot be read \(.*\): check its name and the network$"
    ):
        read("hub:nobody/nothing")
    with pytest.raises(ValueError, match="not of the form hub:NAME"):
        read("hub:a:b:c")


def test_several_inputs_and_patterns(tmp_path: pathlib.Path) -> None:
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("b.txt", "a.txt", "deep/er/c.txt"):
        (tmp_path / name).write_text(f"From {name}.")
    assert read(tmp_path / "*.txt") == ["From a.txt.", "From b.txt."]
    assert read(tmp_path / "**" / "*.txt") == ["From a.txt.", "From b.txt.", "From deep/er/c.txt."]
    chosen = SourceOptions(input=(str(tmp_path / "b.txt"), str(tmp_path / "a.txt")))
    assert [unit.source for unit in units(chosen)] == [0, 1]


def test_every_file_is_hashed_as_it_lies(tmp_path: pathlib.Path) -> None:
    names = [compress(tmp_path / f"a.txt{suffix}", b"One.\n\nTwo.") for suffix in ("", ".gz", ".xz", ".zst")]
    parquet.write_table(table(), tmp_path / "a.parquet")
    sources = find_sources(SourceOptions(input=tuple(map(str, [*names, tmp_path / "a.parquet"]))))
    listing = ""
    for source in sources:
        assert sum(unit.progress for unit in source.units()) == source.bytes
        [(name, size, digest)] = source.listing
        assert size == source.bytes
        listing += f"{digest}  {name}\n"
    subprocess.run(
        ["sha256sum", "--check", "--strict"], input=listing.encode(), check=True, capture_output=True
    )


# ------------------------------------------------------------------------------------- units


def test_a_unit_is_named_by_its_contents_alone(tmp_path: pathlib.Path, small_units: int) -> None:
    (tmp_path / "a.txt").write_text("\n\n".join(TEXTS))
    (tmp_path / "b.txt").write_text("\n\n".join([*TEXTS[:-1], "Another end."]))
    a, b = (units(SourceOptions(input=(str(tmp_path / f"{name}.txt"),))) for name in "ab")
    assert len(a) > 3 and [unit.key for unit in a[:-1]] == [unit.key for unit in b[:-1]]
    assert a[-1].key != b[-1].key and len({unit.key for unit in a}) == len(a)
    (tmp_path / "c.txt").write_text("\n\n".join(TEXTS))
    assert [u.key for u in units(SourceOptions(input=(str(tmp_path / "c.txt"),)))] == [u.key for u in a]


def test_a_document_without_end_is_continued_as_another(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK", 100)
    monkeypatch.setattr(streams, "LONGEST_DOCUMENT", 400)
    for text in ("word " * 500, "Word.\n" * 400, "é" * 1000):
        (tmp_path / "a.txt").write_text(text)
        found = units(SourceOptions(input=(str(tmp_path / "a.txt"),)))
        assert max(len(unit.payload) for unit in found) <= 500 and not found[-1].cut
        assert all(unit.cut for unit in found[:-1]) and len(found) > 3
        assert "".join(bytes(unit.payload).decode() for unit in found) == text  # never inside a character


def test_a_line_of_json_without_end_is_an_error(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK", 100)
    monkeypatch.setattr(streams, "LONGEST_LINE", 400)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + json.dumps({"text": "b" * 1000}))
    with pytest.raises(ValueError, match=r"a\.jsonl line 2 is longer than .*one object a line"):
        read(tmp_path / "a.jsonl")


# ------------------------------------------------------------------------------------- bad input

BAD_LINES = [
    (b'{"text": "a"', r"line 2: broken JSON \(Expecting"),
    (b'["text"]', "line 2: list instead of an object with the field 'text'"),
    (b'{"body": "a"}', r"line 2: no field 'text' \(it has 'body'\)"),
    (b'{"text": null}', "line 2: field 'text' holds NoneType, not text"),
    (b'{"text": "a\\ud800"}', "line 2: field 'text' holds half of a surrogate pair"),
    (b'{"text": "\xff"}', r"line 2: not UTF-8 \(byte 0xff\)"),
]


@pytest.mark.parametrize(("line", "message"), BAD_LINES)
@pytest.mark.parametrize("block", [1, 1 << 22])
def test_a_bad_line_is_named_or_skipped(
    tmp_path: pathlib.Path, line: bytes, message: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BLOCK", block)
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "one"}\n' + line + b'\n{"text": "two"}\n')
    with pytest.raises(
        ValueError, match=rf"a\.jsonl {message}.*; --on_bad_record=skip leaves such records out$"
    ):
        read(tmp_path / "a.jsonl")
    assert read(tmp_path / "a.jsonl", on_bad_record="skip") == ["one", "two"]
    options = SourceOptions(input=(str(tmp_path / "a.jsonl"),), on_bad_record="skip")
    bad = BadRecords("skip")
    assert sum(len(list(texts(unit, "text", bad))) for unit in units(options)) == 2
    assert bad.count == 1 and bad.first is not None and "a.jsonl line 2" in bad.first


def test_text_that_is_not_utf8(tmp_path: pathlib.Path) -> None:
    (tmp_path / "a.txt").write_bytes("One.\n\nTwo.\nÄ ".encode() + "Größe\n\nThree.".encode("latin-1"))
    with pytest.raises(ValueError, match=r"a\.txt line 4: not UTF-8 \(byte 0xf6\)"):
        read(tmp_path / "a.txt")
    assert read(tmp_path / "a.txt", on_bad_record="skip") == ["One.", "Three."]
    with pytest.raises(ValueError, match=r"a\.txt line 4: not UTF-8 \(byte 0xf6\)"):
        read(tmp_path / "a.txt", documents="file")


def test_rows_without_text(tmp_path: pathlib.Path) -> None:
    broken = pa.array([b"one", None, b"\xfftwo", b"three"]).view(pa.string())
    parquet.write_table(pa.table({"text": broken}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet row 2: no text"):
        read(tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", on_bad_record="skip") == ["one", "three"]


def test_what_ends_early_is_an_error_even_where_records_may_be_bad(tmp_path: pathlib.Path) -> None:
    content = "\n\n".join(TEXTS * 20).encode()
    for suffix in (".gz", ".bz2", ".xz", ".zst"):
        path = compress(tmp_path / f"a.txt{suffix}", content)
        path.write_bytes(path.read_bytes()[:-20])
        with pytest.raises(
            ValueError, match=rf"a\.txt{suffix} is damaged or ends early \(.*\): fetch or write it again$"
        ):
            read(path, on_bad_record="skip")
        path.write_bytes(b"this is not compressed")
        with pytest.raises(ValueError, match=rf"a\.txt{suffix} is damaged"):
            read(path, on_bad_record="skip")
    parquet.write_table(table(), tmp_path / "a.parquet")
    with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table().schema) as writer:
        writer.write_table(table())
    for name, kind in (("a.parquet", "parquet"), ("a.arrow", "Arrow")):
        whole = (tmp_path / name).read_bytes()
        for keep in (len(whole) - 30, len(whole) // 2, 10, 0):
            (tmp_path / name).write_bytes(whole[:keep])
            with pytest.raises(ValueError, match=rf"{name} is not a whole {kind} file \([^\n]*\): fetch"):
                read(tmp_path / name, on_bad_record="skip")


def test_a_column_that_is_not_there_or_not_text(tmp_path: pathlib.Path) -> None:
    parquet.write_table(table(), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"has no column 'txet': did you mean 'text'\?"):
        read(tmp_path / "a.parquet", field="txet")
    with pytest.raises(ValueError, match="column 'number' holds int64, not text"):
        read(tmp_path / "a.parquet", field="number")


def test_inputs_that_cannot_be_found(tmp_path: pathlib.Path) -> None:
    (tmp_path / "notes.txt").write_text("Text.")
    (tmp_path / "a.xyz").write_text("Text.")
    (tmp_path / "a.parquet.gz").write_text("")
    (tmp_path / "several").mkdir()
    for name in ("a.txt", "a.jsonl"):
        (tmp_path / "several" / name).write_text("")
    refused = {
        (): "no input: give --input",
        (tmp_path / "note.txt",): r"matches no file: did you mean '.*notes\.txt'\?",
        (tmp_path / "*.jsonl",): "matches no file: a data set of the hub is written hub:NAME",
        (tmp_path,): "is a folder: give its files",
        (tmp_path / "a.xyz",): r"unknown extension '\.xyz' .*--format=text",
        (tmp_path / "several" / "*",): r"matches files of several formats \(jsonl, text\)",
        (tmp_path / "a.parquet.gz",): "compressed parquet file cannot be read",
        (tmp_path / "notes.txt",) * 2: "is given twice",
        ("python-docs:no_such_package",): "no such package",
        ("python-docs:a-b",): "not the name of a package",
    }
    for inputs, message in refused.items():
        with pytest.raises(ValueError, match=message) as caught:
            read(*inputs)
        assert "\n" not in str(caught.value)
    assert read(tmp_path / "a.xyz", format="text") == ["Text."]


# ------------------------------------------------------------------------------------- python-docs


def test_documentation_is_found_without_importing(tmp_path: pathlib.Path) -> None:
    source = b'''"""The first line of a module that says what it is for.

    >>> 1 + 1
    2

A paragraph over
two lines with ``code`` and :class:`~a.B`.

Args:
    x (int): a number that is left out.
"""
raise SystemExit("it was imported")

class A:
    """A class that has a documentation string."""

    def f(self):
        r"""A method\\'s own sentence is here, too."""

def g():
    """A class that has a documentation string."""
    def h(): return "not a docstring but a value."
'''
    [text] = documentation("m.py", source)
    assert text.split("\n") == [
        "The first line of a module that says what it is for.",
        "A paragraph over two lines with code and a.B.",
        "A class that has a documentation string.",
        "A method\\'s own sentence is here, too.",
    ]
    assert list(documentation("old.py", b"print 'python two'")) == [] and gc.isenabled()
    assert list(documentation("pydoc_data/topics.py", b"topics = {'a': 'A topic of some four words.'}")) == [
        "A topic of some four words."
    ]


def test_prose_without_markup_and_code() -> None:
    text = """Heading
    =======

    A `link <https://example.org>`_ and *emphasis* in one sentence.

    .. code-block:: python

    | a | table | of | some | words |

    x : int

    Parameters
    ----------
    x : a number that is needed here.

    * An item of a list that is a sentence.
    """
    assert list(prose(text)) == [
        "A link and emphasis in one sentence.",
        "An item of a list that is a sentence.",
    ]


def test_the_interpreter_and_each_package_are_sources_of_their_own(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Together they are all that there is, and what is not asked for is not looked at."""
    for name in ("lib/a.py", "lib/b/c.py", "lib/test/d.py", "lib/b/tests/e.py", "site/f.py", "site/f/g.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    place = lambda key: str(tmp_path / ("lib" if "std" in key else "site"))  # noqa: E731
    monkeypatch.setattr("sysconfig.get_path", place)

    def found(name: str | None) -> list[str]:
        return [str(pathlib.Path(path).relative_to(tmp_path)) for path in python_files(name)]

    assert found("python") == ["lib/a.py", "lib/b/c.py"] and found("b") == ["lib/b/c.py"]
    assert found("f") == ["site/f.py", "site/f/g.py"]
    assert found(None) == found("python") + found("f")
    for name in ("test", "c", "site"):
        with pytest.raises(ValueError, match=f"python-docs:{name}: no such package"):
            python_files(name)
    with monkeypatch.context() as patch:
        patch.setattr("os.walk", lambda path: pytest.fail(str(path)) if path.endswith("/lib") else iter(()))
        assert found("f") == ["site/f.py"]


def test_the_interpreter_documents_itself() -> None:
    found = read("python-docs:json", "python-docs:pydoc_data")
    assert any("JSON" in text for text in found) and len(found) > 50
    assert found == read("python-docs:json", "python-docs:pydoc_data")
    assert sum(map(len, found)) > 200_000


# ------------------------------------------------------------------------------------- sentences


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It rains. It pours! Why? Because.", ["It rains.", "It pours!", "Why?", "Because."]),
        ("Dr. Who met J. R. Smith of the U.S. Army, e.g. here.", None),
        (
            "He said “Stop.” Then (it was late.) Nothing…",
            ["He said “Stop.”", "Then (it was late.)", "Nothing…"],
        ),
        ("Version 3.5 is out. see below", None),
        ("That was in 1984. Then came more.", ["That was in 1984.", "Then came more."]),
        ("1. Open the lid. 2. Close it.", ["1. Open the lid.", "2. Close it."]),
        ("Wait... What?", ["Wait...", "What?"]),
        ("今天下雨。「真的？」是的！好", ["今天下雨。", "「真的？」", "是的！", "好"]),
        ("यह है। वह है।", ["यह है।", "वह है।"]),
        ("هل هذا؟ نعم.", ["هل هذا؟", "نعم."]),
        ("Это он. Это она!", ["Это он.", "Это она!"]),
        ("no end", ["no end"]),
        (" \n \n", []),
    ],
)
def test_where_sentences_end(text: str, expected: list[str] | None) -> None:
    assert split_sentences(text, "punctuation") == ([text] if expected is None else expected)


def test_newlines_by_rule() -> None:
    text = "A line. Of two\nand another\n\nThe last. One."
    assert split_sentences(text, "punctuation") == ["A line.", "Of two", "and another", "The last.", "One."]
    assert split_sentences(text, "lines") == ["A line. Of two", "and another", "The last. One."]
    assert split_sentences(text, "wrapped") == ["A line.", "Of two and another", "The last.", "One."]


def test_no_text_is_lost_between_sentences() -> None:
    for text in [*TEXTS, *read("python-docs:json")]:
        for rule in ("punctuation", "lines", "wrapped"):
            assert "".join("".join(split_sentences(text, rule)).split()) == "".join(text.split())  # type: ignore[arg-type]
