"""Stands in for sbatch, srun and scontrol: runs a job at once, on this machine, until nobody puts it back.

$FAKE_SLURM is a folder. A file `preempt` there names a file and a text: once that file holds the text, all processes of
the running step are told to stop, and `preempt` is gone.
"""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time

STATE = pathlib.Path(os.environ["FAKE_SLURM"])


def options_of(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """Those before the first word that is none, and the rest."""
    options = {}
    while arguments and arguments[0].startswith("--"):
        name, _, value = arguments.pop(0)[2:].partition("=")
        options[name] = value
    return options, arguments


def sbatch(arguments: list[str]) -> int:
    options, command = options_of(arguments)
    (STATE / "submitted").write_text("\n".join(f"{name}={value}" for name, value in options.items()))
    for restarts in range(10):
        job = {
            "SLURM_JOB_ID": "4242",
            "SLURM_JOB_NODELIST": "localhost",
            "SLURM_NTASKS_PER_NODE": options["ntasks-per-node"],
            "SLURM_NTASKS": str(int(options["nodes"]) * int(options["ntasks-per-node"])),
            "SLURM_RESTART_COUNT": str(restarts),
        }
        # The real one runs a copy, from a folder of its own.
        script = STATE / "slurm_script"
        script.write_bytes(pathlib.Path(command[0]).read_bytes())
        code = subprocess.run(
            ["bash", script, *command[1:]],
            cwd=options["chdir"],
            env={**os.environ, **job},
            stdin=subprocess.DEVNULL,
        ).returncode
        (STATE / "ends").open("a").write(f"{code}\n")
        if not (STATE / "requeued").exists():
            return code
        (STATE / "requeued").unlink()
    return code


def srun(arguments: list[str]) -> int:
    _, command = options_of(arguments)
    tasks = [
        subprocess.Popen(
            command,
            env={**os.environ, "SLURM_PROCID": str(i), "SLURM_LOCALID": str(i)},
            start_new_session=True,
        )
        for i in range(int(os.environ["SLURM_NTASKS"]))
    ]
    preempt = STATE / "preempt"
    try:
        while any(task.poll() is None for task in tasks):
            if preempt.exists():
                name, text = preempt.read_text().splitlines()
                if os.path.exists(name) and text in pathlib.Path(name).read_text():
                    preempt.unlink()
                    for task in tasks:  # shells and what they have started
                        os.killpg(task.pid, signal.SIGTERM)
            time.sleep(0.05)
    finally:
        for task in tasks:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(task.pid, signal.SIGKILL)
    return max(task.returncode if task.returncode >= 0 else 128 - task.returncode for task in tasks)


def scontrol(arguments: list[str]) -> int:
    if arguments[:2] == ["show", "hostnames"]:
        print("localhost")
    else:
        assert arguments == ["requeue", "4242"], arguments
        (STATE / "requeued").touch()
    return 0


sys.exit({"sbatch": sbatch, "srun": srun, "scontrol": scontrol}[sys.argv[1]](sys.argv[2:]))
