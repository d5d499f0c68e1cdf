"""Machines by name: the devices to compile for, and what is publicly known of their chips.

    v5e:16x16   v6e:8x8         TPUs in two dimensions
    v4:2x2x1    v5p:4x4x4       TPUs in three
    v5e-256     v5p-64          the same by the cloud's names (v4 and v5p count TensorCores, two a chip)
    v5e:16x16@2                 two slices, joined by the data-centre network
    cpu:8                       forced CPU devices: collectives and memory, no estimate of time
    gpu:8       h200:64         NVIDIA GPUs (a100, h100, h200; gpu is h100), eight a machine: lowered, not compiled

The TPU compiler comes with libtpu, an ordinary package that needs neither a TPU nor a network (requirements-plan.txt).
"""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import jax

GIB, GB, TERA = 2**30, 10**9, 10**12


@dataclasses.dataclass(frozen=True)
class Chip:
    """What one device of a machine can do; bytes and seconds."""

    name: str
    memory: int  # that programs may use
    flops: float  # bf16, a second, dense
    bandwidth: float  # of its memory
    link: float  # of one link to a neighbour, in one direction
    dimensions: int  # of the torus of links; 0 where a switch joins the devices of a machine
    network: float  # of its share of the data-centre network, in one direction
    devices: int = 1  # that JAX sees on one chip
    wraps: int = 4  # links close to a ring along a side that is a multiple of this
    hosted: int = 4  # chips of one machine


# TPUs: cloud.google.com/tpu/docs/v4, v5e, v5p, v6e, tables "System architecture": peak, capacity and bandwidth of HBM;
# bidirectional bandwidth of the interconnect a chip (v4 600, v5e 400, v5p 1200, v6e 800 GB/s; here by link and
# direction: a chip has two links a dimension); bandwidth of the data-centre network (v5e 6.4 and v6e 25.6 Tbit/s a pod
# of 256 chips, v5p 50 Gbit/s a chip; v4 has no figure there: as v5p). What the compiler lets a program use is written
# in its refusals: 15.75 GiB on v5e, 31.24 on v6e, 15.25 on a core of v4, and no less than all 95 on v5p. JAX sees the
# two TensorCores of a v4 chip apart in topologies of this compiler: half a chip each. Along a side of a 3D slice links
# wrap at multiples of four (cubes joined by optical switches), in 2D along the whole side of a pod, sixteen.
# GPUs: NVIDIA's data sheets of A100 80GB SXM, H100 SXM and H200 SXM: peak bf16 without sparsity, HBM, NVLink (600 and
# 900 GB/s in both directions); 400 Gbit/s of network a GPU as in DGX H100, 200 in DGX A100.
CHIPS = {
    "v4": Chip("TPU v4", int(15.25 * GIB), 137.5 * TERA, 614e9, 25e9, 3, 3.125e9, devices=2),
    "v5e": Chip("TPU v5e", int(15.75 * GIB), 197 * TERA, 819e9, 50e9, 2, 3.125e9, wraps=16, hosted=8),
    "v5p": Chip("TPU v5p", int(95 * GIB), 459 * TERA, 2765e9, 100e9, 3, 6.25e9),
    "v6e": Chip("TPU v6e", int(31.24 * GIB), 918 * TERA, 1638e9, 100e9, 2, 12.5e9, wraps=16, hosted=8),
    "a100": Chip("A100 80GB SXM", 80 * GB, 312 * TERA, 2039e9, 300e9, 0, 25e9, hosted=8),
    "h100": Chip("H100 80GB SXM", 80 * GB, 989 * TERA, 3350e9, 450e9, 0, 50e9, hosted=8),
    "h200": Chip("H200 141GB SXM", 141 * GB, 989 * TERA, 4800e9, 450e9, 0, 50e9, hosted=8),
}
TPUS, GPUS = ("v4", "v5e", "v5p", "v6e"), ("a100", "h100", "h200")
# Shapes that exist: cloud.google.com/tpu/docs, the tables of slices of each version.
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
SOLID = ("2x2x1", "2x2x2", "2x2x4", "2x4x4")  # and every shape whose sides are multiples of four
LARGEST = {"v4": (16, 16, 16), "v5p": (16, 16, 24)}
FORMS = "v4:4x4x4, v5e:16x16, v5p:4x4x4, v6e:16x16, v5e-256, v5e:16x16@2 (two slices), cpu:8, gpu:8, a100:8, h200:64"


@dataclasses.dataclass(frozen=True)
class Topology:
    """A machine to plan for."""

    name: str
    platform: str  # cpu, gpu or tpu
    chip: Chip | None  # what is known of it
    sides: tuple[int, ...]  # of one slice
    slices: int = 1

    @property
    def size(self) -> int:
        """Devices, as JAX counts them."""
        return self.slices * math.prod(self.sides) * (self.chip.devices if self.chip else 1)

    @property
    def chips(self) -> int:
        """What is paid for."""
        return self.slices * math.prod(self.sides)


def find(name: str) -> Topology:
    """The topology of that name; an error lists the forms."""
    whole, at, many = name.strip().lower().partition("@")
    if at and not (many.isdigit() and int(many) > 1):
        raise ValueError(f"--topology={name}: @ is followed by the number of slices, as v5e:16x16@2")
    slices = int(many) if at else 1
    if found := re.fullmatch(r"(v\d+[a-z]*)-(\d+)", whole):
        kind, shape = found.group(1), _by_count(found.group(1), int(found.group(2)), name)
    elif found := re.fullmatch(r"(v\d+[a-z]*):([\dx]+)", whole):
        kind, shape = found.group(1), found.group(2)
    elif (found := re.fullmatch(r"(cpu|gpu|a100|h100|h200):(\d+)", whole)) and not at:
        kind, number = found.group(1), int(found.group(2))
        if number < 1:
            raise ValueError(f"--topology={name}: a machine has one device or more")
        if kind == "cpu":
            return Topology(name, "cpu", None, (number,))
        chip = CHIPS["h100" if kind == "gpu" else kind]
        if number > chip.hosted and number % chip.hosted:
            near = round(number / chip.hosted) * chip.hosted
            raise ValueError(
                f"--topology={name}: more than {chip.hosted} GPUs are whole machines of {chip.hosted}: "
                f"{kind}:{near} would be"
            )
        return Topology(name, "gpu", chip, (number,))
    else:
        raise ValueError(f"unknown --topology={name}: write it as one of {FORMS}")
    if kind not in TPUS:
        raise ValueError(f"--topology={name}: {kind} is not known; TPUs are {', '.join(TPUS)}")
    return Topology(name, "tpu", CHIPS[kind], _sides(kind, shape, name), slices)


def _sides(kind: str, shape: str, name: str) -> tuple[int, ...]:
    sides = tuple(int(side) for side in shape.split("x") if side)
    if CHIPS[kind].dimensions == 2:
        if shape not in FLAT:
            raise ValueError(f"--topology={name}: slices of {kind} are {', '.join(FLAT)}")
        return sides
    whole = len(sides) == 3 and all(side and side % 4 == 0 for side in sides)
    if shape not in SOLID and not whole:
        raise ValueError(
            f"--topology={name}: slices of {kind} are {', '.join(SOLID)} and those whose three sides are "
            f"multiples of 4, as 4x4x4"
        )
    if math.prod(sides) > math.prod(LARGEST[kind]):
        most = "x".join(map(str, LARGEST[kind]))
        raise ValueError(f"--topology={name}: the largest slice of {kind} is {most}")
    return sides


def _by_count(kind: str, number: int, name: str) -> str:
    """The shape of a slice that the cloud calls by a number."""
    if kind not in TPUS:
        raise ValueError(f"--topology={name}: {kind} is not known; TPUs are {', '.join(TPUS)}")
    flat = CHIPS[kind].dimensions == 2
    chips = number if flat else number // 2  # of the others the cloud counts TensorCores
    known = {**{math.prod(map(int, s.split("x"))): s for s in (FLAT if flat else SOLID)}}
    if not flat:
        known |= {64: "4x4x4", 128: "4x4x8", 256: "4x8x8", 512: "8x8x8", 1024: "8x8x16", 2048: "8x16x16"}
    if chips not in known or (not flat and number % 2):
        counts = ", ".join(f"{kind}-{n if flat else 2 * n}" for n in known)
        raise ValueError(f"--topology={name}: slices of {kind} by number are {counts}")
    return known[chips]


def devices_of(topology: Topology) -> list[Any]:
    """Devices to compile for: TPUs that are not here, or forced CPU devices (also in the place of GPUs)."""
    if topology.platform == "tpu":
        return _tpus(topology)
    return _cpus(topology)


def _cpus(topology: Topology) -> list[Any]:
    from jax._src import xla_bridge

    if not xla_bridge.backends_are_initialized():
        jax.config.update("jax_platforms", "cpu")
        jax.config.update("jax_num_cpu_devices", topology.size)
    devices = jax.devices("cpu")
    if len(devices) < topology.size:
        raise ValueError(
            f"--topology={topology.name} needs {topology.size} CPU devices and {len(devices)} are forced here: "
            f"set XLA_FLAGS=--xla_force_host_platform_device_count={topology.size}"
        )
    return devices[: topology.size]


def _tpus(topology: Topology) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise ValueError(
            f"--topology={topology.name} needs the TPU compiler, which comes with libtpu: "
            f"python -m pip install -r requirements-plan.txt (no TPU is needed)"
        )
    from jax._src import xla_bridge
    from jax.experimental import topologies

    if not xla_bridge.backends_are_initialized():
        jax.config.update(
            "jax_platforms", "cpu"
        )  # libtpu would look for a TPU, for minutes where there is none
    jax.devices()  # the CPU has read the flags that libtpu does not know, and would end the process over
    kind = topology.name.lower().partition(":")[0].partition("-")[0]
    options: dict[str, Any] = {} if topology.slices == 1 else {"num_slices": topology.slices}
    if math.prod(topology.sides) == 1:
        options["chips_per_host_bounds"] = (1, 1, 1)
    with libtpu_environment():
        shape = "x".join(map(str, topology.sides))
        try:
            described = topologies.get_topology_desc(f"{kind}:{shape}", platform="tpu", **options)
        except jax.errors.JaxRuntimeError as error:
            raise ValueError(
                f"--topology={topology.name}: the compiler does not know it: {str(error).splitlines()[0]}"
            ) from error
    return list(described.devices)


@contextlib.contextmanager
def libtpu_environment() -> Iterator[None]:
    """What libtpu is to find in the environment, when it is loaded and when it first compiles.

    No flags of XLA's, which are those of the CPU here and would end the process; no server to ask what machine this is;
    leave to share this machine with other plans; and no warnings that it is none of its kind.
    """
    changes = {
        "XLA_FLAGS": "",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_MIN_LOG_LEVEL": "3",
    }
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
