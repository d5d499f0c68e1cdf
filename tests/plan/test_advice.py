"""Memory counted without compiling, what is advised where it does not suffice, plans for GPUs, and the search."""

import json
import pathlib
from typing import Any

import jax
import pytest
from runs import tiny

from bertjax import experiment, sharding
from bertjax.config import CHOICES, Config
from bertjax.data.open import open_vocabulary
from bertjax.plan import advice, analytic, find, plan, planner, report, run
from bertjax.plan.compile import OutOfMemoryError, bytes_of, saved_activations, share_of
from bertjax.plan.search import difference, meshes, search
from bertjax.program import build
from bertjax.settings import override

pytestmark = pytest.mark.usefixtures("quick_compiles")
SCANNED = ("model.scan=True", "train.batch_size=64")


def counted(*settings: str) -> tuple[analytic.Memory, Any]:
    config = tiny(*SCANNED, *settings)
    vocabulary = open_vocabulary("synthetic", config.model.vocab)
    program = build(config, vocabulary)
    model = analytic.describe(program)
    return analytic.memory(config, vocabulary, model, dict(program.mesh.shape), "cpu"), program


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("mesh.rules=fsdp", "mesh.data=2", "mesh.fsdp=4"),
        ("mesh.rules=fsdp_tensor", "mesh.fsdp=2", "mesh.tensor=2"),
        ("optim.optimizer=lion", "mesh.data=8"),
    ],
)
def test_parameters_and_optimizer_are_exact(settings: tuple[str, ...]) -> None:
    memory, program = counted(*settings)
    assert memory.parameters == bytes_of(program.state.params)
    assert memory.optimizer == pytest.approx(bytes_of(program.state.opt_state), abs=8)


def test_what_a_layer_saves_by_hand() -> None:
    """With remat a layer keeps its input alone: 2 rows x 14 x 24 floats, for each of two layers."""
    config = tiny(*SCANNED, "model.remat=block")
    vocabulary = open_vocabulary("synthetic", config.model.vocab)
    saved = saved_activations(config, vocabulary, "cpu", rows=2)
    assert [array.shape for array in saved if array.shape[:1] == (2,) and array.shape[-2:] == (14, 24)].count(
        (2, 2, 14, 24)
    ) == 1
    all_ = saved_activations(tiny(*SCANNED), vocabulary, "cpu", rows=2)
    one = {"data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}
    assert share_of(all_, config, one) > 2 * share_of(saved, config, one)
    assert share_of(all_, config, {**one, "sequence": 2}) < share_of(all_, config, one)
    assert share_of(all_, config, {**one, "tensor": 2}) < share_of(all_, config, one)


def test_knobs_turn_the_right_way() -> None:
    base, _ = counted()
    assert counted("model.remat=block")[0].activations < base.activations
    parts = counted("train.microbatches=4")[0]
    assert parts.activations == pytest.approx(base.activations / 4, rel=0.01)
    assert parts.gradients == 2 * base.gradients
    split = counted("mesh.rules=fsdp", "mesh.fsdp=8")[0]
    assert split.parameters < base.parameters / 4 and split.gathered > base.gathered == 0


def advised(available: float, *settings: str) -> tuple[dict[str, Any], analytic.Memory, Config]:
    memory, program = counted(*settings)
    model = analytic.describe(program)
    vocabulary = program.vocabulary
    found = advice.advise(
        program.config, vocabulary, model, program.mesh, "cpu", memory.total, int(memory.total * available)
    )
    return found, memory, program.config


def test_advice_is_the_smallest_change_that_is_enough() -> None:
    found, memory, config = advised(0.9, "model.dtype=bfloat16", "mesh.data=4")
    assert found["enough"] and len(found["settings"]) == 1
    assert found["predicted"] <= 0.9 * 0.9 * memory.total
    changed = override(config, found["settings"], CHOICES)
    build(changed, open_vocabulary("synthetic", 53))  # legal
    more, memory, _ = advised(0.2, "model.dtype=bfloat16", "mesh.data=4")
    assert len(more["settings"]) > 1
    none, _, _ = advised(0.001, "model.dtype=bfloat16")
    assert not none["enough"] and "take more chips" in report.advice(none)


def test_a_refusal_of_the_compiler_is_a_plan_that_does_not_fit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(program: Any) -> None:
        raise OutOfMemoryError(3 * 2**30, 2**30)

    monkeypatch.setattr(planner, "compile_step", refuse)
    config = tiny(*SCANNED, "mesh.data=8")
    made = run(config, open_vocabulary("synthetic", 53), str(tmp_path), topology=find("cpu:8"))
    assert not made["fits"] and made["bytes_per_device"]["total"] == 3 * 2**30
    said = capsys.readouterr().out
    assert "does not fit: needs 3.00 GiB of 1.00 GiB; try --set " in said and "(about " in said
    assert json.loads((tmp_path / "plan.json").read_text())["memory"]["fits"] is False


def test_a_program_that_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a newer libtpu's: memory is the compiler's, exchanges are predicted, and the text says so."""

    def unreadable(self: Any) -> str:
        raise jax.errors.JaxRuntimeError(
            "INTERNAL: RET_CHECK failure (external/xla/xla/hlo/ir/hlo_instruction.cc)"
        )

    monkeypatch.setattr(jax.stages.Compiled, "as_text", unreadable)
    config = tiny(*SCANNED, "mesh.data=4")
    made = plan(config, open_vocabulary("synthetic", 53), topology=find("cpu:4"))
    assert made["compiled"] and not made["read"] and "cannot read the program" in made["notes"][0]
    assert "(predicted, not compiled)" in report.text(made)


def test_a_plan_for_gpus_says_what_is_not_known(
    capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    config = tiny(
        *SCANNED, "mesh.data=4", "mesh.tensor=2", "mesh.rules=fsdp_tensor", "model.dtype=bfloat16",
        "model.head_size=8",
    )  # fmt: skip
    made = run(config, open_vocabulary("synthetic", 53), str(tmp_path), topology=find("gpu:8"))
    assert "full by cudnn" in made["attention"] and not made["compiled"] and made["fits"]
    assert made["compile_seconds"] is None and made["estimate"]["step_seconds"] > 0
    said = capsys.readouterr().out
    assert "lowered for CUDA, not compiled" in said and "(predicted, not compiled)" in said


def test_a_plan_for_forced_cpus(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(*SCANNED, "mesh.data=-1")
    made = plan(config, open_vocabulary("synthetic", 53), topology=find("cpu:4"))
    assert made["devices"] == 4 and made["compiled"] and "estimate" not in made
    assert [(row["kind"], row["axis"]) for row in made["collectives"]] == [("all-reduce", "data")]
    assert "how much there is is not known" in report.text(made) and made["notes"] == []
    few = plan(tiny(*SCANNED, "mesh.data=2"), open_vocabulary("synthetic", 53), topology=find("cpu:4"))
    assert few["notes"] == ["2 of 4 devices would stand idle: set mesh.data=-1"]


# ---------------------------------------------------------------------------------------------- search


def test_every_mesh_once() -> None:
    found = list(meshes(sharding.MeshConfig(), 8, 1))
    sizes = [(mesh.fsdp, mesh.tensor, mesh.sequence) for mesh in found]
    assert len(sizes) == len(set(sizes)) == 20  # ways to write 8 as a product of four powers of two
    for mesh in found:
        sharding.make_mesh(mesh, jax.devices())
    two = list(meshes(sharding.MeshConfig(), 4, 2))
    assert {(mesh.dcn_data, mesh.dcn_fsdp) for mesh in two} == {(2, 1), (1, 2)}
    assert all(mesh.fsdp > 1 for mesh in two if mesh.dcn_fsdp > 1)


def test_search_ranks_what_fits(tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tiny(*SCANNED, "model.dtype=bfloat16", "mesh.data=-1")
    vocabulary = open_vocabulary("synthetic", 53)
    made = run(config, vocabulary, str(tmp_path), topology=find("gpu:4"), search=True)
    ranked = made["ranked"]
    assert made["fits"] and made["legal"] >= made["roomy"] > len(ranked) == 4
    assert [one["step_seconds"] for one in ranked] == sorted(one["step_seconds"] for one in ranked)
    best = override(config, made["settings"], CHOICES)
    again = plan(best, vocabulary, topology=find("gpu:4"))
    assert again["estimate"]["step_seconds"] == pytest.approx(ranked[0]["step_seconds"])
    said = capsys.readouterr().out
    assert "use           " + " ".join(f"--set {s}" for s in made["settings"]) in said
    assert json.loads((tmp_path / "plan.json").read_text())["ranked"]


def test_search_without_room_or_speed() -> None:
    config = tiny(*SCANNED, "mesh.data=-1")
    vocabulary = open_vocabulary("synthetic", 53)
    with pytest.raises(ValueError, match="--search needs chips whose speed is known"):
        search(config, vocabulary, find("cpu:8"))
    with pytest.raises(ValueError, match="--search plans for a machine by name: add --topology"):
        run(config, vocabulary, "unused", search=True)
    with pytest.raises(ValueError, match="no mesh of --topology=gpu:5 divides train.batch_size=64"):
        search(config, vocabulary, find("gpu:5"))


def test_the_settings_between_two_configs() -> None:
    one = tiny()
    two = tiny("mesh.rules=fsdp", "mesh.fsdp=2", "model.remat=dots", "train.microbatches=2")
    wanted = {"mesh.rules=fsdp", "mesh.fsdp=2", "model.remat=dots", "train.microbatches=2"}
    assert set(difference(one, two)) == wanted


# ---------------------------------------------------------------------------------------------- command line


def call(monkeypatch: pytest.MonkeyPatch, config: Config, *flags: str) -> int:
    monkeypatch.setattr("sys.argv", ["x", *flags])
    with pytest.raises(SystemExit) as caught:
        experiment.main(config)
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_plan_needs_neither_corpus_nor_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(*SCANNED, "data.corpus=corpora/none", "mesh.data=-1")
    assert call(monkeypatch, config, "--mode=plan", "--topology=cpu:2", f"--workdir={tmp_path}") == 0
    said = capsys.readouterr().out
    assert "corpora/none is not here: planned with a made-up vocabulary" in said
    assert json.loads((tmp_path / "plan.json").read_text())["devices"] == 2


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--mode=plan", "--topology=v7:2x2"), "v7 is not known; TPUs are"),
        (("--mode=plan", "--topology=cpu:3"), "train.batch_size=64 does not divide"),
        (("--mode=train", "--topology=cpu:2"), "--topology and --search belong to --mode=plan"),
        (("--mode=plan", "--search"), "add --topology"),
    ],
)
def test_errors_are_one_line(
    flags: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: pathlib.Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call(monkeypatch, tiny(*SCANNED, "mesh.data=-1"), *flags, f"--workdir={tmp_path}") == 2
    said = capsys.readouterr().err.strip()
    assert message in said and len(said.splitlines()) == 1
