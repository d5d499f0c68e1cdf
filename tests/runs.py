"""What the tests of training share: a run small enough to compile in a second, and ways to end it early.

B16 L14 D24 H4 K6 F40 V53 (56 with padding) S5: every size differs, and those that a mesh of eight
devices splits are even.
"""

import contextlib
import json
import pathlib
import signal
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from bertjax.checkpoint import Checkpoints
from bertjax.config import CHOICES, Config, DataConfig, TrainConfig, open_rows
from bertjax.data.loader import Loader
from bertjax.layers.config import EncoderConfig
from bertjax.optim import OptimConfig
from bertjax.program import Program, build
from bertjax.settings import override
from bertjax.sharding import MeshConfig
from bertjax.tasks import Mlm, Nsp
from bertjax.types import TrainState, Tree

TIMES = {"seconds", "steps_per_second", "tokens_per_second", "flops_per_second", "waiting"}


def tiny(*settings: str) -> Config:
    """The run of these tests, on one device, with some settings changed."""
    config = Config(
        model=EncoderConfig(
            layers=2,
            width=24,
            heads=4,
            feedforward=40,
            vocab=53,
            vocab_multiple=8,
            max_length=16,
            dropout=0.0,
            attention_dropout=0.0,
            init_std=0.2,
        ),
        data=DataConfig(length=14, threads=1),
        tasks=(Mlm(rate=0.35), Nsp()),
        optim=OptimConfig(learning_rate=1e-2, warmup_steps=2),
        mesh=MeshConfig(data=1),
        train=TrainConfig(
            steps=12,
            batch_size=16,
            log_every=2,
            eval_every=None,
            eval_batches=2,
            checkpoint_every=4,
        ),
    )
    return override(config, settings, CHOICES)


def start(config: Config) -> tuple[Program, Loader]:
    """A program and the batches it would be trained with."""
    rows = open_rows(config, "train")
    program = build(config, rows.vocabulary)
    return program, Loader(rows, config.train.batch_size, config.train.seed)


def put(program: Program, state: TrainState) -> TrainState:
    """A state of any program of the same structure, laid out as this one wants it (and safe to donate)."""
    return jax.tree.map(lambda x, like: jax.device_put(np.array(x), like.sharding), state, program.state)


def records(workdir: pathlib.Path | str) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what depends on the clock."""
    lines = [json.loads(line) for line in (pathlib.Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def assert_equal(found: Tree, wanted: Tree) -> None:
    """Bit for bit."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y), jax.tree_util.keystr(path))


def assert_near(found: Tree, wanted: Tree, tolerance: float) -> None:
    """Up to `tolerance`, relative to the largest number of each array."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(found), jax.tree.leaves(wanted), strict=True):
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        assert x.shape == y.shape, jax.tree_util.keystr(path)
        error, size = np.abs(x - y).max(), max(np.abs(y).max(), 1e-3)
        assert error <= tolerance * size, f"{jax.tree_util.keystr(path)}: {error:.2e} of {size:.2e}"


class Killed(BaseException):
    """Stands in for the end of a process."""


@contextlib.contextmanager
def ending(at: int, how: Callable[[], object]) -> Iterator[None]:
    """Calls `how` in the training thread when the batch of step `at` is asked for; needs data.threads=0."""
    import pytest  # here: processes that tests start import this module, and need none

    place = Loader.place

    def place_or_end(loader: Loader, step: int, *where: Any) -> Any:
        if loader.shuffle and step == at:  # of training, not of an evaluation
            how()
        return place(loader, step, *where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loader, "place", place_or_end)
        yield


def kill() -> None:
    raise Killed


def terminate() -> None:
    signal.raise_signal(signal.SIGTERM)


def parameter_shapes(program: Program, *, layers: int) -> set[tuple[int, ...]]:
    """Shapes that a parameter or a part of it may have, of one layer or of all, sorted and without ones."""
    found = set()
    sizes = [size for size in program.mesh.shape.values() if size > 1]
    for leaf in jax.tree.leaves(program.state.params):
        shape = leaf.shape
        for axes in {shape, shape[1:]} if shape[0] == layers else {shape}:
            cut = {axes}
            for size in sizes:
                cut |= {
                    (*one[:i], one[i] // size, *one[i + 1 :])
                    for one in cut
                    for i in range(len(one))
                    if one[i] % size == 0
                }
            found |= {tuple(sorted(n for n in one if n > 1)) for one in cut}
    return found


def final_state(workdir: pathlib.Path, *settings: str) -> TrainState:
    """The newest checkpoint of a run with these settings, on the host."""
    program, _ = start(tiny(*settings))
    checkpoints = Checkpoints(workdir)
    step = checkpoints.latest()
    assert step is not None
    return jax.device_get(checkpoints.restore(step, program.state))
