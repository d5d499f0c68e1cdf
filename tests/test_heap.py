"""A process that computes on a CPU keeps the memory of its steps, and does not grow with them."""

import json
import os
import subprocess
import sys

import pytest

from bertjax import heap
from bertjax.heap import computes_on_cpu

pytestmark = pytest.mark.skipif(heap._glibc() is None, reason="no glibc here")

MEGABYTES = 64  # of a step's working memory, about
PROGRAM = f"""
import json, resource, sys
from bertjax import heap
print(heap.keep() if sys.argv[1] == "kept" else None, file=sys.stderr)
import jax, jax.numpy as jnp
from bertjax.bench.machine import forget_peak, peak_memory, resident_memory

def step(x):
    wide = x @ jnp.ones((8, {MEGABYTES * 2**20 // 4 // 2048}))
    return jnp.tanh(wide) @ jnp.ones((wide.shape[1], 8))

x = jnp.ones((2048, 8))
step = jax.jit(step).lower(x).compile()
size = step.memory_analysis().temp_size_in_bytes
jax.block_until_ready(x)
before = resident_memory()
forget_peak()
heap.reserve([step])
small, faults = [], []
for turn in range(60):
    began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    small += [bytearray(3000 + turn), jnp.ones(1000 + turn)]  # stay, and lie where they find a place
    x = step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - began)
print(json.dumps(dict(size=size, grown=peak_memory() - before, faults=sorted(faults)[len(faults) // 2])))
"""


def run(how: str) -> dict[str, int]:
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert ("True" if how == "kept" else "None") in done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    assert found["size"] > 0.9 * MEGABYTES * 2**20
    return found


def test_steps_find_the_pages_of_those_before_and_take_little_more_memory() -> None:
    kept, plain = run("kept"), run("plain")
    assert plain["faults"] > 20, "a step maps its memory anew, be the pages small or large"
    assert kept["faults"] < 0.1 * plain["faults"]
    assert kept["grown"] < plain["grown"] + 1.3 * kept["size"]


PLACES = """
import sys
from bertjax import heap

class Program:
    temp_size_in_bytes = 1 << 24

    def memory_analysis(self):
        return self

assert heap.keep()
(library,) = heap._kept
if sys.argv[1] == "reserved":
    heap.reserve([Program()])
found = []
for _ in range(40):
    block = library.malloc(Program.temp_size_in_bytes + 64)
    found.append(block)
    library.malloc(5000)  # stays behind it
    library.free(block)
    library.malloc(5000)  # stays where it was, unless there is another place for so little
print(max(found) - min(found))
"""


def spread(how: str) -> int:
    """How far from each other the blocks of forty steps of 16 MiB lay, in bytes."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", PLACES, how], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_place_serves_again_though_small_blocks_come_between() -> None:
    assert spread("reserved") < 1 << 20
    assert spread("none") >= 1 << 24, "without a place of its own a step goes behind what stays"


@pytest.mark.parametrize(
    ("platforms", "device", "wanted"),
    [
        ("cpu", "nvidia0", True),
        ("cuda,cpu", "", False),
        ("", "nvidia0", False),
        ("", "accel1", False),
        ("", "", True),
    ],
)
def test_it_is_for_cpus(platforms: str, device: str, wanted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAX_PLATFORMS", platforms)
    monkeypatch.setattr(
        "pathlib.Path.glob", lambda path, kind: [path / device] if device and device[0] == kind[0] else []
    )
    assert computes_on_cpu() is wanted
    if not wanted:
        monkeypatch.setattr(heap, "computes_on_cpu", computes_on_cpu)
        assert not heap.keep()


def test_what_is_not_kept_is_not_reserved() -> None:
    assert not heap._kept, "tests share this process"
    heap.reserve([None])  # what an accelerator has compiled is not even looked at
