"""Machines by name: what is found, and what is refused with the forms that would do."""

import importlib.util
import math

import jax
import pytest

from bertjax.plan import topology
from bertjax.plan.topology import CHIPS, FLAT, SOLID, Topology, devices_of, find


@pytest.mark.parametrize(
    ("name", "platform", "sides", "slices", "size"),
    [
        ("v5e:16x16", "tpu", (16, 16), 1, 256),
        ("v5e-256", "tpu", (16, 16), 1, 256),
        ("v6e:4x8", "tpu", (4, 8), 1, 32),
        ("v5p:4x4x4", "tpu", (4, 4, 4), 1, 64),
        ("v5p-64", "tpu", (2, 4, 4), 1, 32),  # counts TensorCores, two a chip
        ("v5p-128", "tpu", (4, 4, 4), 1, 64),
        ("v4:2x2x1", "tpu", (2, 2, 1), 1, 8),  # this compiler shows the TensorCores of a v4 chip apart
        ("v4:4x4x8", "tpu", (4, 4, 8), 1, 256),
        ("v5e:4x4@2", "tpu", (4, 4), 2, 32),
        ("cpu:8", "cpu", (8,), 1, 8),
        ("gpu:8", "gpu", (8,), 1, 8),
        ("h200:64", "gpu", (64,), 1, 64),
    ],
)
def test_find(name: str, platform: str, sides: tuple[int, ...], slices: int, size: int) -> None:
    found = find(name)
    assert (found.platform, found.sides, found.slices, found.size) == (platform, sides, slices, size)
    assert found.chips == size // (2 if name.startswith("v4") else 1)
    assert (found.chip is None) == (platform == "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "write it as one of v4:4x4x4, v5e:16x16"),
        ("pod", "write it as one of"),
        ("v5e:3x3", "slices of v5e are 1x1, 2x2, 2x4, 4x4"),
        ("v5e:16", "slices of v5e are"),
        ("v5p:4x4", "multiples of 4, as 4x4x4"),
        ("v5p:4x4x6", "multiples of 4"),
        ("v5p:0x4x4", "multiples of 4"),
        ("v4:16x16x20", "the largest slice of v4 is 16x16x16"),
        ("v9:2x2", "v9 is not known; TPUs are v4, v5e, v5p, v6e"),
        ("v9-16", "v9 is not known"),
        ("v5e-17", "slices of v5e by number are v5e-1, v5e-4"),
        ("v5p-9", "slices of v5p by number are v5p-8"),
        ("v5e:4x4@1", "@ is followed by the number of slices"),
        ("v5e:4x4@x", "@ is followed by the number of slices"),
        ("cpu:8@2", "write it as one of"),
        ("cpu:0", "one device or more"),
        ("gpu:12", "whole machines of 8: gpu:16 would be"),
        ("h100:x", "write it as one of"),
    ],
)
def test_what_is_no_machine(name: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        find(name)
    assert message in str(caught.value) and f"--topology={name}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_numbers_of_chips_agree_with_the_published_ones() -> None:
    """All-reduce bandwidth of a v5e pod is 51.2 TB/s, a v6e pod's 102.4: 256 chips, each its four links."""
    for name, published in (("v5e", 51.2e12), ("v6e", 102.4e12)):
        chip = CHIPS[name]
        assert 256 * 2 * chip.dimensions * chip.link == pytest.approx(published, rel=0.01)
    assert 6 * CHIPS["v5p"].link * 2 == pytest.approx(1200e9)  # bidirectional, six links
    assert CHIPS["v5p"].network * 8 == pytest.approx(50e9)
    assert 256 * CHIPS["v5e"].network * 8 == pytest.approx(6.4e12, rel=0.01)
    assert 256 * CHIPS["v6e"].network * 8 == pytest.approx(25.6e12, rel=0.01)
    assert all(len(shape.split("x")) == 2 for shape in FLAT)
    assert all(len(shape.split("x")) == 3 for shape in SOLID)
    assert all(math.isfinite(chip.flops) and chip.memory > 2**33 for chip in CHIPS.values())


def test_cpu_devices_are_those_that_are_forced() -> None:
    assert devices_of(find("cpu:4")) == jax.devices("cpu")[:4]
    with pytest.raises(ValueError, match="needs 16 CPU devices and 8 are forced here: set XLA_FLAGS="):
        devices_of(find("cpu:16"))
    assert len(devices_of(find("gpu:8"))) == 8  # stand in for them


def test_without_libtpu_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"--topology=v5e:2x2 needs .* pip install -r requirements-plan.txt"):
        devices_of(find("v5e:2x2"))


def test_the_forms_in_the_error_are_legal() -> None:
    for form in topology.FORMS.replace(" (two slices)", "").split(", "):
        assert isinstance(find(form), Topology)
