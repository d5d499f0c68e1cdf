"""The price of rows: what is printed is what was measured."""

import json
import pathlib

import pytest

from bertjax.__main__ import main
from bertjax.bench import data as bench
from bertjax.data.loader import Speed


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


@pytest.mark.parametrize(
    ("option", "message"),
    [
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
