"""The battery over every entry of the registry, and over one that is added here on the fly."""

import dataclasses
import importlib.util
import pathlib
import re
import sys
from collections.abc import Callable

import jax
import jax.numpy as jnp
import pytest

from bertjax import sharding
from bertjax.attention import (
    ATTENTIONS,
    Attention,
    AttentionOptions,
    Context,
    Variant,
    check_attention,
    explain,
)
from bertjax.bench.attention import AttentionBench, choose
from bertjax.config import CHOICES, Config
from bertjax.experiment import smoke
from bertjax.layers.config import EncoderConfig, PositionOptions
from bertjax.layers.position import POSITIONS, Position, Scheme
from bertjax.models.cost import stack_flops
from bertjax.settings import describe, override
from bertjax.types import Array
from tests.attention import battery
from tests.attention.battery import CHECKS, FAST, case_of, options_of, refusal, small_batch
from tests.cases import slow_but

README = pathlib.Path(__file__).parents[2] / "README.md"


# Near relatives of others: of full, window, longformer, linear and mixer.
RELATIVES = ("talking_heads", "qk_norm", "local_global", "bigbird", "performer", "cosformer")
RELATIVES += ("fourier", "feedforward_only")
# What costs programs of its own, and tells of a run's arrangement rather than of the variant.
ARRANGEMENTS = (
    battery.bfloat16_is_close_to_float32,
    battery.jit_equals_eager,
    battery.scanned_rematerialised_and_sharded_equals_plain,
)


@pytest.mark.parametrize(
    "name, check",
    slow_but(
        [(name, check) for name in ATTENTIONS for check in CHECKS],
        [(name, c) for name in ATTENTIONS for c in CHECKS if name not in RELATIVES or c not in ARRANGEMENTS],
    ),
    ids=[f"{name}-{check.__name__}" for name in ATTENTIONS for check in CHECKS],
)
def test_battery(name: str, check: Callable[[str], None]) -> None:
    check(name)


@dataclasses.dataclass(frozen=True)
class Mean(AttentionOptions):
    """The mean of the values that a query may see, weighted by a gate on the key."""


class MeanAttention(Attention):
    """The mean, and the query itself."""

    def mix(self, q: Array, k: Array, v: Array, context: Context, *, train: bool) -> Array:
        del train
        gate = jnp.exp(jnp.tanh(k.mean(-1)).astype(jnp.float32)).transpose(0, 2, 1)[:, :, None, :]
        weights = jnp.where(context.mask.matrix(q.shape[1], k.shape[1]), gate, 0.0)
        weights = weights / jnp.maximum(weights.sum(-1, keepdims=True), 1e-9)
        return (q + jnp.einsum("bhlm,bmhk->blhk", weights, v.astype(jnp.float32))).astype(q.dtype)


@pytest.fixture(scope="module")
def added(tmp_path_factory: pytest.TempPathFactory) -> Variant:
    """The variant that the README adds: one file and one line, run as they stand there."""
    section = README.read_text().split("## Swap the attention\n")[1].split("\n## ")[0]
    file, line = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    path = tmp_path_factory.mktemp("added") / "sharp.py"
    path.write_text(file)
    spec = importlib.util.spec_from_file_location("sharp", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["sharp"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    registry: dict[str, Variant] = {}
    exec(line, {**vars(module), "ATTENTIONS": registry, "Variant": Variant})
    assert list(registry) == ["sharp"]
    return registry["sharp"]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_a_variant_added_on_the_fly(
    check: Callable[[str], None], added: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTENTIONS, "sharp", added)
    check("sharp")


def test_an_added_variant_is_chosen_and_priced_as_all_others(
    added: Variant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ATTENTIONS, "sharp", added)
    choices = {**CHOICES, AttentionOptions: {name: variant.options for name, variant in ATTENTIONS.items()}}
    settings = ["model.attention=sharp", "model.attention.temperature=0.5"]
    config = smoke(override(Config(), settings, choices))
    assert config.model.attention == dataclasses.replace(added.options, temperature=0.5)  # type: ignore[call-arg]
    assert "sharp" in explain(config.model, "cpu")
    assert "Divides the scores." in [doc for _, _, doc in describe(config, choices)]
    full = dataclasses.replace(config.model, attention=ATTENTIONS["full"].options)
    assert stack_flops(config.model, 16) == stack_flops(full, 16)
    listed = choose(AttentionBench(variants=("sharp",)))
    assert listed["sharp"].attention == added.options


class LeakyAttention(MeanAttention):
    """Forgets the mask: the battery has to notice."""

    def mix(self, q: Array, k: Array, v: Array, context: Context, *, train: bool) -> Array:
        return q + k * 0 + v.mean(1, keepdims=True)


@dataclasses.dataclass(frozen=True)
class Leaky(AttentionOptions):
    """Options of a variant that is wrong."""


@pytest.mark.parametrize(
    "check",
    [
        battery.padding_cannot_influence_real_tokens,
        battery.segments_cannot_see_each_other,
        battery.causal_masks_are_obeyed_or_refused,
        battery.every_parameter_gets_a_gradient,
        battery.parameter_count_is_pinned,
    ],
    ids=lambda check: check.__name__,
)
def test_the_battery_notices(check: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ATTENTIONS, "leaky", Variant(Leaky(), LeakyAttention, 1))
    with pytest.raises(AssertionError):
        check("leaky")


def test_the_mesh_splits_the_projections() -> None:
    """Else `scanned_rematerialised_and_sharded_equals_plain` would compare one device with copies of itself."""
    case = case_of(options_of("full"), scan=True)
    mesh = sharding.make_mesh(sharding.MeshConfig(fsdp=2, tensor=2, sequence=2, rules="fsdp_tensor_sequence"))
    places = sharding.parameter_shardings(case.declared, mesh, "fsdp_tensor_sequence")
    query = places["stack"]["group_0"]["layers"]["block_0"]["attention"]["query"]["kernel"]
    assert query.spec == jax.P(None, "fsdp", "tensor", None)
    with sharding.activate(mesh, "fsdp_tensor_sequence"):
        forward = jax.jit(case.hidden, compiler_options=FAST)
        hidden = forward(jax.device_put(case.parameters, places), small_batch(case.config))
    assert hidden.sharding.shard_shape(hidden.shape) == (1, 5, 24)


class AddsToScores(Position):
    """A position scheme that needs scores."""

    def bias(self, length: int) -> Array:
        return jnp.zeros((self.config.heads, 2 * length - 1))


@dataclasses.dataclass(frozen=True)
class Adds(PositionOptions):
    """Its options."""


def test_what_a_variant_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(POSITIONS, "adds", Scheme(Adds(), AddsToScores))
    able = dict(segments=False, causal=False, rotate=False, bias=False)
    monkeypatch.setitem(ATTENTIONS, "mean", Variant(Mean(), MeanAttention, 0, **able))
    config = EncoderConfig(attention=Mean())
    check_attention(config)
    message = refusal(lambda: check_attention(config, packed=True))
    assert "model.attention=mean" in message and "full" in message
    assert "causal" in refusal(lambda: check_attention(config, causal=True))
    adds = dataclasses.replace(config, position=Adds())
    assert "model.position" in refusal(lambda: check_attention(adds))
    check_attention(dataclasses.replace(adds, attention=ATTENTIONS["full"].options), packed=True, causal=True)
