"""Kernels: the choice and its reason, equality with the reference, and compilation for a target that is not here."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest

from bertjax import sharding
from bertjax.attention import explain
from bertjax.attention.kernels import KERNELS, PLATFORMS, Request, choose, splash
from bertjax.attention.local_global import LocalGlobal
from bertjax.attention.window import Window
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.corpus import Vocabulary
from bertjax.data.packing import BestFit
from bertjax.layers.config import EncoderConfig, Full
from bertjax.layers.mask import AttentionMask
from bertjax.program import build
from bertjax.step import make_train_step
from bertjax.tasks.mlm import Mlm
from tests.attention.battery import FAST, Case, close, refusal, small_batch
from tests.attention.kernel_cases import example
from tests.attention.kernel_cases import run as run_case

TPU = Request(platform="tpu", dtype="bfloat16", length=512, head_size=64)
BACKENDS: Any = ("splash", "reference")
GPU = dataclasses.replace(TPU, platform="gpu")


@pytest.mark.parametrize(
    ("backend", "request_", "kernel"),
    [
        ("auto", TPU, "splash"),
        ("auto", GPU, "cudnn"),
        ("auto", dataclasses.replace(TPU, platform="cpu"), "reference"),
        ("reference", TPU, "reference"),
        ("auto", dataclasses.replace(TPU, window=True), "splash"),
        ("auto", dataclasses.replace(TPU, dtype="float32"), "splash"),
        ("auto", dataclasses.replace(GPU, window=True), "reference"),
    ],
)
def test_the_choice(backend: Any, request_: Request, kernel: str) -> None:
    assert choose(backend, request_)[0] == kernel


@pytest.mark.parametrize(
    ("backend", "change", "word"),
    [
        ("cudnn", {"dtype": "float32"}, "model.dtype=bfloat16"),
        ("cudnn", {"dropout": 0.1}, "model.attention_dropout=0"),
        ("cudnn", {"head_size": 20}, "heads"),
        ("cudnn", {"head_size": 256}, "heads"),
        ("cudnn", {"length": 65}, "even"),
        ("cudnn", {"window": True}, "window"),
        ("cudnn", {"platform": "cpu"}, "gpu"),
        ("splash", {"length": 192}, "128"),
        ("splash", {"bias": True}, "bias"),
        ("splash", {"dropout": 0.1}, "model.attention_dropout=0"),
        ("splash", {"maps": True}, "maps"),
        ("splash", {"globals": True}, "global"),
    ],
)
def test_an_obstacle_is_an_error_or_the_reference(backend: Any, change: dict[str, Any], word: str) -> None:
    request = dataclasses.replace(GPU if backend == "cudnn" else TPU, **change)
    assert word in refusal(lambda: choose(backend, request))
    kernel, why = choose("auto", request)
    assert kernel == "reference" and why


def test_the_choice_is_explained_in_a_line() -> None:
    config = EncoderConfig(dtype="bfloat16")
    line = explain(config, "gpu")
    assert "full by reference" in line and "model.attention_dropout=0" in line and "\n" not in line
    fast = dataclasses.replace(config, attention_dropout=0.0)
    assert "full by cudnn" in explain(fast, "gpu") and "full by splash" in explain(fast, "tpu")
    pattern = explain(dataclasses.replace(fast, attention=LocalGlobal()), "gpu")
    assert "full by cudnn" in pattern and "window by reference" in pattern


def test_a_kernel_asked_for_on_the_wrong_machine_is_refused() -> None:
    config = EncoderConfig(layers=1, width=32, heads=2, vocab=53, attention=Full(backend="splash"))
    case, batch = Case(config), small_batch(config)
    assert "not on cpu" in refusal(lambda: jax.eval_shape(case.hidden, case.parameters, batch))


# ---------------------------------------------------------------------------------------------- equality


run = functools.partial(run_case, compiler_options=FAST)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers whose backend is splash run it in interpret mode, on this machine."""
    monkeypatch.setitem(KERNELS, "splash", functools.partial(splash, interpret=True))
    monkeypatch.setitem(PLATFORMS, "splash", "cpu")


@pytest.mark.parametrize(
    ("packed", "window", "causal"),
    [(False, None, False), (True, None, False), (True, 64, False), (True, None, True), (False, 64, True)],
)
def test_splash_equals_the_reference(
    packed: bool, window: int | None, causal: bool, interpreted: None
) -> None:
    x, mask = example(256, packed)
    mask = mask & AttentionMask(causal=causal)
    ours, theirs = (
        Full(backend) if window is None else Window(window, backend=backend) for backend in BACKENDS
    )
    close(run(ours, x, mask), run(theirs, x, mask))


@pytest.mark.parametrize("window", [None, 64])
def test_splash_on_a_mesh_equals_the_reference(window: int | None, interpreted: None) -> None:
    x, mask = example(256, packed=True)
    ours, theirs = (
        Full(backend) if window is None else Window(window, backend=backend) for backend in BACKENDS
    )
    rules = "fsdp_tensor_sequence"
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2, sequence=2, rules=rules))
    single = run(theirs, x, mask)
    with sharding.activate(mesh, rules):
        close(run(ours, x, mask), single)


# ---------------------------------------------------------------------------------------------- compilation


@pytest.fixture(scope="module")
def tpus() -> Iterator[Any]:
    """Four chips of v5e for the ahead-of-time compiler."""
    pytest.importorskip("libtpu", reason="libtpu has the TPU compiler")
    from jax.experimental import topologies

    jax.devices()  # the CPU has read the flags that libtpu does not know, and would end the process over
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", "")
        patch.setenv("TPU_SKIP_MDS_QUERY", "1")
        patch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
        yield topologies.get_topology_desc("v5e:2x2", platform="tpu").devices


VOCABULARY = Vocabulary(64, 0, 1, 2, 3, 4, np.ones(64, bool), np.arange(64) < 5)


@pytest.mark.parametrize("options", [Full("splash"), Window(256)], ids=["full", "window"])
def test_splash_compiles_for_tpus_in_the_train_step(options: Any, tpus: Any) -> None:
    """The whole update of a packed run, scanned and rematerialised, split over rows, heads and queries."""
    config = Config(
        model=EncoderConfig(
            layers=2, width=128, heads=2, vocab=64, vocab_multiple=128, max_length=512, attention=options,
            attention_dropout=0.0, dtype="bfloat16", scan=True, remat="block",
        ),
        data=DataConfig(length=512, format=BestFit()),
        tasks=(Mlm(),),
        mesh=sharding.MeshConfig(fsdp=1, tensor=2, sequence=2, rules="fsdp_tensor_sequence"),
        train=TrainConfig(batch_size=2),
    )  # fmt: skip
    program = build(config, VOCABULARY, list(tpus))
    assert program.batch.segments is not None
    with program.active():
        text = make_train_step(program).lower(program.state, program.batch).compile().as_text()
    assert "splash_mha_fwd" in text and "splash_mha_dkv" in text and "tpu_custom_call" in text
