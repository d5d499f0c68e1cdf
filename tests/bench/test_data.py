"""The price of rows: what is printed is what was measured."""

import json
import pathlib

import pytest

from bertjax.__main__ import main
from bertjax.bench import bare
from bertjax.bench import data as bench
from bertjax.data.loader import Speed
from bertjax.data.prepare import PrepareOptions, prepare
from bertjax.data.tokenizer import TokenizerOptions, train_tokenizer
from tests.data.corpora import documents, write_text


def test_growth_is_over_one_worker_of_the_kind(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def threads(options: bench.DataBench, number: int) -> list[Speed]:
        asked.append(("threads", number))
        return [Speed(tokens=3000 + 600 * (number - 1), seconds=1.5, core_seconds=1.5)]

    def processes(options: bench.DataBench, number: int) -> list[Speed]:
        asked.append(("processes", number))
        return [Speed(tokens=2000, seconds=1.0, core_seconds=0.8)] * number

    monkeypatch.setattr(bench, "by_threads", threads)
    monkeypatch.setattr(bench, "by_processes", processes)
    options = ["--vocab=53", "--length=24", "--batch_size=7", "--threads=4,2", "--processes=3"]
    assert main(["bench", "data", *options, "--need=1000", f"--out={tmp_path}", "--format=best_fit"]) == 0
    assert asked == [*(("threads", n) for n in (1, 2, 4)), ("processes", 1), ("processes", 3)]
    result = json.loads((tmp_path / "data.json").read_text())
    assert [line["tokens_per_second"] for line in result["workers"]] == pytest.approx(
        [2000, 2400, 3200, 2000, 6000]
    )
    assert [line["growth"] for line in result["workers"]] == pytest.approx([1, 1.2, 1.6, 1, 3])
    assert [line["tokens_per_core_second"] for line in result["workers"]] == pytest.approx(
        [2000, 2400, 3200, 2500, 2500]
    )
    assert result["format"] == "BestFit" and 0.5 < result["efficiency"] < 1
    out = capsys.readouterr().out
    assert "rows of 24" in out and "6.0k" in out and "3.00" in out and "6.0 x" in out


def test_the_loader_is_really_measured(tmp_path: pathlib.Path) -> None:
    options = bench.DataBench(
        vocab=53, length=24, batch_size=8, threads=(1,), processes=(2,), seconds=0.05, out=str(tmp_path)
    )
    lines = bench.run(options)["workers"]
    assert [(line["kind"], line["workers"]) for line in lines] == [
        ("threads", 1),
        ("processes", 1),
        ("processes", 2),
    ]
    for line in lines:
        assert line["tokens_per_second"] > 1000 and line["tokens_per_core_second"] > 1000


def test_preparing_is_beside_the_tokenizer_alone(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both sides read the same text; what is printed is the fastest over the fastest."""
    text = tmp_path / "text.txt"
    write_text(text, documents(40))
    train_tokenizer(TokenizerOptions(input=(str(text),), out=str(tmp_path / "t"), vocab=200, workers=1))
    corpus = prepare(
        PrepareOptions(input=(str(text),), tokenizer=str(tmp_path / "t"), out=str(tmp_path / "c"), heldout=0)
    )
    found = bare.compare(str(text), str(tmp_path / "c" / "tokenizer"), rounds=2)
    assert len(found.bare) == len(found.prepare) == 2 and found.megabytes == text.stat().st_size / 1e6
    assert corpus.documents == 40 and min(found.bare) > 0
    assert min(found.prepare) > 2 * min(found.bare)  # a process starts, and so little text takes no time
    assert bare.Prepared(1.0, (2.0, 4.0), (3.0, 9.0)).ratio == 1.5
    options = [
        "--threads=1",
        "--processes=1",
        "--seconds=0.05",
        "--length=24",
        "--batch_size=4",
        f"--corpus={tmp_path / 'c'}",
    ]
    assert main(["bench", "data", *options, f"--text={text}", "--rounds=1", f"--out={tmp_path}"]) == 0
    written = json.loads((tmp_path / "data.json").read_text())["prepare"]
    assert written["ratio"] == pytest.approx(written["prepare"][0] / written["bare"][0])
    assert f"{written['ratio']:.2f} times" in capsys.readouterr().out
    (tmp_path / "broken").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="the tokenizer ended with 1: .*UnicodeDecodeError"):
        bare.compare(str(tmp_path / "broken"), str(tmp_path / "c" / "tokenizer"), rounds=1)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--text=a.txt", "text=a.txt needs a tokenizer, that of the corpus, and corpus=synthetic has none"),
        ("--rounds=0", "rounds=0 must be at least 1"),
        ("--threads=0", "threads=0: each at least 1"),
        ("--seconds=0", "seconds=0.0 and need=None must be above 0"),
        ("--corpus=/nowhere", "/nowhere"),
        ("--corpus=", "data.corpus is empty"),
    ],
)
def test_wrong_input_is_one_line(option: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "data", option]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
