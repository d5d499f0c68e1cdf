"""What every recipe of experiments/pretrain sends, held against a table in git: kind, axis, shape, count and bytes.

The recipes are made small and keep what decides their exchanges: tasks, block, sharing, rows, remat, optimizer. All
sizes differ (B32 L14 D48 H12 K4 F120 V56, three scanned layers), so a shape says what it is of. The tables are made by

    WRITE_GOLDEN=yes python -m pytest tests/plan/test_golden.py --slow

A compiler of another version may put exchanges together otherwise, so counts are compared with the version that made
them; what may be sent at all is held to for every version.
"""

import functools
import importlib
import json
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jaxlib
import pytest
from runs import parameter_shapes

from bertjax.config import CHOICES, Config
from bertjax.data.open import open_vocabulary
from bertjax.plan import find
from bertjax.plan.collectives import Collective, collectives
from bertjax.plan.compile import compile_step
from bertjax.plan.hlo import parse
from bertjax.plan.topology import devices_of
from bertjax.program import Program, build
from bertjax.settings import override

HERE = pathlib.Path(__file__).parent
RECIPES = sorted(
    path.stem for path in (HERE.parents[1] / "experiments/pretrain").glob("*.py") if path.stem[0] != "_"
)
MESHES = {
    "data": ("mesh.rules=data", "mesh.data=8", "mesh.fsdp=1"),
    "fsdp": ("mesh.rules=fsdp", "mesh.data=1", "mesh.fsdp=4"),
    "data and fsdp": ("mesh.rules=fsdp", "mesh.data=2", "mesh.fsdp=4"),
    "tensor": ("mesh.rules=fsdp_tensor", "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"),
}
SMALL = (
    "model.layers=3", "model.width=48", "model.heads=12", "model.feedforward=120", "model.vocab=56",
    "model.vocab_multiple=8", "model.max_length=16", "model.scan=true", "model.dropout=0", "model.init=none",
    "model.attention_dropout=0", "data.corpus=synthetic", "data.length=14", "data.weights=", "train.batch_size=32",
    "train.phases=", "train.microbatches=1",
)  # fmt: skip
# A generator of three heads cannot be split in two; a sentence learns from those on all devices, so that they meet.
NOT_SPLIT, MEETING = ("electra_small",), ("simcse",)
QUICK = (("bert_base", "data"), ("albert_base", "fsdp"))
CASES = [
    pytest.param(recipe, mesh, marks=[] if (recipe, mesh) in QUICK else pytest.mark.slow)
    for recipe in RECIPES
    for mesh in MESHES
    if not (mesh == "tensor" and recipe in NOT_SPLIT)
]
WRITING = "WRITE_GOLDEN" in os.environ


def small(recipe: str, *settings: str) -> Config:
    """The recipe at the sizes of these tests."""
    config: Config = importlib.import_module(f"experiments.pretrain.{recipe}").config()
    if config.model.embedding_width is not None:
        settings = ("model.embedding_width=16", *settings)
    if recipe in MEETING:
        settings = ("model.dropout=0.1", *settings)  # which tells the two views of a sentence apart
    return override(config, [*SMALL, *settings], CHOICES)


@functools.cache
def exchanged(config: Config, topology: str = "") -> tuple[Program, list[Collective]]:
    """The program of a config and what its step sends; recipes that come to the same are compiled once."""
    devices = devices_of(find(topology)) if topology else None
    program = build(config, open_vocabulary("synthetic", config.model.vocab), devices)
    text = compile_step(program).text
    assert text is not None, "this JAX reads what its own compiler writes"
    return program, collectives(parse(text), program.mesh)


def told(found: Sequence[Collective]) -> dict[str, list[int]]:
    """Count and bytes of every kind, axis and shape."""
    table: dict[str, list[int]] = {}
    for one in found:
        for array in one.arrays:
            shape = ",".join(map(str, array.shape))
            line = table.setdefault(f"{one.kind} over {one.axis} of {array.dtype}[{shape}]", [0, 0])
            line[0] += one.times
            line[1] += one.times * array.bytes
    return dict(sorted(table.items()))


def compare(file: str, key: tuple[str, str], found: Mapping[str, list[int]], version: str) -> None:
    """Holds a table against that in git, or writes it."""
    path = HERE / file
    known: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    recipe, mesh = key
    if WRITING:
        if known.get("version") != version:
            known = {"version": version, "recipes": {}}
        known["recipes"].setdefault(recipe, {})[mesh] = found
        known["recipes"] = dict(sorted(known["recipes"].items()))
        path.write_text(
            json.dumps(known, indent=1)
            .replace("[\n     ", "[")
            .replace(",\n     ", ", ")
            .replace("\n    ]", "]")
            + "\n"
        )
    elif known["version"] == version:
        assert found == known["recipes"].get(recipe, {}).get(mesh), (
            f"{file} says otherwise: see the head of this file"
        )


def misplaced(
    program: Program, found: Sequence[Collective], *, meeting: bool = False, folded: bool = False
) -> list[str]:
    """What is sent and is neither a parameter, or its gradient, nor a number; over `tensor` layers meet by design.

    A compiler that folds an axis in two (`folded`) leaves only the number of elements to tell by.
    """
    shapes, wrong = parameter_shapes(program, layers=3), []
    numbers = {math.prod(shape) for shape in shapes}
    for one in found:
        for array in one.arrays:
            shape = tuple(sorted(size for size in array.shape if size > 1))
            known = math.prod(shape) in numbers if folded else shape in shapes
            if "tensor" in one.axis or array.bytes <= 4 or known or meeting:
                continue
            wrong.append(f"{one.kind} over {one.axis} of {array}: {one.source}")
    return wrong


@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize(("recipe", "mesh"), CASES)
def test_what_a_recipe_sends(recipe: str, mesh: str) -> None:
    """Over `data` gradients are summed; over `fsdp` parameters are gathered and gradients scattered; nothing else."""
    program, found = exchanged(small(recipe, *MESHES[mesh]))
    kinds = {(one.kind, one.axis) for one in found}
    if mesh == "data" and recipe not in MEETING:
        assert kinds == {("all-reduce", "data")}
    assert not misplaced(program, found, meeting=recipe in MEETING)
    compare("golden_cpu.json", (recipe, mesh), told(found), jaxlib.__version__)


@pytest.mark.parametrize("mesh", ["data", "fsdp"])
def test_what_a_recipe_sends_on_tpus(mesh: str) -> None:
    """The same by the TPU's compiler, on sixteen chips, at sizes that its kernels take."""
    libtpu = pytest.importorskip("libtpu", reason="python -m pip install -r requirements-plan.txt")
    tiles = (
        "model.width=384",
        "model.heads=3",
        "model.feedforward=960",
        "model.vocab=1024",
        "model.max_length=128",
    )
    rest = ("model.dtype=bfloat16", "data.length=128", "mesh.data=-1", f"mesh.rules={mesh}")
    config = small("bert_base", *tiles, *rest, f"mesh.fsdp={16 if mesh == 'fsdp' else 1}")
    program, found = exchanged(config, "v5e:4x4")
    kinds = {one.kind for one in found}
    assert kinds <= {"all-reduce"} | ({"all-gather", "reduce-scatter"} if mesh == "fsdp" else set())
    assert not misplaced(program, found, folded=True)
    compare("golden_tpu.json", ("bert_base", mesh), told(found), libtpu.__version__)
