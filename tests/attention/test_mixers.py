"""What mixes tokens without looking at them: Fourier transforms, matrices, nothing; and stacks of two kinds."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import sharding
from bertjax.attention import AttentionOptions, Context, make_attention
from bertjax.attention.feedforward_only import FeedforwardOnly
from bertjax.attention.fourier import METHODS, Fourier
from bertjax.attention.hybrid import Hybrid
from bertjax.attention.linear import Linear
from bertjax.attention.local_global import LocalGlobal
from bertjax.attention.mixer import Mixer
from bertjax.layers.config import EncoderConfig, Full
from bertjax.models.block import Block
from bertjax.models.stack import Stack
from tests.attention.battery import refusal
from tests.attention.plain import BASE, matrix, ragged, run_layer
from tests.helpers import parameters, small


@pytest.mark.parametrize("padding", ["hidden", "mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_fourier_equals_numpy(method: Any, padding: Any) -> None:
    mask = ragged(11)
    layer = run_layer(Fourier(method, padding), 11, mask)
    x = layer.x * (np.asarray(mask.valid)[:, :, None] if padding == "hidden" else 1)
    np.testing.assert_allclose(layer.y, np.fft.fft2(x).real, atol=2e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_gradient_is_the_transform_itself(method: str) -> None:
    x, grad = np.random.default_rng(0).standard_normal((2, 2, 7, 6)).astype(np.float32)
    found = jax.vjp(METHODS[method], jnp.asarray(x))[1](jnp.asarray(grad))[0]
    np.testing.assert_allclose(found, np.fft.fft2(grad).real, atol=1e-4)


def test_waves_stay_exact_in_long_rows() -> None:
    """The angle of i j reaches 2π n², far beyond what float32 resolves."""
    x = np.random.default_rng(0).standard_normal((1, 3000, 2)).astype(np.float32)
    found = METHODS["matrix"](jnp.asarray(x))
    np.testing.assert_allclose(found, np.fft.fft2(x).real, atol=2e-2)


def test_a_mesh_transforms_rows_where_they_are() -> None:
    """Without `on_each_device` the compiler would gather the batch on every device."""
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=8, rules="fsdp"))
    module = make_attention(BASE, Fourier(), "attention")
    x = jax.ShapeDtypeStruct((8, 16, BASE.width), jnp.float32)
    context = dataclasses.replace(
        run_layer(FeedforwardOnly(), 16).context, positions=jnp.zeros((8, 16), jnp.int32)
    )
    with sharding.activate(mesh, "fsdp"):
        place = sharding.placement(("batch", "length", "act_width"), x.shape)
        step = jax.jit(jax.grad(lambda x: (module.apply({}, x, context, train=True) ** 2).sum()))
        text = step.lower(jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place)).compile().as_text()
    assert "fft" in text and "all-gather" not in text


def drawn(size: int, which: int, seed: int = 0) -> np.ndarray:
    """The matrix that a random mixer draws."""
    key = jax.random.fold_in(jax.random.key(seed), which)
    return np.asarray(jax.nn.initializers.truncated_normal(size**-0.5)(key, (size, size)), np.float64)


@pytest.mark.parametrize("matrices", ["learned", "random"])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_mixers_equal_numpy(matrices: Any, packed: bool, causal: bool) -> None:
    length = 11
    mask = dataclasses.replace(ragged(length, packed), causal=causal)
    places = np.broadcast_to(np.arange(length), (3, length))
    if packed:
        places = np.where(places >= 5, places - 5, places)
    else:
        mask = dataclasses.replace(mask, segments=None)
    layer = run_layer(Mixer(matrices), length, mask, positions=places)
    tokens, width = (
        np.asarray(layer.parameters[name], np.float64) if matrices == "learned" else drawn(size, which)
        for which, (name, size) in enumerate((("tokens", 64), ("width", 24)))
    )
    allowed = matrix(ragged(length, packed))[:, 0] & (np.tri(length, dtype=bool) if causal else True)
    each = tokens[places[:, :, None], places[:, None, :]] * allowed
    keep = np.asarray(mask.valid)
    np.testing.assert_allclose(layer.y[keep], (each @ (layer.x @ width))[keep], atol=2e-5)


def test_random_mixers_have_no_parameters_and_draw_anew_for_other_layers() -> None:
    first, second = Mixer("random", draws=2).period()
    layers = [run_layer(options, 6) for options in (first, second)]
    assert not layers[0].parameters
    assert np.abs(layers[0].y - layers[1].y).max() > 0.1


def test_nothing_is_mixed() -> None:
    layer = run_layer(FeedforwardOnly(), 6)
    assert not layer.parameters and not layer.y.any()


def kinds(options: AttentionOptions, layers: int) -> str:
    """F and A for each layer of a stack."""
    config = EncoderConfig(layers=layers, attention=options)
    each = [one for period, times in config.layout for _ in range(times) for one in period]
    return "".join({"Fourier": "F", "Full": "A", "Linear": "L"}[type(one).__name__] for one in each)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (Hybrid(place="bottom"), "AAFFFFFFFFFF"),
        (Hybrid(place="top"), "FFFFFFFFFFAA"),
        (Hybrid(place="mixed"), "FFFFFAFFFFFA"),
        (Hybrid(place="mixed", number=5), "FAFAFFAFAFFA"),
        (Hybrid(place="every", number=4), "FFFAFFFAFFFA"),
        (Hybrid(body=Linear(), number=1), "LLLLLLLLLLLA"),
        (Hybrid(number=12), "AAAAAAAAAAAA"),
    ],
    ids=str,
)
def test_hybrid_layouts(options: Hybrid, expected: str) -> None:
    assert kinds(options, 12) == expected


def test_a_hybrid_is_its_layers_one_after_the_other() -> None:
    config = small(layers=2, attention=Hybrid(place="top", number=1))
    params, x = parameters(config)["stack"], np.random.default_rng(0).standard_normal((3, 7, 24))
    y = jnp.asarray(x, jnp.float32)
    context = Context(ragged(7), jnp.zeros((3, 7), jnp.int32))
    found, _ = Stack(config, False).apply({"params": params}, y, context, train=False)
    for group, kind in enumerate((Fourier(), Full())):
        own = params[f"group_{group}"]["layers_0"]["block_0"]
        assert ("attention" in own) == (kind == Full())
        y = Block(config, kind).apply({"params": own}, y, context, {}, False)
    np.testing.assert_allclose(found, y, atol=1e-5)


def test_every_keeps_depth_free() -> None:
    assert Hybrid(place="every", number=3).layout(300) == (((Fourier(), Fourier(), Full()), 100),)


def test_hybrids_of_nothing_are_refused() -> None:
    assert "model.attention.number=13" in refusal(lambda: EncoderConfig(attention=Hybrid(number=13)))
    assert "model.attention.number=0" in refusal(lambda: Hybrid(number=0))
    assert "model.attention.body" in refusal(lambda: Hybrid(body=LocalGlobal()))
    assert "model.attention.guest" in refusal(lambda: Hybrid(guest=Hybrid()))
