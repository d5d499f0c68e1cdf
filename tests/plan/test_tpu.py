"""The real TPU compiler, on a machine without a TPU: what a plan of a pod says of a small encoder.

Skipped without libtpu: `python -m pip install -r requirements-plan.txt` (.ci/run runs these tests with it).
"""

import json
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import pytest

from bertjax import experiment, sharding
from bertjax.config import CHOICES, Config
from bertjax.data.open import open_vocabulary
from bertjax.plan import find, plan, report, run
from bertjax.plan.compile import refusal
from bertjax.plan.topology import devices_of
from bertjax.settings import override

pytest.importorskip("libtpu", reason="the TPU compiler: python -m pip install -r requirements-plan.txt")

SMALL = (
    "model.layers=2", "model.width=256", "model.heads=2", "model.vocab=1000", "model.attention_dropout=0",
    "model.dropout=0", "model.dtype=bfloat16", "model.scan=true", "data.length=256", "data.format=best_fit",
    "tasks=mlm", "train.batch_size=8",
)  # fmt: skip


def small(*settings: str) -> Config:
    return override(Config(), [*SMALL, *settings], CHOICES)


@pytest.fixture(scope="module", autouse=True)
def _cpu_first() -> Iterator[None]:
    """The CPU has read the flags that libtpu does not know, and would end the process over."""
    jax.devices()
    yield


@pytest.mark.parametrize(
    ("name", "kind", "number"),
    [
        ("v5e:16x16", "TPU v5 lite", 256),
        ("v6e:2x4", "TPU v6 lite", 8),
        ("v5p:2x2x2", "TPU v5", 8),
        ("v4:2x2x1", "TPU v4", 8),
        ("v5e:1x1", "TPU v5 lite", 1),
        ("v5e:2x2@2", "TPU v5 lite", 8),
    ],
)
def test_devices_of_every_kind(name: str, kind: str, number: int) -> None:
    devices = devices_of(find(name))
    assert (devices[0].device_kind, len(devices)) == (kind, number)
    assert len({getattr(device, "slice_index", 0) for device in devices}) == (2 if "@" in name else 1)


def test_a_plan_for_a_slice(tmp_path: pathlib.Path) -> None:
    """Splash inside; parameters gathered, gradients scattered, no activation moved; memory, time, text and JSON."""
    config = small("mesh.rules=fsdp", "mesh.fsdp=2", "model.remat=block", "train.microbatches=2")
    vocabulary = open_vocabulary("synthetic", config.model.vocab)
    made = run(config, vocabulary, str(tmp_path), topology=find("v5e:2x2"))
    assert json.loads((tmp_path / "plan.json").read_text()) == json.loads(json.dumps(made))
    assert "splash" in made["attention"] and made["compiled"] and made["fits"]
    size = made["bytes_per_device"]
    parts = ("parameters", "optimizer", "batch", "activations", "temporaries", "program")
    assert sum(size[part] for part in parts) == pytest.approx(size["total"], rel=0.02)
    assert size["optimizer"] == pytest.approx(2 * size["parameters"], abs=8)
    assert 0 < made["memory"]["used"] < 0.1 and made["memory"]["available"] == int(15.75 * 2**30)
    rows = {(row["kind"], row["axis"]): row for row in made["collectives"]}
    assert {kind for kind, _ in rows} <= {"all-gather", "all-reduce", "reduce-scatter", "collective-permute"}
    assert {axis for _, axis in rows} <= {"data", "fsdp", "data*fsdp"}
    guess = made["estimate"]
    assert guess["step_seconds"] >= guess["best_seconds"] > 0 and 0 < guess["mfu"] < 1
    assert guess["chip_hours"] == pytest.approx(4 * guess["run_hours"])
    text = report.text(made)
    assert "fits: " in text and "an estimate, not a measurement" in text and "chip-hours" in text


def test_two_slices() -> None:
    """Rows split over slices: only the gradients cross the network between them."""
    config = small("mesh.rules=fsdp", "mesh.fsdp=4", "mesh.dcn_data=2", "train.batch_size=16")
    topology = find("v5e:2x2@2")
    mesh = sharding.make_mesh(config.mesh, devices_of(topology))
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4, "tensor": 1, "sequence": 1}
    assert [device.slice_index for device in mesh.devices[:, 0, 0, 0]] == [0, 1]
    with pytest.raises(ValueError, match="lie in 2 slices .*set mesh.dcn_data=2"):
        sharding.make_mesh(small().mesh, devices_of(topology))
    made = plan(config, open_vocabulary("synthetic", config.model.vocab), topology=topology)
    assert made["slices"] == 2 and made["fits"]
    assert {row["kind"] for row in made["collectives"] if "data" in row["axis"]} <= {
        "all-reduce", "reduce-scatter", "all-gather",
    }  # fmt: skip


@pytest.mark.slow
def test_a_ring_on_a_slice() -> None:
    """Keys and values go round between neighbours, two parts of a row in one trip, forward and backward."""
    split = ("mesh.rules=fsdp_tensor_sequence", "mesh.sequence=2", "mesh.sequence_attention=ring")
    made = plan(small(*split), open_vocabulary("synthetic", 1000), topology=find("v5e:2x2"))
    assert made["attention"].startswith("full by ring") and made["fits"]
    assert {"collective-permute"} <= {row["kind"] for row in made["collectives"] if row["axis"] == "sequence"}


def test_what_does_not_fit_is_told(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The compiler's refusal becomes one line with settings to try, and an exit code."""
    config = small("model.attention.backend=reference", "train.batch_size=65536", "mesh.data=1")
    made = run(config, open_vocabulary("synthetic", 1000), str(tmp_path), topology=find("v5e:1x1"))
    assert not made["fits"] and not made["compiled"]
    assert made["bytes_per_device"]["total"] > made["memory"]["available"]
    said = capsys.readouterr().out
    assert "does not fit: needs " in said and " of 15.75 GiB; try --set " in said
    assert "train.microbatches=" in said


def test_the_words_of_the_compiler() -> None:
    first = (
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (132.80G) exceeds available HBM (15.75G). HLO module: jit_step."
    )
    second = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 20.50G of 15.75G hbm. Exceeded by 4.75G."
    available = int(15.75 * 2**30)
    assert refusal(first) == (int(132.8 * 2**30), available)
    assert refusal(second) == (int(20.5 * 2**30), available)
    assert refusal("INTERNAL: something else") is None


def test_from_the_command_line(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["x", "--mode=plan", "--topology=v5e:2x2", f"--workdir={tmp_path}"])
    with pytest.raises(SystemExit) as caught:
        experiment.main(small(), prepare=None)
    assert caught.value.code == 0
    assert "4 x TPU v5e, mesh data=4" in capsys.readouterr().out
    planned: dict[str, Any] = json.loads((tmp_path / "plan.json").read_text())
    assert planned["fits"] is True
