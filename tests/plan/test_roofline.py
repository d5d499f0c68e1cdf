"""The estimate, by hand: bandwidths on a torus, between slices and in machines of GPUs; and what it is made of."""

import dataclasses
from typing import Any

import numpy as np
import pytest
from helpers import small

from bertjax.models.cost import stack_flops
from bertjax.plan.collectives import Collective
from bertjax.plan.hlo import Array
from bertjax.plan.roofline import HOP, NETWORK_HOP, REACHED, Estimate, estimate, repeated_flops, seconds, way
from bertjax.plan.topology import CHIPS, find


@dataclasses.dataclass(frozen=True)
class Spot:
    """A device as the TPU compiler describes it."""

    coords: tuple[int, ...]
    slice_index: int | None = None


class Grid:
    """As much of a mesh as the roofline reads."""

    def __init__(self, devices: Any) -> None:
        self.devices = np.empty(len(devices), object)
        self.devices[:] = devices
        self.size = len(devices)


def pod(x: int, y: int, slices: int = 1) -> list[Spot]:
    return [
        Spot((i, j, 0), s if slices > 1 else None) for s in range(slices) for i in range(x) for j in range(y)
    ]


def test_links_of_a_group() -> None:
    v5e, large, small_ = CHIPS["v5e"], find("v5e:16x16"), find("v5e:4x4")
    line = [Spot((0, j, 0)) for j in range(16)]
    assert way(line, v5e, large) == (2 * v5e.link, 8)  # a whole side closes to a ring
    assert way(line[:4], v5e, large) == (v5e.link, 3)  # a part of it is a line
    assert way(pod(16, 16), v5e, large) == (4 * v5e.link, 16)
    assert way(pod(4, 4), v5e, small_) == (2 * v5e.link, 6)  # no ring in a slice smaller than a pod
    v5p = CHIPS["v5p"]
    cube = [Spot((i, j, k)) for i in range(4) for j in range(4) for k in range(4)]
    assert way(cube, v5p, find("v5p:4x4x4")) == (6 * v5p.link, 6)


def one(kind: str, group: Any) -> Collective:
    return Collective(kind, "data", tuple(group), 1, (Array("f32", (250_000_000,)),))


def test_seconds_on_one_slice() -> None:
    topology, mesh = find("v5e:16x16"), Grid(pod(16, 16))
    bytes_ = 1e9
    time = seconds(one("all-reduce", range(256)), mesh, topology)  # type: ignore[arg-type]
    assert time == pytest.approx(2 * (255 / 256 * bytes_ / 200e9 + 16 * HOP))
    time = seconds(one("all-gather", range(16)), mesh, topology)  # type: ignore[arg-type]
    assert time == pytest.approx(15 / 16 * bytes_ / 100e9 + 8 * HOP)
    time = seconds(one("collective-permute", (0, 1)), mesh, topology)  # type: ignore[arg-type]
    assert time == pytest.approx(bytes_ / 50e9 + HOP)


def test_seconds_between_slices() -> None:
    """Inside a slice first: then each of 16 devices has a sixteenth to exchange with its like in the other slice."""
    topology, mesh = find("v5e:4x4@2"), Grid(pod(4, 4, slices=2))
    time = seconds(one("all-reduce", range(32)), mesh, topology)  # type: ignore[arg-type]
    inside = 2 * (15 / 16 * 1e9 / 100e9 + 6 * HOP)
    across = 2 * (1 / 2 * 1e9 / 16 / CHIPS["v5e"].network + NETWORK_HOP)
    assert time == pytest.approx(inside + across)
    alone = seconds(one("all-reduce", (0, 16)), mesh, topology)  # type: ignore[arg-type]
    assert alone == pytest.approx(2 * (1 / 2 * 1e9 / CHIPS["v5e"].network + NETWORK_HOP))


def test_seconds_between_machines_of_gpus() -> None:
    topology, mesh = find("h100:16"), Grid(list(range(16)))
    chip = CHIPS["h100"]
    time = seconds(one("all-reduce", range(16)), mesh, topology)  # type: ignore[arg-type]
    inside = 2 * (7 / 8 * 1e9 / chip.link + HOP)
    assert time == pytest.approx(inside + 2 * (1 / 2 * 1e9 / 8 / chip.network + NETWORK_HOP))


def test_the_estimate() -> None:
    guess = Estimate(compute=4.0, memory=3.0, network=2.0, model_flops=60.0, peak=20.0)
    assert (guess.step, guess.best) == (6.0, 4.0)
    assert guess.mfu == pytest.approx(60 / 6 / 20)
    topology, mesh = find("v5e:16x16"), Grid(pod(16, 16))
    found = [dataclasses.replace(one("all-reduce", range(256)), times=3)]
    guess = estimate(1e12, 5e11, 1e9, found, mesh, topology)  # type: ignore[arg-type]
    assert guess.compute == pytest.approx(1.5e12 / (REACHED * 197e12))
    assert guess.memory == pytest.approx(1e9 / 819e9)
    assert guess.network == pytest.approx(3 * seconds(found[0], mesh, topology))  # type: ignore[arg-type]
    assert guess.model_flops == 1e12


def test_what_remat_repeats() -> None:
    config = small()
    assert repeated_flops(config, 16) == 0
    assert repeated_flops(small(remat="block"), 16) == stack_flops(small(), 16)
    # Scores and their products with values: 2 layers x 2 products x 2 operations x 16 keys x 24 wide.
    assert repeated_flops(small(remat="dots"), 16) == pytest.approx(2 * 2 * 2 * 16 * 24)
