"""Checkpoints: whole and unchanged or not used, for whatever reason they are not."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from runs import assert_equal

from bertjax import checkpoint
from bertjax.checkpoint import Checkpoints
from bertjax.models.stacking import stack_layers, unstack_layers
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.types import TrainState, Tree

pytestmark = pytest.mark.usefixtures("quick_compiles")


def state(step: int, width: int = 24) -> TrainState:
    """An unrolled stack with the states of optimizers around it; every number depends on the step."""
    random = np.random.default_rng(step)

    def draw(*shape: int) -> jax.Array:
        return jnp.asarray(random.normal(size=shape), jnp.float32)

    def params() -> Tree:
        layers = {f"layers_{i}": {"block_0": {"kernel": draw(width, 40)}} for i in range(12)}
        return {"encoder": {"stack": layers, "tokens": draw(56, width)}}

    optimizer = (
        optax.EmptyState(),
        optax.ScaleByAdamState(count=jnp.int32(step), mu=params(), nu=params()),
        optax.MaskedState(inner_state=optax.EmptyState()),
        {"adam": optax.MaskedState(inner_state=(optax.MaskedNode(), draw(3)))},
    )
    return TrainState(step=jnp.int32(step), params=params(), opt_state=optimizer)


def shapes(tree: Tree, sharding: Any = None) -> Tree:
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0]) if sharding is None else sharding
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), tree)


def write(workdir: pathlib.Path, *steps: int, keep: int = 5) -> Checkpoints:
    checkpoints = Checkpoints(workdir, keep=keep)
    for step in steps:
        checkpoints.save(state(step))
    checkpoints.close()
    return checkpoints


def read(workdir: pathlib.Path) -> TrainState:
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest()
    assert step is not None
    return checkpoints.restore(step, shapes(state(0)))


def files(folder: pathlib.Path) -> list[pathlib.Path]:
    """Those that hold numbers, and one of each other kind."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


# ---------------------------------------------------------------------------------------------- write and read


def test_a_state_comes_back_bit_for_bit_in_its_own_structure(tmp_path: pathlib.Path) -> None:
    write(tmp_path, 3)
    assert_equal(read(tmp_path), state(3))
    only = Checkpoints(tmp_path).restore_params(3, shapes(state(0).params))
    assert_equal(only, state(3).params)


def test_parameters_are_read_without_the_optimizer(tmp_path: pathlib.Path) -> None:
    checkpoints = write(tmp_path, 3)
    shutil.rmtree(checkpoints.folder / "3" / "optimizer")
    assert_equal(checkpoints.restore_params(3, shapes(state(0).params)), state(3).params)


def test_the_newest_are_kept_and_nothing_else(tmp_path: pathlib.Path) -> None:
    checkpoints = write(tmp_path, 1, 2, 5, 9, keep=2)
    assert sorted(path.name for path in checkpoints.folder.iterdir()) == ["5", "9", "seals"]
    assert sorted(path.name for path in checkpoints.seals.iterdir()) == ["5.json", "9.json"]
    assert checkpoints.survey() == (9, [])


def test_a_checkpoint_is_trusted_before_the_next_is_begun(tmp_path: pathlib.Path) -> None:
    """Else a killed run would lose one, or with keep=1 all of them."""
    checkpoints = Checkpoints(tmp_path, keep=1)
    for step in (1, 2, 3):
        checkpoints.save(state(step))
        checkpoints.wait()
        assert Checkpoints(tmp_path).latest() == step
    checkpoints.close()


def test_what_is_saved_may_be_overwritten_at_once(tmp_path: pathlib.Path) -> None:
    """As the train step does, which takes over the memory of the state."""
    double = jax.jit(lambda tree: jax.tree.map(lambda x: x * 2, tree), donate_argnums=0)
    checkpoints, current = Checkpoints(tmp_path), state(1)
    checkpoints.save(current)
    for _ in range(20):
        current = double(current)
    checkpoints.close()
    assert_equal(read(tmp_path), state(1))


def test_a_checkpoint_is_read_onto_another_mesh(tmp_path: pathlib.Path) -> None:
    def placed(tree: Tree, fsdp: int, device: Any) -> Tree:
        mesh = make_mesh(MeshConfig(fsdp=fsdp, rules="fsdp"), jax.devices()[:fsdp])
        split = NamedSharding(mesh, PartitionSpec("fsdp"))
        whole = NamedSharding(mesh, PartitionSpec())
        return jax.tree.map(lambda x: device(x, split if x.ndim == 2 else whole), tree)

    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(placed(state(3), 8, jax.device_put))
    checkpoints.close()
    like = placed(state(0), 4, lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where))
    found = checkpoints.restore(3, like)
    assert_equal(found, state(3))
    kernel = found.params["encoder"]["stack"]["layers_0"]["block_0"]["kernel"]
    assert kernel.addressable_shards[0].data.shape == (6, 40)


@pytest.mark.parametrize("there", ["loop", "scan"])
def test_a_stack_is_read_in_either_form(there: str, tmp_path: pathlib.Path) -> None:
    def stacked(s: TrainState) -> TrainState:
        return TrainState(s.step, stack_layers(s.params), stack_layers(s.opt_state))

    loop, scan = state(3), stacked(state(3))
    written, wanted = (loop, scan) if there == "loop" else (scan, loop)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(written)
    checkpoints.close()
    assert_equal(checkpoints.restore(3, shapes(wanted)), wanted)
    assert_equal(stack_layers(unstack_layers(scan.params)), scan.params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda x: jnp.zeros((56, 25)) if x.shape == (56, 24) else x,
            r"float32\[56, 24\] there, float32\[56, 25\] here",
        ),
        (lambda x: x.astype(jnp.bfloat16), r"float32\[24, 40\] there, bfloat16\[24, 40\] here"),
    ],
    ids=["shape", "dtype"],
)
def test_another_model_is_refused(change: Any, message: str, tmp_path: pathlib.Path) -> None:
    checkpoints = write(tmp_path, 3)
    like = shapes(jax.tree.map(change, state(0).params))
    with pytest.raises(ValueError, match=f"is of another model: .*{message}") as caught:
        checkpoints.restore_params(3, like)
    assert "\n" not in str(caught.value)


def test_another_optimizer_is_refused(tmp_path: pathlib.Path) -> None:
    checkpoints = write(tmp_path, 3)
    like = shapes(TrainState(jnp.int32(0), state(0).params, (jnp.zeros(7),)))
    with pytest.raises(ValueError, match="is of another model: .* missing there|not expected here"):
        checkpoints.restore(3, like)


# ---------------------------------------------------------------------------------------------- damage


def flip(path: pathlib.Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def shorten(path: pathlib.Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def add(path: pathlib.Path) -> None:
    (path.parent / "more").write_bytes(b"")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A workdir with two checkpoints, to be copied."""
    folder = tmp_path_factory.mktemp("written")
    write(folder, 1, 2)
    return folder


@pytest.mark.parametrize("damage", [flip, shorten, pathlib.Path.unlink, add])
def test_one_damaged_file_rejects_its_step(
    damage: Any, written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    for number, path in enumerate(files(written / "checkpoints" / "2")):
        workdir = tmp_path / str(number)
        shutil.copytree(written, workdir)
        name = path.relative_to(written / "checkpoints" / "2")
        damage(workdir / "checkpoints" / "2" / name)
        found, faults = Checkpoints(workdir).survey()
        assert found == 1, name
        folder = name.parent / "more" if damage is add else name
        assert faults == [f"step 2 is damaged ({folder} has changed)"]
    assert number > 10


def test_the_step_before_is_restored_and_the_damaged_one_replaced(
    written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(written, workdir)
    flip(max(files(workdir / "checkpoints" / "2"), key=lambda path: path.stat().st_size))
    assert_equal(read(workdir), state(1))
    write(workdir, 2)
    assert_equal(read(workdir), state(2))


@pytest.mark.parametrize("seal", [None, "", '{"params/_METADATA": [1', "[]", "{}"])
def test_without_a_whole_seal_a_step_is_not_trusted(
    seal: str | None, written: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(written, workdir)
    path = workdir / "checkpoints" / "seals" / "2.json"
    path.unlink() if seal is None else path.write_text(seal)
    found, faults = Checkpoints(workdir).survey()
    assert found == 1 and len(faults) == 1 and faults[0].startswith("step 2 ")


def test_leftovers_are_passed_over_and_cleared_away(written: pathlib.Path, tmp_path: pathlib.Path) -> None:
    workdir = tmp_path / "run"
    shutil.copytree(written, workdir)
    folder = workdir / "checkpoints"
    (folder / "99").mkdir()
    (folder / "7.orbax-checkpoint-tmp-123").mkdir()
    (folder / "seals" / "5.partial").write_text("{")
    (folder / "77").write_text("a file")
    shutil.copytree(folder / "2" / "params", folder / "3" / "params")
    assert Checkpoints(workdir).survey() == (
        2,
        ["step 99 was not written to its end", "step 3 was not written to its end"],
    )
    write(workdir, 4)
    assert sorted(path.name for path in folder.iterdir()) == ["1", "2", "4", "77", "seals"]
    assert sorted(path.name for path in (folder / "seals").iterdir()) == ["1.json", "2.json", "4.json"]


def test_a_seal_says_what_it_sealed(written: pathlib.Path) -> None:
    sealed = json.loads((written / "checkpoints" / "seals" / "2.json").read_text())
    folder = written / "checkpoints" / "2"
    assert sealed.keys() == {str(path.relative_to(folder)) for path in files(folder)}
    assert all(
        size == (folder / name).stat().st_size and len(sha) == 64 for name, (size, sha) in sealed.items()
    )


def test_an_empty_folder_holds_nothing(tmp_path: pathlib.Path) -> None:
    assert Checkpoints(tmp_path).survey() == (None, [])
    assert Checkpoints(tmp_path / "missing").latest() is None
    assert not (tmp_path / "checkpoints").exists()


# ---------------------------------------------------------------------------------------------- crashes

WRITER = """
import sys
import jax
from test_checkpoint import state
from bertjax.checkpoint import Checkpoints
checkpoints = Checkpoints(sys.argv[1], keep=2)
for step in range(1, 10**6):
    checkpoints.save(state(step))
    print(step, flush=True)
"""


@pytest.mark.parametrize("kill", [1, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_writer_leaves_whole_checkpoints(
    kill: int, tmp_path: pathlib.Path, quick_compiles: dict[str, str]
) -> None:
    """kill -9 while one save follows the other, so that one is always under way; then go on in the same folder."""
    paths = os.pathsep.join([os.getcwd(), os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, **quick_compiles, "PYTHONPATH": paths}
    random, last = np.random.default_rng(0), 0
    for _ in range(kill):
        command = [sys.executable, "-c", WRITER, str(tmp_path)]
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for line in writer.stdout:
                if int(line) >= 4:
                    break
            time.sleep(random.uniform(0, 0.2))
            writer.send_signal(signal.SIGKILL)
            last = int([line, *writer.stdout][-1])
        found, _ = Checkpoints(tmp_path).survey()
        assert found is not None and found >= last - 2
        assert_equal(read(tmp_path), state(found))
    write(tmp_path, last + 1, keep=2)
    assert Checkpoints(tmp_path).survey() == (last + 1, [])


def test_a_failure_in_the_background_is_raised_in_the_foreground(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1))
    checkpoints.wait()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "_contents", lambda folder: 1 / 0)
        checkpoints.save(state(2))
        with pytest.raises(ZeroDivisionError):
            checkpoints.save(state(3))
    assert Checkpoints(tmp_path).survey() == (1, ["step 2 was not written to its end"])
    checkpoints.save(state(3))
    checkpoints.close()
    assert Checkpoints(tmp_path).survey()[0] == 3


# ---------------------------------------------------------------------------------------------- a full disk


@pytest.fixture
def small_disk(tmp_path: pathlib.Path) -> Iterator[pathlib.Path]:
    """A file system of one megabyte, where this user may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user may not mount a file system; the test with a pretended error covers the rest")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


# Orbax leaves futures behind when a write fails, which complain of its closed event loop when they are collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("swept")
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(small_disk: pathlib.Path) -> None:
    checkpoints = Checkpoints(small_disk, keep=1)
    checkpoints.save(state(1))
    checkpoints.wait()
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    filler.write_bytes(bytes(free - 100_000))
    with pytest.raises(
        ValueError, match=r"no space left for a checkpoint in .* MB free, 0\.\d needed.: free some"
    ) as caught:
        checkpoints.save(state(2))
        checkpoints.close()
    assert "\n" not in str(caught.value)
    assert sorted(path.name for path in (small_disk / "checkpoints").iterdir()) == ["1", "seals"]
    filler.unlink()
    assert_equal(read(small_disk), state(1))
    write(small_disk, 2)
    assert_equal(read(small_disk), state(2))


@pytest.mark.parametrize("where", ["save", "wait_until_finished"])
def test_a_pretended_full_disk(where: str, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any, **options: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    write(tmp_path, 1)
    monkeypatch.setattr(checkpoint.ocp.AsyncCheckpointer, where, fail)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError, match="no space left for a checkpoint"):
        checkpoints.save(state(2))
        checkpoints.wait()
    assert Checkpoints(tmp_path).survey() == (1, [])
