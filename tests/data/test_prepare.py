"""Preparing: the same bytes whatever happens on the way, and nothing that a rerun would trust wrongly."""

import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import pytest

from bertjax import __main__ as tools
from bertjax.data import workers
from bertjax.data.corpus import Corpus, open_corpus
from bertjax.data.encode import document_id
from bertjax.data.merge import _first_copies
from bertjax.data.prepare import PrepareOptions, prepare
from bertjax.data.shards import Columns
from bertjax.data.tokenizer import TokenizerOptions, load, train_tokenizer
from tests.data.corpora import documents, run_python, run_tool, write_text

pytestmark = pytest.mark.usefixtures("small_units")


def options(text: str, tokenizer: str, out: pathlib.Path, **more: object) -> PrepareOptions:
    return PrepareOptions(input=(text,), tokenizer=tokenizer, out=str(out), **{"workers": 1, **more})  # type: ignore[arg-type]


def contents(folder: pathlib.Path) -> dict[str, str]:
    """sha256 of every file."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def texts(corpus: Corpus) -> list[str]:
    """The documents as text."""
    tokenizer = load(f"{corpus.path}/tokenizer")
    starts = corpus.sentence_offsets[corpus.document_offsets]
    return [
        tokenizer.decode(corpus.read(int(start), int(stop)))
        for start, stop in zip(starts, starts[1:], strict=False)
    ]


def plain(document: list[str]) -> str:
    """How a document reads after WordPiece and back."""
    return " ".join(document).lower()


@pytest.fixture
def text(tmp_path: pathlib.Path) -> str:
    return write_text(tmp_path / "text.txt", documents(150, seed=4))


@pytest.fixture
def whole(text: str, tokenizer_folder: str, tmp_path: pathlib.Path) -> dict[str, str]:
    """The files of a corpus that nothing disturbed, made with one worker."""
    prepare(options(text, tokenizer_folder, tmp_path / "whole"))
    return contents(tmp_path / "whole")


# ------------------------------------------------------------------------------------- the same bytes


@pytest.mark.usefixtures("processes")
def test_any_number_of_workers(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path, whole: dict[str, str]
) -> None:
    prepare(options(text, tokenizer_folder, tmp_path / "three", workers=3))
    assert contents(tmp_path / "three") == whole


def test_after_a_kill_finished_units_are_kept(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path, whole: dict[str, str]
) -> None:
    out = tmp_path / "killed"
    code = (
        "import time\n"
        "from bertjax.data import streams, workers\n"
        "from bertjax.data.prepare import PrepareOptions, prepare\n"
        "streams.BLOCK = 2000\n"
        "once = workers.Pool._call\n"
        "workers.Pool._call = lambda self, task: (time.sleep(0.1), once(self, task))[1]\n"
        f"place = dict(tokenizer={tokenizer_folder!r}, out={str(out)!r})\n"
        f"prepare(PrepareOptions(input=({text!r},), workers=1, **place))"
    )
    kept: dict[str, int] = {}
    for least in (2, 5):  # killed twice, each time a little later
        process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
        while len(list(out.glob("parts/*.arrow"))) < least:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        parts = {path.name: path.stat().st_ino for path in out.glob("parts/*.arrow")}
        assert kept.items() <= parts.items() and len(parts) >= least
        kept = parts
        with pytest.raises(ValueError, match="unfinished corpus"):
            open_corpus(str(out))
    (out / "parts" / "half.arrow.123.tmp").write_bytes(b"half")
    encoded = []
    with pytest.MonkeyPatch.context() as patch:
        once = workers.Pool._call
        patch.setattr(
            workers.Pool, "_call", lambda self, task: (encoded.append(task[0]), once(self, task))[1]
        )
        prepare(options(text, tokenizer_folder, out))
    assert encoded and not set(encoded) & set(kept)
    assert contents(out) == whole


def test_after_a_crash_between_the_last_steps(
    text: str,
    tokenizer_folder: str,
    tmp_path: pathlib.Path,
    whole: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "crashed"
    chosen = options(text, tokenizer_folder, out)
    replace, rmtree = os.replace, shutil.rmtree
    for point in range(7):  # before everything that is put in its place, the manifest last
        left = iter(range(point))

        def fail_later(source: str, target: str, left: Iterator[int] = left) -> None:
            if next(left, None) is None:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(os, "replace", fail_later)
            prepare(chosen)
        assert not (out / "manifest.json").exists()

    def fail_on_parts(path: str, **more: bool) -> None:
        if path == str(out / "parts"):
            raise KeyboardInterrupt
        rmtree(path, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", fail_on_parts)
        prepare(chosen)
    assert (out / "manifest.json").exists() and (out / "parts").exists()
    prepare(chosen)
    assert contents(out) == whole


def test_the_digest_knows_what_matters(text: str, tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    first = prepare(options(text, tokenizer_folder, tmp_path / "a"))
    elsewhere = write_text(tmp_path / "elsewhere.txt", documents(150, seed=4))
    assert prepare(options(elsewhere, tokenizer_folder, tmp_path / "b")).digest == first.digest
    other = write_text(tmp_path / "other.txt", documents(150, seed=5))
    digests = {first.digest, prepare(options(other, tokenizer_folder, tmp_path / "c")).digest}
    for number, more in enumerate(({"heldout": 0.5}, {"sentences": "lines"}, {"deduplicate": True})):
        digests.add(prepare(options(text, tokenizer_folder, tmp_path / f"d{number}", **more)).digest)
    assert len(digests) == 5


# ------------------------------------------------------------------------------------- run again


def test_finished_work_is_found(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = options(text, tokenizer_folder, tmp_path / "corpus")
    first = prepare(chosen)
    before = contents(tmp_path / "corpus")
    with monkeypatch.context() as patch:
        patch.setattr("bertjax.data.sources.Source.units", None)  # not even read
        assert prepare(chosen).digest == first.digest
    os.utime(text)
    monkeypatch.setattr("bertjax.data.prepare.Pool", None)  # read, but nothing encoded
    assert prepare(chosen).digest == first.digest
    after = contents(tmp_path / "corpus")
    assert after.pop("stamp") != before.pop("stamp") and after == before


def test_another_corpus_is_never_overwritten(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "corpus"
    prepare(options(text, tokenizer_folder, out))
    before = contents(out)
    with pytest.raises(
        ValueError, match="holds another corpus .heldout: 0.01 there, 0.5 here.: choose another out"
    ):
        prepare(options(text, tokenizer_folder, out, heldout=0.5))
    train_tokenizer(TokenizerOptions(input=(text,), out=str(tmp_path / "t"), vocab=150, workers=1))
    with pytest.raises(ValueError, match="holds another corpus .tokenizer: "):
        prepare(options(text, str(tmp_path / "t"), out))
    stat = os.stat(text)
    content = pathlib.Path(text).read_text()
    pathlib.Path(text).write_text(content.replace("and", "und"))
    with pytest.raises(ValueError, match=r"was made before .*text\.txt changed"):
        prepare(options(text, tokenizer_folder, out))
    pathlib.Path(text).write_text(content)
    os.utime(text, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert contents(out) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "train").mkdir()
    with pytest.raises(ValueError, match="is not empty and holds no corpus"):
        prepare(options(text, tokenizer_folder, tmp_path / "full"))
    assert (tmp_path / "full" / "train").exists()


def test_packages_that_come_and_go_do_not_disturb_what_is_finished(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sysconfig.get_path", lambda key: str(tmp_path / "lib"))
    (tmp_path / "lib").mkdir()
    for name, words in {"a": "one two three four five", "b": "six seven eight nine ten"}.items():
        (tmp_path / "lib" / f"{name}.py").write_text(f'"""The numbers {words}."""')
    train = TokenizerOptions(input=("python-docs",), out=str(tmp_path / "t"), vocab=45, workers=1)
    chosen = options("python-docs", str(tmp_path / "t"), tmp_path / "c", heldout=0)
    tokenizer, corpus = train_tokenizer(train), prepare(chosen)
    assert texts(corpus) == ["the numbers one two three four five.", "the numbers six seven eight nine ten."]
    (tmp_path / "lib" / "c.py").write_text('"""A package that was installed later."""')
    for _ in range(2):
        assert train_tokenizer(train).digest == tokenizer.digest and prepare(chosen).digest == corpus.digest
        said = capsys.readouterr().out
        assert said.count("other packages are installed now") == (2 if _ == 0 else 0)
        assert said.count("nothing to do") == 2


def test_two_at_once_do_not_mix(text: str, tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    (tmp_path / "corpus" / "parts").mkdir(parents=True)
    with open(tmp_path / "corpus" / "parts" / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="is being written by another prepare"):
            prepare(options(text, tokenizer_folder, tmp_path / "corpus"))
    prepare(options(text, tokenizer_folder, tmp_path / "corpus"))


def test_a_changed_source_is_encoded_again_where_it_changed(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path
) -> None:
    out = tmp_path / "corpus"
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("bertjax.data.prepare.merge", interrupted)
        prepare(options(text, tokenizer_folder, out))
    changed = documents(150, seed=4)
    changed[-1] = ["The land and the other."]
    write_text(pathlib.Path(text), changed)
    encoded = []
    with pytest.MonkeyPatch.context() as patch:
        once = workers.Pool._call
        patch.setattr(
            workers.Pool, "_call", lambda self, task: (encoded.append(task[0]), once(self, task))[1]
        )
        corpus = prepare(options(text, tokenizer_folder, out, heldout=0))
    assert len(encoded) == 1
    assert texts(corpus) == [plain(document) for document in changed]


def interrupted(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


# ------------------------------------------------------------------------------------- what is in it


def test_held_out_by_the_hash_of_the_text(tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    some = documents(400, seed=6)
    text = write_text(tmp_path / "text.txt", some + some[:50])
    prepare(options(text, tokenizer_folder, tmp_path / "a", heldout=0.25))
    train, heldout = (texts(open_corpus(str(tmp_path / "a"), split)) for split in ("train", "heldout"))
    assert sorted(train + heldout) == sorted(map(plain, some + some[:50]))
    assert not set(train) & set(heldout) and 70 < len(set(heldout)) < 130
    # Whatever else is in the corpus and in which order, a document stays on its side.
    text = write_text(tmp_path / "other.txt", documents(100, seed=7) + some[::-1])
    prepare(options(text, tokenizer_folder, tmp_path / "b", heldout=0.25))
    again = texts(open_corpus(str(tmp_path / "b"), "heldout"))
    assert set(again) & set(map(plain, some)) == set(heldout)
    ids = open_corpus(str(tmp_path / "a"), "heldout").ids
    assert {document_id("\n".join(document).encode()) for document in some} > set(ids.tolist())


def test_duplicates_go_if_they_are_to(tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    some = documents(200, seed=8)
    first = write_text(tmp_path / "first.txt", some + some[:30])
    second = write_text(tmp_path / "second.txt", [*some[100:], ["Other land."]])
    chosen = PrepareOptions(
        input=(first, second), tokenizer=tokenizer_folder, out=str(tmp_path / "a"), heldout=0, workers=1
    )
    assert len(texts(prepare(chosen))) == 200 + 30 + 101
    corpus = prepare(dataclasses.replace(chosen, deduplicate=True, out=str(tmp_path / "b")))
    assert texts(corpus) == [plain(document) for document in [*some, ["Other land."]]]
    assert corpus.sources.tolist() == [0] * 200 + [1]
    assert [source["duplicates"] for source in corpus.manifest["sources"]] == [30, 100]
    assert [source["train"]["documents"] for source in corpus.manifest["sources"]] == [200, 1]


def test_first_copies_over_many_buckets(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bertjax.data.merge.BUCKET", 64)
    random = np.random.default_rng(0)
    pool = random.integers(0, 2**64, 700, dtype=np.uint64)
    ids = random.choice(pool, 1000)
    parts = [ids[start : start + 90] for start in range(0, 1000, 90)]
    empty = np.zeros(0, np.int64)
    monkeypatch.setattr(
        "bertjax.data.merge.read_part",
        lambda path: Columns(empty, empty, empty, parts[int(path)], empty, None),
    )
    kept = _first_copies([(0, str(number)) for number in range(len(parts))], str(tmp_path))
    seen: set[int] = set()
    for number, keep in zip(ids.tolist(), kept, strict=True):
        assert keep == (number not in seen)
        seen.add(number)


def test_the_manifest_says_what_there_is(tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    some = documents(60, seed=9)
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": " ".join(d)}) + "\n" for d in some)
        + '{"text": "\\u0000 \\u0001"}\n{"no": 1}\n'
    )
    text = write_text(tmp_path / "b.txt", documents(40, seed=10))
    corpus = prepare(
        PrepareOptions(
            input=(str(tmp_path / "a.jsonl"), text),
            tokenizer=tokenizer_folder,
            out=str(tmp_path / "out"),
            on_bad_record="skip",
            heldout=0.3,
            workers=1,
        )
    )
    lines, words = corpus.manifest["sources"]
    assert (lines["name"], lines["kind"], lines["files"]) == (str(tmp_path / "a.jsonl"), "jsonl", 1)
    assert (lines["skipped"], lines["empty"], words["skipped"], words["empty"]) == (1, 1, 0, 0)
    for split in ("train", "heldout"):
        opened = open_corpus(str(tmp_path / "out"), split)
        for name, total in (
            ("documents", opened.documents),
            ("sentences", opened.sentences),
            ("tokens", opened.tokens),
        ):
            assert (
                corpus.manifest["splits"][split][name] == total == lines[split][name] + words[split][name] > 0
            )
    described = corpus.manifest["tokenizer"]
    assert (
        described["vocab_size"] == 200
        and described["special"]["mask"] == 4
        and described["kind"] == "wordpiece"
    )
    subprocess.run(
        ["sha256sum", "--check", "--strict", tmp_path / "out" / "sources.sha256"],
        check=True,
        capture_output=True,
    )


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece"])
def test_sentences_start_words_in_every_kind_of_tokenizer(
    kind: str, text: str, tmp_path: pathlib.Path
) -> None:
    vocab = {"byte_bpe": 400, "sentencepiece": 80}[kind]
    train_tokenizer(
        TokenizerOptions(input=(text,), out=str(tmp_path / "t"), kind=kind, vocab=vocab, workers=1)
    )  # type: ignore[arg-type]
    tokenizer = load(str(tmp_path / "t"))
    corpus = prepare(options(text, str(tmp_path / "t"), tmp_path / "corpus", heldout=0))
    assert corpus.word_starts(0, corpus.tokens)[corpus.sentence_offsets[:-1]].all()
    first = corpus.read(0, int(corpus.sentence_offsets[corpus.document_offsets[1]]))
    assert tokenizer.decode(first).split() == plain(documents(150, seed=4)[0]).split()


def split_in_pairs(sentence: str) -> list[str]:
    """A word segmenter: two characters are a word."""
    dense = sentence.replace(" ", "")
    return [dense[start : start + 2] for start in range(0, len(dense), 2)]


def split_wrongly(sentence: str) -> list[str]:
    return ["nothing", "of", "the", "kind"]


def test_words_by_a_segmenter(tmp_path: pathlib.Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("中文分词器。很好\n\n今天 天气abc不错", encoding="utf-8")
    train_tokenizer(
        TokenizerOptions(input=(str(text),), out=str(tmp_path / "t"), vocab=23, min_frequency=1, workers=1)
    )
    me = "tests.data.test_prepare"
    corpus = prepare(
        options(str(text), str(tmp_path / "t"), tmp_path / "c", heldout=0, segmenter=f"{me}:split_in_pairs")
    )
    names = load(str(tmp_path / "t")).tokens(corpus.read(0, corpus.tokens))
    starts = corpus.word_starts(0, corpus.tokens)
    assert corpus.segmented and "".join(names) == "中文分词器。很好今天天气a##b##c不错"
    words = "".join(("|" if start else "") + name for name, start in zip(names, starts, strict=True))
    # 中文 分词 器。 / 很好 / 今天 天气 ab c不 错: a token starts a word if a word begins in it.
    assert words == "|中文|分词|器。|很好|今天|天气|a##b|##c不|错"
    with pytest.raises(
        ValueError, match=r"split_wrongly gave 'nothing' where the text goes on with '中文分词器。'"
    ):
        prepare(
            options(
                str(text), str(tmp_path / "t"), tmp_path / "d", heldout=0, segmenter=f"{me}:split_wrongly"
            )
        )
    for wrong, message in {
        "no_module:f": "cannot be found",
        f"{me}:f": "cannot be found",
        "os": "cannot be found",
    }.items():
        with pytest.raises(ValueError, match=message):
            prepare(options(str(text), str(tmp_path / "t"), tmp_path / "d", segmenter=wrong))


# ------------------------------------------------------------------------------------- bad input


def test_bad_records_up_to_a_number(tokenizer_folder: str, tmp_path: pathlib.Path) -> None:
    lines = ['{"text": "Some words."}' if n % 10 else "{" for n in range(1000)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    source, out = str(tmp_path / "a.jsonl"), tmp_path / "corpus"
    with pytest.raises(ValueError, match=r"a\.jsonl line 1: broken JSON .*--on_bad_record=skip"):
        prepare(options(source, tokenizer_folder, out))
    with pytest.raises(
        ValueError, match=r"more than bad_records=40 records are bad, one is .*a\.jsonl line \d+"
    ):
        prepare(options(source, tokenizer_folder, out, on_bad_record="skip", bad_records=40))
    assert not (out / "manifest.json").exists()
    corpus = prepare(options(source, tokenizer_folder, out, on_bad_record="skip", bad_records=100))
    assert corpus.manifest["sources"][0]["skipped"] == 100
    assert corpus.documents + corpus.manifest["splits"]["heldout"]["documents"] == 900


def test_a_tool_says_one_line_and_fails(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_text(" \n\n \n")
    (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1 and no more")
    good = {"input": text, "tokenizer": tokenizer_folder, "out": str(tmp_path / "out"), "workers": "1"}
    cases = {
        "is empty|no document: give more text": {"input": str(tmp_path / "empty.txt")},
        r"latin\.txt line 1: not UTF-8 \(byte 0xf6\)": {"input": str(tmp_path / "latin.txt")},
        r"cut\.parquet is not a whole parquet file": {"input": str(tmp_path / "cut.parquet")},
        "matches no file": {"input": str(tmp_path / "nothing.txt")},
        r"tokenizer .* cannot be read": {"tokenizer": str(tmp_path / "nothing")},
        "heldout=1.0 is not a share": {"heldout": "1"},
        "workers=0: at least 1": {"workers": "0"},
        "did you mean 'raise'|choose from raise, skip": {"on_bad_record": "rais"},
        "unknown option '--heldoutt': did you mean 'heldout'": {"heldoutt": "1"},
        "no out given": {"out": ""},
        r"text\.txt is a file": {"out": text},
        r"out=.*/corpus cannot be written \(Not a directory\)": {"out": f"{text}/corpus"},
    }
    capsys.readouterr()
    for message, change in cases.items():
        code = tools.main(["prepare", *(f"--{name}={value}" for name, value in {**good, **change}.items())])
        said = capsys.readouterr().err
        assert code == 2, (message, said)
        [line] = said.strip().splitlines()
        assert re.search(message, line), line
        assert not (tmp_path / "out" / "manifest.json").exists()
    done = run_tool("prepare", *(f"--{name}={value}" for name, value in {**good, "workers": "0"}.items()))
    assert done.returncode == 2 and done.stderr.startswith("error: workers=0: at least 1"), done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout
    done = run_tool("prepare", *(f"--{name}={value}" for name, value in good.items()))
    assert done.returncode == 0 and "tokens" in done.stdout, done.stderr


def test_no_space_left(
    text: str, tokenizer_folder: str, tmp_path: pathlib.Path, whole: dict[str, str]
) -> None:
    """A limit on the size of files stands for the disk: the system refuses the write in the same way."""
    out = tmp_path / "full"
    code = (
        "import resource\n"
        "from bertjax.data import streams\n"
        "from bertjax.data.prepare import PrepareOptions, prepare\n"
        "streams.BLOCK = 2000\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))\n"
        "try: prepare(PrepareOptions(input=({text!r},), tokenizer={tokenizer!r}, out={out!r}, workers=1))\n"
        "except ValueError as error: print('error:', error)\n"
    )
    for limit in (500, 5000):  # not enough for a part; enough for the parts but not for the shard
        done = run_python(code.format(limit=limit, text=text, tokenizer=tokenizer_folder, out=str(out)))
        assert "error: no space left for out=" in done.stdout, (done.stdout, done.stderr)
        assert "run the same command, it continues" in done.stdout and "Traceback" not in done.stderr, (
            done.stderr
        )
        assert not list(out.glob("manifest.json*")) and not list(out.glob("parts/*.arrow.*"))
        assert bool(list(out.glob("parts/*.arrow"))) == (limit == 5000)
    prepare(options(text, tokenizer_folder, out))
    assert contents(out) == whole


# ------------------------------------------------------------------------------------- workers


def fail(kind: str):  # type: ignore[no-untyped-def]
    def target(task: int) -> int:
        if task == 3:
            if kind == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise {"value": ValueError, "other": ZeroDivisionError}[kind]("about three")
        print("noise on standard output")
        return task * task

    return target


@pytest.mark.usefixtures("processes")
def test_workers_answer_in_order_and_errors_come_through() -> None:
    me = f"{__name__ if __name__ != '__main__' else 'tests.data.test_prepare'}:fail"
    with workers.Pool(3, me, "value") as pool:
        assert list(pool.map(range(10, 40))) == [n * n for n in range(10, 40)]
    for kind, error, message in (
        ("value", ValueError, "about three"),
        ("other", RuntimeError, "ZeroDivisionError: about three"),
        ("die", RuntimeError, "was ended by signal 9 .if memory ran out, use fewer workers"),
    ):
        with pytest.raises(error, match=message), workers.Pool(2, me, kind) as pool:
            assert next(results := pool.map(range(100))) == 0
            list(results)


def test_workers_do_not_carry_jax_and_do_not_outlive_their_parent(tmp_path: pathlib.Path) -> None:
    run_python(
        "import sys, bertjax.data.encode, bertjax.data.tokenizer, bertjax.data.workers\n"
        "assert 'jax' not in sys.modules"
    )
    code = (
        "import sys, time\n"
        "from bertjax.data.workers import Pool\n"
        "pool = Pool(2, 'builtins:float')\n"
        "try: list(pool.map([1, 2, 3]))\n"
        "except RuntimeError: pass\n"
        "print(*[process.pid for process in pool._processes], flush=True)\n"
        "time.sleep(60)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    children = [int(pid) for pid in parent.stdout.readline().split()]
    assert children and all(os.path.exists(f"/proc/{pid}") for pid in children)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 20
    while any(_runs(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
