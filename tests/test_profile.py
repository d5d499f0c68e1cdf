"""A profile: every operation of the step is found under the block that it was made by."""

import json
import pathlib

import pytest
from runs import tiny

from bertjax import profile
from bertjax.profile import block_of

pytestmark = pytest.mark.usefixtures("quick_compiles")

LAYER = "jit(step)/jvp(Network)/encoder/stack/group_0/layers_0/block_0"
PATHS = {
    f"{LAYER}/attention/attention.project/query/bld,dhk->blhk/dot_general": "attention: projections",
    f"{LAYER}/attention/attention.output/output/blhk,hkd->bld/dot_general": "attention: projections",
    f"{LAYER}/attention/attention.mix/attention.reference/reduce_max": "attention: mixing",
    f"{LAYER}/mlp/up/bld,df->blf/dot_general": "feed-forward",
    f"{LAYER}/attention_norm/rsqrt": "norms",
    f"{LAYER}/add": "residual sums",
    "jit(step)/transpose(jvp(Network))/heads_mlp/transform/dot_general": "heads",
    "jit(step)/jvp(loss)/reduce_max": "loss",
    "jit(step)/transpose(jvp(loss))/mul": "loss",
    "jit(step)/optimizer/sqrt": "optimizer",
    "jit(step)/corrupt/select_n": "hiding tokens",
    "jit(step)/convert_element_type": "other",
}


@pytest.mark.parametrize("path, block", PATHS.items())
def test_a_path_belongs_to_one_block(path: str, block: str) -> None:
    assert block_of(path) == block


def test_a_step_is_told_by_its_blocks(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    operations = profile.run(
        tiny("mesh.data=1", "model.dropout=0.1", "model.attention_dropout=0.1"), str(tmp_path)
    )
    out, folder = capsys.readouterr().out, tmp_path / "profile"
    blocks = json.loads((folder / "blocks.json").read_text())
    assert set(blocks) >= set(profile.BLOCKS) - {
        "pooler",
        "residual sums",
    }  # those may be fused into neighbours
    for block in (
        "attention: projections",
        "attention: mixing",
        "feed-forward",
        "embeddings",
        "loss",
        "heads",
    ):
        assert blocks[block]["forward"] > 0 and blocks[block]["backward"] > 0, block
    for block in ("optimizer", "hiding tokens"):
        assert blocks[block]["forward"] > 0 and blocks[block]["backward"] == 0, block
    total = sum(one.milliseconds for one in operations)
    assert total == pytest.approx(sum(sum(times.values()) for times in blocks.values()))
    assert blocks.get(profile.OTHER, {"forward": 0.0})["forward"] < 0.35 * total
    assert (folder / "blocks.png").read_bytes().startswith(b"\x89PNG")
    assert "feed-forward" in out and "ms a step" in out and list(folder.rglob("*.xplane.pb"))
