"""Two processes on one machine train together: they stop as one, go on as one, and give the losses of one."""

import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import time

import pytest
from runs import records, tiny

from bertjax import train
from bertjax.checkpoint import Checkpoints

pytestmark = pytest.mark.multiprocess

STEPS = 40
CHILD = """
import time
from bertjax import experiment
from bertjax.data.loader import Loader
from runs import tiny

place = Loader.place
def slowly(loader, step, *where):
    time.sleep({pause})
    return place(loader, step, *where)
Loader.place = slowly
experiment.main(tiny("mesh.data=1", "mesh.fsdp=2", "mesh.rules=fsdp", "train.steps={steps}"))
"""


def together(
    workdir: pathlib.Path, settings: dict[str, str], *, stop_after: str | None = None
) -> list[tuple[int, str, str]]:
    """Two processes with one device each: (exit code, output, errors) of both.

    Once metrics.jsonl holds the text `stop_after`, both get a SIGTERM, as from a scheduler; a pause in every step
    leaves them the time to agree on where to stop.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    flags = os.environ["XLA_FLAGS"].replace("device_count=8", "device_count=1")
    paths = os.pathsep.join([os.getcwd(), os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, **settings, "XLA_FLAGS": flags, "PYTHONPATH": paths}
    code = CHILD.format(steps=STEPS, pause=0.1 if stop_after else 0)
    command = [
        sys.executable,
        "-c",
        code,
        f"--workdir={workdir}",
        f"--coordinator={address}",
        "--processes=2",
    ]
    pipe = subprocess.PIPE
    processes = [
        subprocess.Popen([*command, f"--process={i}"], stdout=pipe, stderr=pipe, text=True, env=environment)
        for i in range(2)
    ]
    try:
        log, begin = workdir / "metrics.jsonl", time.monotonic()
        while stop_after and not (log.exists() and stop_after in log.read_text()):
            assert time.monotonic() - begin < 300, "nothing was logged"
            assert all(process.poll() is None for process in processes), processes[0].communicate()
            time.sleep(0.05)
        for process in processes if stop_after else ():
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, *output) for process, output in zip(processes, outputs, strict=True)]


def test_two_processes_stop_resume_and_finish_as_one(
    tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    both, one = tmp_path / "both", tmp_path / "one"
    stopped = set()
    for code, out, errors in together(both, quick_compiles, stop_after='"step": 4,'):
        assert code == train.REQUEUE, errors
        (said,) = re.findall(rf"stopped at step (\d+) of {STEPS}: the same command goes on", errors)
        stopped.add(int(said))
        assert not spoken(out)
    (step,) = stopped  # the same in both
    assert 4 <= step < STEPS
    assert Checkpoints(both).survey() == (step, [])

    (both / "checkpoints" / "99" / "params").mkdir(parents=True)  # what a kill may leave
    primary, other = together(both, quick_compiles)
    assert [primary[0], other[0]] == [0, 0], primary[2] + other[2]
    assert f"resumes at step {step}" in primary[2] and "2 process(es)" in primary[2]
    assert "not used    checkpoint step 99 was not written to its end" in primary[2]
    assert not spoken(other[1]) and "step" not in other[2], "only process 0 speaks"
    result = json.loads(spoken(primary[1])[-1])
    assert result["processes"] == 2 and result["step"] == STEPS

    train.train(tiny(f"train.steps={STEPS}"), str(one))
    theirs = {line["step"]: line for line in records(one) if "loss" in line}
    ours = {line["step"]: line for line in records(both) if "loss" in line}
    split = {step, step + step % 2}  # it logs when it stops, too
    assert len(theirs) == STEPS // 2 and theirs.keys() <= ours.keys()
    for number in theirs.keys() - split:
        assert ours[number]["loss"] == pytest.approx(theirs[number]["loss"], rel=1e-4), number
    early = [number for number in theirs if number <= 6 and number not in split]
    assert early
    for number in early:
        assert ours[number]["loss"] == pytest.approx(theirs[number]["loss"], rel=1e-5), number
    alone = json.loads((one / "result.json").read_text())["metrics"]
    for name, value in alone.items():
        assert result["metrics"][name] == pytest.approx(value, rel=1e-3, abs=1e-3), name


def spoken(output: str) -> list[str]:
    """What was printed, but for the greetings of gloo."""
    return [line for line in output.splitlines() if "[Gloo]" not in line]
