"""What a process knows of its machine: memory at its highest, threads, and the environment that both sides run in."""

import contextlib
import pathlib
import re
import resource
import sys

# Both sides start with this. JAX must not take all of an accelerator's memory, which it shares with the other side.
ENVIRONMENT = {
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
    "HF_HUB_OFFLINE": "1",
}


def forget_peak() -> None:
    """Starts to look for the highest memory of this process anew, where the system can."""
    with contextlib.suppress(OSError):
        pathlib.Path("/proc/self/clear_refs").write_text("5")


def resident_memory() -> int:
    """The bytes this process holds in memory; 0 where the system does not say."""
    return _status("VmRSS") or 0


def peak_memory() -> int:
    """The most bytes it has held since `forget_peak`."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return _status("VmHWM") or (most if sys.platform == "darwin" else most * 1024)


def _status(name: str) -> int | None:
    with contextlib.suppress(OSError):
        found = re.search(rf"{name}:\s+(\d+) kB", pathlib.Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    return None


def processor() -> str:
    """The name of the CPU."""
    with contextlib.suppress(OSError):
        found = re.search(r"model name\s*: (.+)", pathlib.Path("/proc/cpuinfo").read_text())
        if found:
            return found[1]
    return "CPU"
