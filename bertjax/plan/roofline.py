"""How long a step would take if nothing but arithmetic, memory and network counted: an estimate, never a measurement.

    compute = operations, with what remat does twice / (REACHED * peak)
    memory  = bytes read and written in a step / bandwidth of the memory
    network = sum over collectives of wire bytes / bandwidth along the way + hops * HOP
    step    = max(compute, memory) + network           nothing of the network hidden behind arithmetic
    best    = max(compute, memory, network)            all of it hidden

The bandwidth of a group of TPUs is that of the links it can use: one a dimension of the torus along which its devices
lie, two where they fill a side whose links close to a ring. Groups that span slices (or machines of GPUs) reduce inside
a slice first, exchange each device's share over the data-centre network, and spread the result inside again.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from bertjax.layers.config import EncoderConfig
from bertjax.models.cost import stack_flops
from bertjax.plan.collectives import Collective
from bertjax.plan.topology import Chip, Topology

REACHED = 0.8  # share of the peak that large bfloat16 products reach: 790 of 989 TFLOP/s measured on an H200
HOP = 1e-6  # seconds from a chip to its neighbour (jax-ml.github.io/scaling-book, part 3)
NETWORK_HOP = 1e-5  # seconds between slices: an assumption, ten times as much


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Seconds of a step, and what follows from them."""

    compute: float
    memory: float
    network: float
    model_flops: float  # of one device, nothing counted twice
    peak: float

    @property
    def step(self) -> float:
        """With nothing of the network hidden."""
        return max(self.compute, self.memory) + self.network

    @property
    def best(self) -> float:
        """With all of the network hidden."""
        return max(self.compute, self.memory, self.network)

    @property
    def mfu(self) -> float:
        """Share of the peak that the model's own operations use, in a step."""
        return self.model_flops / self.step / self.peak


def estimate(
    flops: float, repeated: float, traffic: float, found: Sequence[Collective], mesh: Mesh, topology: Topology
) -> Estimate:
    """From operations of one device (`repeated` on top), bytes of its memory, and the exchanges of a step."""
    chip = topology.chip
    assert chip is not None
    return Estimate(
        compute=(flops + repeated) / (REACHED * chip.flops),
        memory=traffic / chip.bandwidth,
        network=sum(one.times * seconds(one, mesh, topology) for one in found),
        model_flops=flops,
        peak=chip.flops,
    )


def repeated_flops(config: EncoderConfig, length: int) -> float:
    """Operations per token that the backward pass does again under the config's remat."""
    stack = stack_flops(config, length)
    match config.remat:
        case "block":
            return stack
        case "dots":  # all but the products with parameters, which do not depend on the length
            half = stack_flops(config, max(length // 2, 1))
            return 2 * (stack - half) if length > 1 else 0.0
        case _:
            return 0.0


def seconds(one: Collective, mesh: Mesh, topology: Topology) -> float:
    """Time of one exchange."""
    chip = topology.chip
    assert chip is not None
    devices = [mesh.devices.flat[place] for place in one.group]
    places = [home(device, place, topology) for device, place in zip(devices, one.group, strict=True)]
    apart = len(set(places))
    if one.kind == "collective-permute":
        return one.bytes / (chip.network if apart > 1 else chip.link) + (NETWORK_HOP if apart > 1 else HOP)
    twice = 2 if one.kind == "all-reduce" else 1
    inside = max(len(one.group) // apart, 1)
    share = (inside - 1) / inside
    speed, hops = way(devices[:inside] if apart == 1 else _together(devices, places), chip, topology)
    time = twice * (share * one.bytes / speed + hops * HOP) if inside > 1 else 0.0
    if apart > 1:
        time += twice * ((apart - 1) / apart * one.bytes / inside / chip.network + NETWORK_HOP * (apart - 1))
    return time


def home(device: Any, place: int, topology: Topology) -> int:
    """The slice, or machine of GPUs, that a device is in."""
    if topology.platform == "tpu":
        return int(getattr(device, "slice_index", None) or 0)
    assert topology.chip is not None
    return place // topology.chip.hosted


def _together(devices: Sequence[Any], places: Sequence[int]) -> list[Any]:
    return [device for device, place in zip(devices, places, strict=True) if place == places[0]]


def way(devices: Sequence[Any], chip: Chip, topology: Topology) -> tuple[float, int]:
    """Bytes a second that a device sends within a group of one slice, and the hops of a message round it."""
    if not chip.dimensions:
        return chip.link, 1
    spots = np.array([device.coords for device in devices])
    links, hops = 0, 0
    for dimension, side in enumerate(topology.sides):
        extent = len(set(spots[:, dimension]))
        if extent == 1:
            continue
        ring = extent == side and side % chip.wraps == 0
        links += 2 if ring else 1
        hops += extent // 2 if ring else extent - 1
    # The TensorCores of one chip share its links; two of them alone are as fast as the memory between them.
    return (max(links, 1) * chip.link, hops) if links else (chip.bandwidth / 2, 1)
