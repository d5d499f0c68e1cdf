"""Two processes on one machine train together: the same losses as one, and they stop and resume as one."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
from runs import records, tiny

from bertjax import train
from bertjax.checkpoint import Checkpoints

pytestmark = [pytest.mark.multiprocess, pytest.mark.usefixtures("quick_compiles")]

RUN = """
import sys
sys.path.insert(0, {tests!r})
from runs import tiny
from bertjax import experiment
experiment.main(tiny("mesh.data=1", "mesh.fsdp=2", "mesh.rules=fsdp", "train.steps={steps}"))
"""


def together(
    workdir: pathlib.Path, *, steps: int, stop_after: str | None = None
) -> list[tuple[int, str, str]]:
    """Two processes with one device each: (exit code, output, errors); SIGTERM to both once a file holds a text."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    environment = {**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": os.getcwd()}
    code = RUN.format(tests=os.path.dirname(__file__), steps=steps)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, f"--workdir={workdir}"]
            + [f"--coordinator={address}", "--processes=2", f"--process={index}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        for index in range(2)
    ]
    try:
        if stop_after is not None:
            log = workdir / "metrics.jsonl"
            for _ in range(1200):
                if log.exists() and stop_after in log.read_text():
                    break
                assert all(process.poll() is None for process in processes)
                time.sleep(0.1)
            for process in processes:
                process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(p.returncode, *output) for p, output in zip(processes, outputs, strict=True)]


def test_two_processes_stop_and_resume_as_one(tmp_path: pathlib.Path) -> None:
    for code, _, errors in together(tmp_path, steps=3000, stop_after='"step": 4,'):
        assert code == train.REQUEUE, errors
        assert "the same command goes on from there" in errors
    stopped = Checkpoints(tmp_path).latest()
    assert stopped is not None
    assert 4 <= stopped < 3000
    results = together(tmp_path, steps=3000, stop_after=f'"step": {stopped + 4 - stopped % 2},')
    assert [code for code, _, _ in results] == [train.REQUEUE] * 2, results
    assert f"resumes at step {stopped}" in results[0][2]


def test_two_processes_finish_together(tmp_path: pathlib.Path) -> None:
    results = together(tmp_path / "both", steps=6)
    assert [code for code, _, _ in results] == [0, 0], results
    primary, other = (out for _, out, _ in results)
    result = json.loads(primary.splitlines()[-1])
    assert result["processes"] == 2
    assert not [line for line in other.splitlines() if "[Gloo]" not in line]  # only process 0 speaks
    train.train(tiny("train.steps=6"), str(tmp_path / "one"))
    alone = json.loads((tmp_path / "one" / "result.json").read_text())
    ours, theirs = (
        [line["loss"] for line in records(tmp_path / w) if "loss" in line] for w in ("both", "one")
    )
    assert len(ours) == 3
    assert ours == pytest.approx(theirs, rel=1e-5)
    for name, value in alone["metrics"].items():
        assert result["metrics"][name] == pytest.approx(value, rel=1e-4), name
