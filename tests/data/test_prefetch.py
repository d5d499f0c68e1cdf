"""Batches made ahead: the same for any number of threads, in order, and no thread left behind."""

import threading
import time

import jax
import pytest
from test_loader import MESHES, RULES, digest, flat, make

from bertjax.data.loader import Loader
from bertjax.data.prefetch import prefetch
from bertjax.sharding import make_mesh
from bertjax.types import Batch


@pytest.fixture
def mesh() -> jax.sharding.Mesh:
    return make_mesh(MESHES["all"])


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_200_batches_are_the_same_for_any_threads_hosts_and_interruptions(
    threads: int, mesh: jax.sharding.Mesh
) -> None:
    loader = make()
    assert loader.steps_per_epoch < 70, "the run should go through several epochs"
    expected = [
        digest({k: v for k, v in loader.rows(step, 0, 8).items() if k != "segments"}) for step in range(200)
    ]
    assert len(set(expected)) == 200
    seen: list[str] = []
    for stop in (31, 90, 171, 200):  # interrupted three times, each time with batches under way
        with prefetch(make(), len(seen), 200, mesh, RULES, threads, depth=4) as stream:
            for step, batch in stream:
                assert step == len(seen)
                seen.append(digest(flat(batch)))
                if len(seen) == stop:
                    break
    assert seen == expected


class Slow(Loader):
    """A loader that takes its time, and fails at one step."""

    def __init__(self, seconds: float = 0.0, fails_at: int | None = None) -> None:
        source = make()
        super().__init__(source.examples, source.batch_size, source.seed)
        self.seconds, self.fails_at = seconds, fails_at
        self.made: list[int] = []

    def place(self, step: int, mesh: jax.sharding.Mesh, rules: str) -> Batch:
        self.made.append(step)
        time.sleep(self.seconds * (1 + step % 3))  # so that batches become ready out of order
        if step == self.fails_at:
            raise OSError("the disk is gone")
        return super().place(step, mesh, rules)


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_reaches_the_consumer_at_its_step(threads: int, mesh: jax.sharding.Mesh) -> None:
    stream = prefetch(Slow(fails_at=4), 2, 9, mesh, RULES, threads, depth=5)
    steps = []
    with pytest.raises(OSError, match="the disk is gone"):
        for step, _ in stream:
            steps.append(step)
    assert steps == [2, 3]
    assert list(stream) == []  # and then it is over


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_order_is_kept_when_batches_are_ready_out_of_order(threads: int, mesh: jax.sharding.Mesh) -> None:
    steps = [step for step, _ in prefetch(Slow(0.005), 0, 20, mesh, RULES, threads, depth=6)]
    assert steps == list(range(20))


def running() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("batches")}


def test_closing_stops_the_threads_and_drops_what_is_ahead(mesh: jax.sharding.Mesh) -> None:
    loader = Slow(0.01)
    stream = prefetch(loader, 0, 1000, mesh, RULES, threads=2, depth=8)
    assert next(stream)[0] == 0
    assert running()
    stream.close()
    assert not running()
    made = len(loader.made)
    assert made < 10
    assert list(stream) == [] and len(loader.made) == made
    stream.close()  # twice is once


def test_the_threads_end_with_the_last_batch(mesh: jax.sharding.Mesh) -> None:
    assert len(list(prefetch(make(), 0, 3, mesh, RULES, threads=3, depth=9))) == 3
    assert not running()
    assert list(prefetch(make(), 3, 3, mesh, RULES, threads=2, depth=2)) == []


def test_no_more_than_depth_batches_are_ahead(mesh: jax.sharding.Mesh) -> None:
    loader = Slow()
    with prefetch(loader, 0, 100, mesh, RULES, threads=3, depth=4) as stream:
        next(stream)
        time.sleep(0.3)
        assert sorted(loader.made) == [0, 1, 2, 3, 4]


def test_waiting_is_measured(mesh: jax.sharding.Mesh) -> None:
    alone = prefetch(Slow(0.02), 0, 6, mesh, RULES, threads=0, depth=1)
    for _ in alone:
        time.sleep(0.05)
    assert alone.waited > 6 * 0.02
    helped = prefetch(Slow(0.001), 0, 6, mesh, RULES, threads=2, depth=4)
    for _ in helped:
        time.sleep(0.05)
    assert helped.waited < alone.waited


def test_bad_numbers_of_threads_and_batches_are_refused(mesh: jax.sharding.Mesh) -> None:
    for threads, depth in ((-1, 2), (1, 0)):
        with pytest.raises(ValueError, match=f"threads={threads} and depth={depth}"):
            prefetch(make(), 0, 1, mesh, RULES, threads, depth)
