"""Kernels: the choice and its reason, equality with the reference, and compilation for a target that is not here."""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from bertjax import sharding
from bertjax.attention import explain, make_attention
from bertjax.attention.base import Context
from bertjax.attention.kernels import KERNELS, PLATFORMS, Request, choose, cudnn, splash
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
from tests.attention.battery import FAST, Case, close, draw_parameters, refusal, small_batch

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


CONFIG = EncoderConfig(layers=1, width=256, heads=4, attention_dropout=0.0)


def example(length: int, packed: bool) -> tuple[jax.Array, AttentionMask]:
    """Two rows of inputs, the second ends in padding; two documents in each if packed."""
    x = np.random.default_rng(length).standard_normal((2, length, CONFIG.width))
    index = np.arange(length)
    valid = jnp.asarray(np.stack([index < length, index < length - 37]))
    segments = jnp.asarray(np.stack([1 + (index > 50), 1 + (index > 61)]).astype(np.int32))
    segments = jnp.where(valid, segments, 0)
    return jnp.asarray(x, jnp.float32), AttentionMask(valid=valid, segments=segments if packed else None)


def run(options: Any, x: jax.Array, mask: AttentionMask, dtype: Any = "float32") -> tuple[Any, Any]:
    """The layer's output at real tokens, and its gradients."""
    config = dataclasses.replace(CONFIG, attention=options, dtype=dtype)
    layer = make_attention(config, options, "attention")
    context = Context(mask, jnp.broadcast_to(jnp.arange(x.shape[1])[None], x.shape[:2]))
    shapes = jax.eval_shape(lambda: layer.init(jax.random.key(0), x, context, train=False))["params"]
    parameters = draw_parameters(nn.unbox(shapes))

    def loss(parameters: Any, x: Any) -> Any:
        y = layer.apply({"params": parameters}, x.astype(dtype), context, train=True).astype(jnp.float32)
        assert mask.valid is not None
        y = jnp.where(jnp.asarray(mask.valid)[:, :, None], y, 0.0)
        return (y * jnp.sin(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape)).sum() / 100, y

    gradients, y = jax.jit(jax.grad(loss, (0, 1), has_aux=True), compiler_options=FAST)(parameters, x)
    return y, gradients


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


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("length", [64, 192, 512])
@pytest.mark.parametrize("packed", [False, True])
def test_cudnn_equals_the_reference(length: int, packed: bool) -> None:
    x, mask = example(length, packed)
    ours, theirs = (run(Full(backend), x, mask, "bfloat16") for backend in ("cudnn", "reference"))
    close(ours, theirs, 2e-2)


# ---------------------------------------------------------------------------------------------- compilation


@pytest.mark.parametrize("packed", [False, True])
def test_cudnn_lowers_for_cuda(packed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a machine without a GPU goes: the program for CUDA holds cuDNN's calls, forward and backward."""
    from jax._src.cudnn import fused_attention_stablehlo

    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91_000)
    _, mask = example(64, packed)
    q = k = v = jnp.ones((2, 64, 4, 64), jnp.bfloat16)
    loss = jax.grad(lambda q: cudnn(q, k, v, mask).astype(jnp.float32).sum())
    text = jax.jit(loss).trace(q).lower(lowering_platforms=("cuda",)).as_text()
    assert "__cudnn$fmha" in text and "Backward" in text


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
