# ruff: noqa: E501 - a compiler does not wrap its lines
"""What is read off a compiler's text: by hand first, then of real steps, whose exchanges are pinned per preset."""

import math
from typing import Any

import jax
import pytest
from cases import slow_but
from runs import parameter_shapes, tiny

from bertjax import sharding
from bertjax.data.open import open_vocabulary
from bertjax.plan import analytic
from bertjax.plan.collectives import Collective, collectives, replica_groups, table
from bertjax.plan.compile import compile_step
from bertjax.plan.growth import communication
from bertjax.plan.hlo import Array, parse
from bertjax.plan.traffic import memory_traffic
from bertjax.program import build

pytestmark = pytest.mark.usefixtures("quick_compiles")

# Two shards of rows and four of parameters: a loop of three trips that gathers, and an all-reduce after it.

WRITTEN = """HloModule jit_step, is_scheduled=true

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%all-reduce-scatter.1 (whole: f32[8,6]) -> f32[2,6] {
  %whole = f32[8,6]{1,0} parameter(0)
  %inside = f32[8,6]{1,0} all-reduce(%whole), channel_id=5, replica_groups={{0,1,2,3},{4,5,6,7}}, to_apply=%add
  ROOT %part = f32[2,6]{1,0} slice(%inside), slice={[0:2], [0:6]}
}

%gathering.1 (piece: bf16[2,6]) -> bf16[8,6] {
  %piece = bf16[2,6]{1,0} parameter(0)
  ROOT %begun = bf16[8,6]{1,0} all-gather(%piece), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="7"}
}

%gathering.2 (piece.2: bf16[2,6]) -> bf16[8,6] {
  %piece.2 = bf16[2,6]{1,0} parameter(0)
  ROOT %ended = bf16[8,6]{1,0} all-gather(%piece.2), channel_id=3, replica_groups=[2,4]<=[8], dimensions={0}, frontend_attributes={chain_id="7"}
}

%condition (state: (s32[], bf16[2,6])) -> pred[] {
  %state = (s32[], bf16[2,6]{1,0}) parameter(0)
  %trips = s32[] constant(3)
  %at = s32[] get-tuple-element(%state), index=0
  ROOT %less = pred[] compare(%at, %trips), direction=LT
}

%body (state.1: (s32[], bf16[2,6])) -> (s32[], bf16[2,6]) {
  %state.1 = (s32[], bf16[2,6]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state.1), index=0
  %mine = bf16[2,6]{1,0} get-tuple-element(%state.1), index=1
  %start = bf16[8,6]{1,0} fusion(%mine), kind=kCustom, calls=%gathering.1
  %end = bf16[8,6]{1,0:T(8,128)(2,1)S(1)} fusion(%mine), kind=kCustom, calls=%gathering.2
  %passed = (bf16[2,6]{1,0}, bf16[2,6]{1,0}) collective-permute-start(%mine), channel_id=9, source_target_pairs={{0,1},{1,2},{2,3},{3,0},{4,5},{5,6},{6,7},{7,4}}
  %got = bf16[2,6]{1,0} collective-permute-done(%passed)
  ROOT %next = (s32[], bf16[2,6]{1,0}) tuple(%i, %got)
}

ENTRY %main (p: bf16[2,6], g: f32[8,6]) -> f32[2,6] {
  %p = bf16[2,6]{1,0} parameter(0)
  %g = f32[8,6]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %init = (s32[], bf16[2,6]{1,0}) tuple(%zero, %p)
  %loop = (s32[], bf16[2,6]{1,0}) while(%init), condition=%condition, body=%body, metadata={op_name="jit(step)/while"}
  %kernel = f32[2,6]{1,0} custom-call(%p), custom_call_target="tpu_custom_call", frontend_attributes={kernel={
"blocks": 1
}}, metadata={op_name="splash"}
  %scattered = f32[2,6]{1,0} fusion(%g), kind=kCustom, calls=%all-reduce-scatter.1
  ROOT %all = f32[2,6]{1,0} all-reduce(%scattered), channel_id=6, replica_groups=mesh['a'=2,'b'=4] {'a'}, to_apply=%add, metadata={op_name="jit(step)/add"}
}
"""


def mesh_of(**sizes: int) -> Any:
    return sharding.make_mesh(sharding.MeshConfig(**sizes, rules="fsdp_tensor_sequence"))


def test_kinds_axes_times_and_bytes() -> None:
    found = collectives(parse(WRITTEN), mesh_of(data=2, fsdp=4))
    rows = {(row.kind, row.axis): (row.group, row.count, row.bytes, row.wire) for row in table(found)}
    assert rows == {
        ("all-gather", "fsdp"): (4, 3, 3 * 96, 3 * 72.0),  # the chain of two fusions is one gather
        ("collective-permute", "fsdp"): (4, 3, 3 * 24, 3 * 24.0),
        ("reduce-scatter", "fsdp"): (4, 1, 192, 144.0),
        ("all-reduce", "data"): (2, 1, 48, 48.0),
    }
    assert [one.source for one in found if one.kind == "all-reduce"] == ["jit(step)/add"]


def test_memory_traffic_of_loops_fusions_and_fast_memory() -> None:
    module = parse(WRITTEN)
    # A trip reads the piece three times, and writes one gather (the other's result stays on the chip) and what comes
    # from the neighbour; its condition compares two numbers.
    trip = (24 + 96) + 24 + (24 + 24) + (4 + 4 + 1)
    # Then the kernel reads 24 and writes 48 bytes, the fusion reads 192 and writes 48, the all-reduce 48 and 48.
    assert memory_traffic(module) == 3 * trip + 72 + 240 + 96


def test_a_slice_of_an_operand_is_what_counts() -> None:
    text = """HloModule m

%sliced (stack: f32[10,8], at: s32[]) -> f32[1,8] {
  %stack = f32[10,8]{1,0} parameter(0)
  %at = s32[] parameter(1)
  %view = f32[10,8]{1,0} bitcast(%stack)
  ROOT %one = f32[1,8]{1,0} dynamic-slice(%view, %at, %at), dynamic_slice_sizes={1,8}
}

%updated (old: f32[10,8], new: f32[1,8], where: s32[]) -> f32[10,8] {
  %old = f32[10,8]{1,0} parameter(0)
  %new = f32[1,8]{1,0} parameter(1)
  %where = s32[] parameter(2)
  ROOT %put = f32[10,8]{1,0} dynamic-update-slice(%old, %new, %where, %where)
}

ENTRY %main (a: f32[10,8], i: s32[]) -> f32[10,8] {
  %a = f32[10,8]{1,0} parameter(0)
  %i = s32[]{:S(6)} parameter(1)
  %x = f32[1,8]{1,0} fusion(%a, %i), kind=kLoop, calls=%sliced
  ROOT %y = f32[10,8]{1,0} fusion(%a, %x, %i), kind=kLoop, calls=%updated
}
"""
    assert memory_traffic(parse(text)) == (32 + 32) + (32 + 32)


def test_a_loop_of_unknown_length_is_told() -> None:
    text = WRITTEN.replace("%trips = s32[] constant(3)", "%trips = s32[] parameter(1)")
    module = parse(text)
    assert module.unknown == ("loop",) and module.times["body"] == 1
    known = text.replace("body=%body,", 'body=%body, backend_config={"known_trip_count":{"n":"5"}},')
    assert parse(known).times["body"] == 5


@pytest.mark.parametrize(
    ("written", "groups"),
    [
        ("{{0,1},{2,3}}", [[0, 1], [2, 3]]),
        ("{}", [[0, 1, 2, 3, 4, 5, 6, 7]]),
        ("[2,4]<=[8]", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("[4,2]<=[2,4]T(1,0)", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=4] {'b'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
        ("mesh['a'=2,'b'=4] {'a'}", [[0, 4], [1, 5], [2, 6], [3, 7]]),
        ("mesh['a'=2,'b'=2,'c'=2] {'a','c'}", [[0, 1, 4, 5], [2, 3, 6, 7]]),
        ("mesh['a'=8] {'a':(2)2}", [[0, 2], [1, 3], [4, 6], [5, 7]]),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", [[0, 1, 2, 3], [4, 5, 6, 7]]),
    ],
)
def test_replica_groups(written: str, groups: list[list[int]]) -> None:
    assert replica_groups(written, 8) == groups


def test_what_goes_over_the_wire() -> None:
    def wire(kind: str) -> float:
        return Collective(kind, "data", (0, 1, 2, 3), 1, (Array("f32", (100,)),)).wire

    assert (wire("all-reduce"), wire("all-gather"), wire("reduce-scatter")) == (600, 300, 300)
    assert (wire("all-to-all"), wire("collective-permute")) == (300, 400)


# ---------------------------------------------------------------------------------------------- real steps

# B32 L14 D24 H4 K6 F40 V56, three scanned layers: what each preset may exchange, and nothing else.
GRADIENTS = {("all-reduce", "data")}
ALONE = {
    ("all-gather", "fsdp"),
    ("all-reduce", "fsdp"),
}  # on CPUs a reduce-scatter is an all-reduce and a slice
FSDP = {*ALONE, ("all-reduce", "data*fsdp"), *GRADIENTS}
GOLDEN: dict[str, tuple[tuple[str, ...], set[tuple[str, str]]]] = {
    "data": (("mesh.data=8",), GRADIENTS),
    "data, microbatches": (("mesh.data=8", "train.microbatches=2"), GRADIENTS),
    "fsdp": (("mesh.rules=fsdp", "mesh.data=1", "mesh.fsdp=8"), ALONE),
    "data and fsdp": (("mesh.rules=fsdp", "mesh.data=2", "mesh.fsdp=4", "train.microbatches=2"), FSDP),
    "tensor": (
        ("mesh.rules=fsdp_tensor", "mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2"),
        FSDP | {("all-reduce", "tensor"), ("all-gather", "tensor")},
    ),
}


def compiled(*settings: str) -> tuple[Any, list[Collective]]:
    config = tiny("model.scan=True", "model.layers=3", "train.batch_size=32", *settings)
    program = build(config, open_vocabulary("synthetic", config.model.vocab))
    module = parse(compile_step(program).text)
    assert not module.unknown
    return program, collectives(module, program.mesh)


@pytest.mark.parametrize("name", slow_but(GOLDEN, ("data", "fsdp", "tensor")))
def test_the_exchanges_of_a_preset(name: str) -> None:
    """Gradients alone where rows are split, parameters too where they are; never an activation but over `tensor`."""
    settings, wanted = GOLDEN[name]
    program, found = compiled(*settings)
    assert {(one.kind, one.axis) for one in found} == wanted
    parameters = parameter_shapes(program, layers=3)
    for one in found:
        if "tensor" in one.axis:
            continue
        for array in one.arrays:
            shape = tuple(sorted(n for n in array.shape if n > 1))
            assert shape in parameters or array.bytes <= 4, (
                f"{one.kind} over {one.axis} of {array}: {one.source}"
            )


def test_what_the_rules_imply_is_what_is_compiled() -> None:
    """The analytic count, which ranks meshes, against the compiler: within a fifth of the bytes on the wire."""
    for settings in (GOLDEN["data"][0], GOLDEN["fsdp"][0], GOLDEN["data, microbatches"][0]):
        program, found = compiled(*settings)
        model = analytic.describe(program)
        counted = analytic.exchanges(program.config, model, program.mesh)
        # On CPUs a reduce-scatter is an all-reduce and a slice, which sends twice as much.
        ours = sum(one.times * one.wire * (2 if one.kind == "reduce-scatter" else 1) for one in counted)
        theirs = sum(one.times * one.wire for one in found)
        assert ours == pytest.approx(theirs, rel=0.2), settings


def test_communication_does_not_grow_with_data_shards() -> None:
    """With as many rows a device, a device sends no more than the all-reduce bound of the gradients."""
    config = tiny("model.scan=True", "train.batch_size=4", "model.tied=False")
    vocabulary = open_vocabulary("synthetic", config.model.vocab)
    sent = [communication(config, vocabulary, shards, jax.devices()) for shards in (2, 4, 8)]
    for one in sent:
        assert one.bound * 0.99 <= one.share <= one.bound * 1.01 + 1e-3, one
    assert math.isclose(sent[2].share / sent[1].share, sent[2].bound / sent[1].bound, rel_tol=0.01)
