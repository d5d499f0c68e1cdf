"""The same batches for any number of processes, threads, interruptions; every example once an epoch."""

import hashlib
import os
import pathlib
import socket
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec
from texts import Text, random_text

from bertjax.data.examples import Rows
from bertjax.data.formats import FORMATS
from bertjax.data.loader import Loader, abstract_batch, measure
from bertjax.sharding import MeshConfig, make_mesh
from bertjax.types import Batch
from tests.cases import slow_but

LENGTH = 28
RULES = "fsdp_tensor_sequence"
MESHES = {
    "one device": MeshConfig(data=1),
    "data": MeshConfig(data=8),
    "fsdp": MeshConfig(data=2, fsdp=4, rules="fsdp"),
    "tensor": MeshConfig(data=2, fsdp=1, tensor=4, rules="fsdp_tensor"),
    "all": MeshConfig(data=2, fsdp=2, tensor=1, sequence=2, rules=RULES),
}


def make(name: str = "segment_pair", batch_size: int = 8, seed: int = 5, documents: int = 50) -> Loader:
    return Loader(FORMATS[name].examples(random_text(documents, seed=3), LENGTH, seed), batch_size, seed)


def digest(arrays: Any) -> str:
    """A hash of every value, name and type in a batch or in rows."""
    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(arrays):
        array = np.asarray(leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return total.hexdigest()


def flat(batch: Batch) -> dict[str, Any]:
    """A batch in the names of rows."""
    names = ("tokens", "mask", "types", "positions", "segments", "example_id", "epoch")
    arrays = {name: getattr(batch, name) for name in names if getattr(batch, name) is not None}
    return arrays | ({"pair_label": batch.targets["pair"]["label"]} if "pair" in batch.targets else {})


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MESHES["all"])


# ------------------------------------------------------------------------------------------ rows


@pytest.mark.parametrize("name", FORMATS)
def test_rows_are_the_examples_that_the_order_names(name: str) -> None:
    loader = make(name)
    rows = loader.rows(step=40, start=2, stop=6)
    for row in range(4):
        expected = loader.examples.example(int(rows["epoch"][row]), int(rows["example_id"][row]))
        for key, array in expected.items():
            assert np.array_equal(rows[key][row], array), key


@pytest.mark.parametrize("name", FORMATS)
def test_every_example_comes_once_an_epoch_in_another_order(name: str) -> None:
    loader = make(name, batch_size=7)
    size = len(loader.examples)
    assert size % 7, "an epoch should end inside a batch here"
    steps = -(-3 * size // 7)
    rows = [loader.rows(step, 0, 7) for step in range(steps)]
    ids = np.concatenate([row["example_id"] for row in rows])[: 3 * size].reshape(3, size)
    epochs = np.concatenate([row["epoch"] for row in rows])[: 3 * size].reshape(3, size)
    assert np.array_equal(epochs, np.repeat([[0], [1], [2]], size, axis=1))
    assert np.array_equal(np.sort(ids), np.tile(np.arange(size), (3, 1)))
    assert len({tuple(order) for order in ids.tolist()}) == 3
    other = Loader(loader.examples, size, seed=6).rows(0, 0, size)["example_id"]
    assert not np.array_equal(other, ids[0])
    assert loader.steps_per_epoch == size / 7


@pytest.mark.parametrize("name", ["segment_pair", "best_fit"])
def test_any_number_of_hosts_builds_the_same_batches(name: str) -> None:
    loader = make(name)
    for step in (0, 3, 11, 1000):
        whole = loader.rows(step, 0, 8)
        for hosts in (2, 4, 8):
            share = 8 // hosts
            parts = [make(name).rows(step, host * share, (host + 1) * share) for host in range(hosts)]
            for key, array in whole.items():
                assert np.array_equal(np.concatenate([part[key] for part in parts]), array)


def test_an_epoch_may_be_far_away() -> None:
    rows = make().rows(2**40, 0, 8)
    assert rows["epoch"].min() > 2**30
    assert np.unique(rows["example_id"]).size == 8


def test_the_order_of_the_data_is_pinned() -> None:
    # Another value means that a run which was started before cannot be resumed after.
    corpus = Text([[1 + (7 * d + 5 * s) % 11 for s in range(1 + d % 9)] for d in range(50)])
    loaders = [Loader(FORMATS[name].examples(corpus, LENGTH, 5), 8, 5) for name in FORMATS]
    batches = [loader.rows(step, 0, 8) for loader in loaders for step in (0, 9)]
    assert digest(batches)[:16] == "fd319fd98327cd62"


def test_rows_outside_the_batch_are_refused() -> None:
    for step, start, stop in ((0, 0, 9), (0, -1, 3), (-1, 0, 8), (0, 5, 4)):
        with pytest.raises(IndexError):
            make().rows(step, start, stop)
    with pytest.raises(ValueError, match="batch_size=0"):
        make(batch_size=0)


# ------------------------------------------------------------------------------------------ evaluation


def test_an_evaluation_goes_once_through_everything_in_order() -> None:
    examples = make("padded", documents=19).examples
    loader = Loader(examples, 8, seed=0, shuffle=False)
    assert len(examples) % 8 and loader.steps == -(-len(examples) // 8)
    batches = [loader.rows(step, 0, 8) for step in range(loader.steps + 1)]
    ids = np.concatenate([batch["example_id"] for batch in batches])
    assert ids[: len(examples)].tolist() == list(range(len(examples)))
    assert (ids[len(examples) :] == -1).all() and (batches[-1]["example_id"] == -1).all()
    for batch in batches:
        empty = batch["example_id"] == -1
        assert not batch["mask"][empty].any() and batch["mask"][~empty, 0].all()
        assert not batch["tokens"][empty].any() and not batch["segments"][empty].any()
        assert not batch["epoch"].any()


def test_an_evaluation_sees_the_same_pairs_every_time() -> None:
    loaders = [Loader(make().examples, 8, seed=0, shuffle=False) for _ in range(2)]
    assert digest(loaders[0].rows(1, 0, 8)) == digest(loaders[1].rows(1, 0, 8))


# ------------------------------------------------------------------------------------------ placement


@pytest.mark.parametrize("kind", MESHES)
@pytest.mark.parametrize("name", ["segment_pair", "padded", "best_fit"])
def test_placed_batches_are_the_rows(kind: str, name: str) -> None:
    mesh, rules = make_mesh(MESHES[kind]), MESHES[kind].rules
    loader = make(name)
    batch, rows = loader.place(6, mesh, rules), loader.rows(6, 0, 8)
    placed = flat(batch)
    left_out = set() if name == "best_fit" else {"segments"}  # nothing to keep apart
    assert set(placed) == set(rows) - left_out
    for key, array in placed.items():
        assert np.array_equal(array, rows[key]) and array.dtype == rows[key].dtype, key
    assert ("pair" in batch.targets) == (name == "segment_pair")


def test_placed_batches_lie_where_the_rules_say(mesh: jax.sharding.Mesh) -> None:
    batch = make().place(0, mesh, RULES)
    replicas = ("data", "fsdp")
    assert batch.tokens.sharding.spec == batch.mask.sharding.spec == PartitionSpec(replicas, "sequence")
    assert (
        batch.epoch.sharding.spec == batch.targets["pair"]["label"].sharding.spec == PartitionSpec(replicas)
    )
    assert batch.tokens.addressable_shards[0].data.shape == (2, LENGTH // 2)


@pytest.mark.parametrize("name", FORMATS)
def test_the_abstract_batch_is_the_batch_without_data(name: str, mesh: jax.sharding.Mesh) -> None:
    loader, prototype = make(name), FORMATS[name]
    real = loader.place(0, mesh, RULES)
    abstract = abstract_batch(8, LENGTH, mesh, RULES, packed=prototype.packed, labelled=prototype.labelled)
    assert jax.tree.structure(real) == jax.tree.structure(abstract)
    for ours, theirs in zip(jax.tree.leaves(real), jax.tree.leaves(abstract), strict=True):
        assert (ours.shape, ours.dtype, ours.sharding) == (theirs.shape, theirs.dtype, theirs.sharding)


def test_each_row_is_built_once(mesh: jax.sharding.Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    loader, built = make(), []
    original = loader.rows

    def rows(step: int, start: int, stop: int) -> Rows:
        built.append((step, start, stop))
        return original(step, start, stop)

    monkeypatch.setattr(loader, "rows", rows)
    loader.place(3, mesh, RULES)
    assert sorted(built) == [(3, start, start + 2) for start in (0, 2, 4, 6)]


def test_word_starts_become_a_target(mesh: jax.sharding.Mesh) -> None:
    corpus = random_text(30, seed=1)
    corpus.segmented = True
    loader = Loader(FORMATS["padded"].examples(corpus, LENGTH, 0), 8, 0)
    starts = loader.place(0, mesh, RULES).targets["words"]["starts"]
    assert np.array_equal(starts, loader.rows(0, 0, 8)["starts_word"]) and starts.dtype == bool


def test_a_batch_that_does_not_divide_says_what_would() -> None:
    with pytest.raises(ValueError, match=r"batch of size 6 does not divide over mesh.data=8; .*8 would"):
        make(batch_size=6).place(0, make_mesh(MESHES["data"]), "data")


WORKER = """
import sys
import jax, numpy as np
number, count, address, output = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if count > 1:
    jax.distributed.initialize(address, count, number)
from test_loader import flat, make
from bertjax.sharding import MeshConfig, make_mesh
mesh, loader = make_mesh(MeshConfig()), make()
asked, original = [], loader.rows
loader.rows = lambda step, start, stop: asked.append(stop - start) or original(step, start, stop)
held = {}
for step in range(200):
    for key, array in flat(loader.place(step, mesh, "data")).items():
        shards = sorted(array.addressable_shards, key=lambda shard: shard.index[0].start or 0)
        held.setdefault(key, []).append(np.concatenate([np.asarray(shard.data) for shard in shards]))
np.savez(output, built=sum(asked), **{key: np.stack(arrays) for key, arrays in held.items()})
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize("count", slow_but([1, 2, 4], [2]))
def test_processes_together_hold_the_batches_and_build_only_their_own_rows(
    count: int, tmp_path: pathlib.Path
) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    here = pathlib.Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(here.parent.parent), str(here)]),
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={8 // count}",
    }
    outputs = [tmp_path / f"{number}.npz" for number in range(count)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, *map(str, (number, count, address, output))], env=environment
        )
        for number, output in enumerate(outputs)
    ]
    try:
        assert [worker.wait(timeout=300) for worker in workers] == [0] * count
    finally:
        for worker in workers:
            worker.kill()
    found = [dict(np.load(output)) for output in outputs]
    assert [int(part.pop("built")) for part in found] == [200 * 8 // count] * count
    loader = make()
    steps = [loader.rows(step, 0, 8) for step in range(200)]
    assert set(found[0]) == set(steps[0]) - {"segments"}
    for key in found[0]:
        whole = np.concatenate([part[key] for part in found], axis=1)
        assert np.array_equal(whole, np.stack([rows[key] for rows in steps])), key


# ------------------------------------------------------------------------------------------ speed


def test_speed_is_real_tokens_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = make("full_sentences")
    clock = iter(np.arange(0.0, 100.0, 0.5))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    # The clock is read at 0 to begin, at 0.5, 1 and 1.5 before a batch, at 2 to end, and at 2.5 for the time.
    tokens = sum(int(loader.rows(step, 0, 8)["mask"].sum()) for step in range(3))
    cores = iter((1.0, 1.75))
    monkeypatch.setattr("time.process_time", lambda: next(cores))
    assert measure(loader, seconds=2.0) == (tokens, 2.5, 0.75)
