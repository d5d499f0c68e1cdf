"""The checks of the battery that could depend on it, over settings that change what a variant computes."""

import dataclasses

import pytest

from bertjax.attention import ATTENTIONS, AttentionOptions
from bertjax.attention.fourier import Fourier
from bertjax.attention.gated_unit import GatedUnit
from bertjax.attention.hybrid import Hybrid
from bertjax.attention.linear import Linear
from bertjax.attention.linformer import Linformer
from bertjax.attention.mixer import Mixer
from bertjax.attention.performer import Performer
from bertjax.attention.synthesizer import Synthesizer
from tests.attention import battery
from tests.cases import slow_but

KINDS = ("dense", "factorised_dense", "random", "factorised_random", "content")
SETTINGS: dict[str, tuple[str, AttentionOptions]] = {
    "fourier by matrix": ("fourier", Fourier("matrix")),
    "gated unit in chunks": ("gated_unit", GatedUnit("chunked", size=6, chunk=4)),
    "linformer a head": ("linformer", Linformer(3, "none")),
    "performer with relu": ("performer", Performer(16, "relu", draws=2)),
    "random mixer": ("mixer", Mixer("random")),
    "synthesizer of all kinds": ("synthesizer", Synthesizer(KINDS)),
    "hybrid of two that pack": ("hybrid", Hybrid(Linear(), place="every")),
}


@pytest.mark.parametrize(
    "check",
    [
        battery.padding_cannot_influence_real_tokens,
        battery.segments_cannot_see_each_other,
        battery.gradients_are_finite_with_an_empty_row,
        battery.scanned_rematerialised_and_sharded_equals_plain,
    ],
    ids=lambda check: check.__name__,
)
@pytest.mark.parametrize(
    "setting",
    slow_but(
        SETTINGS, ("fourier by matrix", "gated unit in chunks", "random mixer", "hybrid of two that pack")
    ),
)
def test_setting(setting: str, check: object, monkeypatch: pytest.MonkeyPatch) -> None:
    name, options = SETTINGS[setting]
    able = {"segments": True} if name == "hybrid" else {}  # what a hybrid can do follows from its layers
    monkeypatch.setitem(ATTENTIONS, name, dataclasses.replace(ATTENTIONS[name], small=options, **able))
    check(name)  # type: ignore[operator]
