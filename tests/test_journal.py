"""The journal: what a run leaves behind, interrupted or not, on a terminal or not, alone or one of many."""

import io
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertjax import journal
from bertjax.journal import Journal


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def records(workdir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def open_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Journal]:
    """Journals of a run of 100 steps that write no event files."""
    monkeypatch.setitem(sys.modules, "tensorboardX", None)

    def make(**options: Any) -> Journal:
        options = {"stream": io.StringIO(), "clock": Clock(), "primary": True, **options}
        return Journal(str(tmp_path), 100, **options)

    return make


def test_rates_leave_out_pauses(open_journal: Callable[..., Journal], tmp_path: Path) -> None:
    clock, stream = Clock(), io.StringIO()
    with open_journal(clock=clock, stream=stream) as written:
        clock.now += 50  # compiling belongs to no rate
        written.start_clock()
        clock.now += 4
        written.log_rates(8, {"loss": 3.5}, tokens=4000, flops_per_token=1e6, waited=1.0)
        clock.now += 1
        with written.pause():
            clock.now += 500
        clock.now += 1
        written.log_rates(10, {"loss": 3.0}, tokens=6000, flops_per_token=2e6, waited=1.5)
        clock.now += 1
        written.log_rates(11, {"loss": 3.0}, tokens=500, flops_per_token=1, waited=1.5)
    first, second, third = records(tmp_path)
    assert first == {
        "step": 8,
        "seconds": 54.0,
        "loss": 3.5,
        "steps_per_second": 2.0,
        "tokens_per_second": 1000.0,
        "flops_per_second": 1e9,
        "waiting": 0.25,
    }
    assert second["tokens_per_second"] == 3000.0
    assert second["steps_per_second"] == 1.0
    assert second["flops_per_second"] == 6e9
    assert second["waiting"] == 0.25  # half a second of two
    assert third["tokens_per_second"] == 500.0
    line = stream.getvalue().splitlines()[1]
    # 4 s for 8 steps leave 92 steps of half a second
    assert line == "step 8/100  loss 3.5  1.0k tokens/s  1.0 GFLOP/s  waits for data 25%  ETA 00:46"


def test_lines_are_there_before_the_journal_is_closed(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    written = open_journal()
    written.log(1, {"loss": 2})
    assert records(tmp_path) == [{"step": 1, "seconds": 0.0, "loss": 2.0}]
    written.__exit__(None, None, None)


def test_resumed_files_read_like_those_of_one_run(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    clock = Clock()
    with open_journal(clock=clock) as lost:
        for step in (10, 20, 30):
            clock.now += 7
            lost.log(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "seco')  # killed while it wrote
    clock = Clock()
    with open_journal(clock=clock, resume=20) as resumed:
        clock.now += 5
        resumed.log(30, {"loss": -30})
    assert [(r["step"], r["seconds"], r["loss"]) for r in records(tmp_path)] == [
        (10, 7.0, 10.0),
        (20, 14.0, 20.0),
        (30, 19.0, -30.0),
    ]
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl"]
    with open_journal(resume=0):
        pass
    assert records(tmp_path) == []


def test_a_whole_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3, "seconds": 1.5}')
    assert journal.rewind(path, 5) == 1.5
    assert path.read_text() == '{"step": 3, "seconds": 1.5}\n'


@pytest.mark.parametrize("line", ["nonsense", "[1]", "{}", '"text"'])
def test_a_foreign_file_is_not_touched(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    text = f'{{"step": 3, "seconds": 1.5}}\n{line}\n{{"step": 4, "seconds": 2}}\n'
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2 is no record of a run"):
        journal.rewind(path, 3)
    assert path.read_text() == text


def test_result(
    open_journal: Callable[..., Journal], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock()
    with open_journal(clock=clock) as written:
        clock.now += 12.5
        assert not (tmp_path / "result.json").exists()
        written.finish({"heldout_loss": 2.5, "heldout_nsp_accuracy": float("nan")}, step=100)
    result = json.loads((tmp_path / "result.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == result
    assert result["metrics"] == {"heldout_loss": 2.5, "heldout_nsp_accuracy": None}
    assert (result["step"], result["seconds"]) == (100, 12.5)
    assert result["command"] == shlex.join(sys.orig_argv)
    assert result["devices"].startswith("8 x ")
    import flax

    assert result["versions"]["flax"] == flax.__version__
    assert result["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl", "result.json"]


def test_a_result_lives_as_long_as_its_run_is_finished(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    with open_journal() as written:
        written.finish({}, step=100)
    with open_journal(resume=100):
        assert (tmp_path / "result.json").exists()
    with open_journal(resume=90):
        assert not (tmp_path / "result.json").exists()


def test_a_finished_workdir_says_what_it_holds(open_journal: Callable[..., Journal], tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with open_journal() as written:
        assert not journal.is_finished(str(tmp_path))
        written.finish({}, step=100)
    assert journal.is_finished(str(tmp_path))
    width = len(str(tmp_path / "metrics.jsonl"))
    assert journal.inventory(str(tmp_path)).splitlines() == [
        f"  {str(tmp_path / 'result.json'):{width}}  final metrics",
        f"  {str(tmp_path / 'metrics.jsonl'):{width}}  every logged number",
        f"  {str(tmp_path / 'checkpoints'):{width}}  parameters and optimizer",
    ]


def test_an_error_leaves_no_result(open_journal: Callable[..., Journal], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="diverged"), open_journal() as written:
        written.log(1, {"loss": 1})
        raise RuntimeError("diverged")
    assert sorted(os.listdir(tmp_path)) == ["metrics.jsonl"]


def test_other_processes_write_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    workdir = tmp_path / "none"
    with Journal(str(workdir), 100, primary=False, stream=Terminal()) as written:
        written.banner("hello")
        written.status("compiling ...")
        written.start_clock()
        written.log(1, {"loss": 1})
        written.log_rates(2, {"loss": 1}, tokens=1, flops_per_token=1, waited=0)
        with written.pause():
            pass
        written.finish({"loss": 1}, step=2)
    assert not workdir.exists()
    assert capfd.readouterr() == ("", "")


def test_bar_on_a_terminal(open_journal: Callable[..., Journal]) -> None:
    stream, clock = Terminal(), Clock()
    with open_journal(stream=stream, clock=clock, resume=50) as written:
        written.status("compiling")
        written.start_clock()
        clock.now += 2
        values = {"loss": 3.25, "mlm_accuracy": 0.5, "gradient_norm": 9.0}
        written.log_rates(60, values, tokens=2e5, flops_per_token=3e7, waited=0.0)
        written.log(60, {"heldout_loss": 3.5})
    shown = stream.getvalue()
    assert "compiling ...\n" in shown
    assert "50%" in shown and "60/100" in shown
    assert "loss 3.25  mlm_accuracy 0.5  100k tokens/s  3.0 TFLOP/s  ETA 00:08" in shown
    assert "gradient_norm" not in shown
    assert "step 60/100  heldout_loss 3.5\n" in shown


def test_event_files_hold_the_records(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboardX.proto.event_pb2")
    for resume in (0, 3):
        with Journal(str(tmp_path), 10, resume=resume, primary=True, stream=io.StringIO()) as written:
            written.log(5, {"loss": 2.5, "broken": float("nan")})
    scalars, starts = [], []
    for file in sorted((tmp_path / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:  # a record is its length, a checksum of that, the event, and a checksum of that
            length = int.from_bytes(data[:8], "little")
            event = events.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            scalars += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            starts += [event.step] if event.HasField("session_log") else []
    assert scalars == [(5, "loss", 2.5)] * 2
    assert starts == [1, 4]  # what TensorBoard forgets begins here


@pytest.mark.parametrize("library", ["tensorboardX", "tqdm"])
def test_one_line_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    for name in ("tensorboardX", "tqdm"):
        monkeypatch.setitem(sys.modules, name, None)
    stream = Terminal()
    with Journal(str(tmp_path), 10, primary=True, stream=stream, clock=Clock()) as written:
        written.start_clock()
        written.log_rates(5, {"loss": 1}, tokens=1, flops_per_token=1, waited=0)
    assert stream.getvalue().count(f"{library} is not installed") == 1
    assert "step 5/10  loss 1" in stream.getvalue()


def test_full_disk_is_one_line_and_leaves_whole_records(
    open_journal: Callable[..., Journal], tmp_path: Path
) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
    try:
        with pytest.raises(ValueError, match="make room") as caught, open_journal() as written:
            for step in range(20):
                written.log(step, {"loss": 1})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "metrics.jsonl") in str(caught.value)
    assert "\n" not in str(caught.value)
    with open_journal(resume=100):
        pass
    steps = [record["step"] for record in records(tmp_path)]
    assert steps == list(range(len(steps)))
    assert 2 < len(steps) < 20


def test_workdir_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ValueError, match="taken"):
        Journal(str(tmp_path / "taken"), 10, primary=True, stream=io.StringIO())


def test_a_killed_run_leaves_whole_lines(tmp_path: Path) -> None:
    code = f"""
import os, signal
from bertjax.journal import Journal
written = Journal({str(tmp_path)!r}, 10, primary=True)
for step in range(7):
    written.log(step, {{"loss": step}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=120)
    assert [record["step"] for record in records(tmp_path)] == list(range(7))


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (12, "12"), (12.34, "12.3"), (999, "999"), (999.6, "1.0k"), (1234, "1.2k"), (99960, "100k")]
    + [(123456, "123k"), (3.44e9, "3.4G"), (5e17, "500P"), (3e18, "3000P"), (-1500, "-1.5k")],
)
def test_scaled(number: float, text: str) -> None:
    assert journal.scaled(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "00:00"), (83.4, "01:23"), (59.6, "01:00"), (3723, "1:02:03"), (86399.6, "1 d 00:00")]
    + [(2 * 86400 + 3 * 3600 + 240, "2 d 03:04")],
)
def test_duration(seconds: float, text: str) -> None:
    assert journal.duration(seconds) == text
