"""cuDNN's attention against the reference: on a GPU where there is one, and everywhere what it is asked for.

Its arguments (lengths of rows, matrices of what may be seen) mean to XLA's implementation of the same JAX function what
they mean to cuDNN's, so that a machine without a GPU can tell whether they are right. What cuDNN makes of them only a
GPU can tell: `launch/test.sh tests/attention/test_cudnn.py` on a machine with one.
"""

import functools
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.attention.kernels import KERNELS, cudnn
from bertjax.config import Config, DataConfig, TrainConfig
from bertjax.data.corpus import Vocabulary
from bertjax.data.packing import BestFit
from bertjax.data.singles import Padded
from bertjax.layers.config import EncoderConfig
from bertjax.layers.mask import AttentionMask
from bertjax.plan.compile import without_cudnn
from bertjax.program import build
from bertjax.step import make_train_step
from bertjax.tasks.mlm import Mlm
from tests.attention.battery import FAST
from tests.attention.kernel_cases import CASES, errors, example

TOLERANCE = 2e-2  # bfloat16 has eight bits, and sums are made in another order
ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture
def by_xla(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process takes itself for a GPU, and JAX computes as it does without cuDNN."""
    real = jax.nn.dot_product_attention

    def attend(*arrays: Any, implementation: str, **options: Any) -> Any:
        assert implementation == "cudnn"
        return real(*arrays, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", attend)
    with sharding.assume("gpu"):
        yield


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.length < 192])
def test_what_cudnn_is_asked_for_is_the_reference(name: str, by_xla: None) -> None:
    found = errors("cudnn", CASES[name], FAST)
    assert found["error"] < TOLERANCE and found.get("heard", 0.0) == 0.0, found


def test_a_wrong_mask_is_noticed(by_xla: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above, and the one on GPUs, could not fail."""
    forgets = lambda q, k, v, mask: cudnn(q, k, v, AttentionMask(valid=mask.valid))  # noqa: E731
    monkeypatch.setitem(KERNELS, "cudnn", forgets)
    found = errors("cudnn", CASES["packed and causal"], FAST)
    assert found["error"] > TOLERANCE and found["heard"] > 0.0


@functools.cache
def why_not() -> str | None:
    """What is missing of a GPU that JAX could use."""
    if (
        not shutil.which("nvidia-smi")
        or subprocess.run(["nvidia-smi", "--list-gpus"], check=False).returncode
    ):
        return "needs an NVIDIA GPU"
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if not any(importlib.util.find_spec(plugin) for plugin in plugins):
        return "needs jax[cuda12] or jax[cuda13]"
    return None


@pytest.fixture(scope="module")
def on_gpu() -> dict[str, dict[str, float]]:
    """What a process with the GPU finds: this one was told to use CPUs before it imported JAX."""
    if reason := why_not():
        pytest.skip(reason)
    environment = {**os.environ, "JAX_PLATFORMS": "cuda", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "tests.attention.kernel_cases", "cudnn"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", CASES)
def test_cudnn_equals_the_reference(name: str, on_gpu: dict[str, dict[str, float]]) -> None:
    """Output and gradients; and, to the last bit, documents are deaf to each other."""
    found = on_gpu[name]
    assert found["error"] < TOLERANCE and found.get("heard", 0.0) == 0.0, found


# ---------------------------------------------------------------------------------------------- compilation


@pytest.mark.parametrize("packed", [False, True])
def test_cudnn_lowers_for_cuda(packed: bool) -> None:
    """As far as a machine without a GPU goes: the program for CUDA holds cuDNN's calls, forward and backward."""
    _, mask = example(64, packed)
    q = k = v = jnp.ones((2, 64, 4, 64), jnp.bfloat16)
    loss = jax.grad(lambda q: cudnn(q, k, v, mask).astype(jnp.float32).sum())
    with without_cudnn("gpu"):
        text = jax.jit(loss).trace(q).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text and "Backward" in text


@pytest.mark.parametrize("format", [Padded(), BestFit()], ids=["padded", "packed"])
def test_cudnn_lowers_in_the_sharded_train_step(format: Padded | BestFit) -> None:
    """The whole update, scanned and rematerialised, split over rows and heads: `auto` takes cuDNN, on each device."""
    config = Config(
        model=EncoderConfig(
            layers=2, width=32, heads=4, vocab=64, vocab_multiple=8, max_length=16, attention_dropout=0.0,
            dtype="bfloat16", scan=True, remat="block",
        ),
        data=DataConfig(length=16, format=format),
        tasks=(Mlm(),),
        mesh=sharding.MeshConfig(fsdp=2, tensor=2, rules="fsdp_tensor"),
        train=TrainConfig(batch_size=8),
    )  # fmt: skip
    vocabulary = Vocabulary(64, 0, 1, 2, 3, 4, np.ones(64, bool), np.arange(64) < 5)
    program = build(config, vocabulary)
    with program.active(), sharding.assume("gpu"), without_cudnn("gpu"):
        traced = make_train_step(program).trace(program.state, program.batch)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    # Rows of one device (8 over data and fsdp), its heads (4 over tensor), and all of the length.
    kind = (
        "ScaleBiasSoftmax" if format.packed else "Softmax"
    )  # a matrix of what may be seen goes in as a bias
    assert f"__cudnn$fmha{kind}" in text and f"__cudnn$fmha{kind}Backward" in text
    assert "tensor<2x16x2x8xbf16>" in text
