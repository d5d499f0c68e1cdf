"""The step: its meaning does not depend on the mesh, on the layout of the stack, or on how the batch is split."""

import functools

import jax
import numpy as np
import pytest

from bertjax import sharding, train
from bertjax.models.stacking import stack_layers
from bertjax.sharding import MeshConfig
from bertjax.types import Batch, Metrics, Tree
from runs import assert_near, put, start, tiny

pytestmark = pytest.mark.usefixtures("quick_compiles")

MESHES = {
    "data 8": ("mesh.data=8", "mesh.rules=data"),
    "fsdp 8": ("mesh.fsdp=8", "mesh.rules=fsdp"),
    "data 2 x fsdp 4": ("mesh.data=2", "mesh.fsdp=4", "mesh.rules=fsdp"),
    "data 2 x fsdp 2 x tensor 2": (
        "mesh.data=2",
        "mesh.fsdp=2",
        "mesh.tensor=2",
        "mesh.rules=fsdp_tensor",
    ),
    "fsdp 2 x tensor 2 x sequence 2": (
        "mesh.fsdp=2",
        "mesh.tensor=2",
        "mesh.sequence=2",
        "mesh.rules=fsdp_tensor_sequence",
    ),
}
# Without clipping, decay and warm-up the first moment of AdamW after one step is a tenth of the gradient.
BARE = ("optim.clip_norm=none", "optim.weight_decay=0", "optim.warmup_steps=0", "optim.optimizer.b1=0.9")


@functools.cache
def one_step(*settings: str) -> tuple[Metrics, Tree, Tree]:
    """Metrics, gradient and new parameters of the first step, from the same parameters whatever the settings."""
    program, loader = start(tiny(*BARE, *settings))
    with program.active():
        step = train.make_train_step(program)
        state, metrics = step(put(program, initial(program.config.model.scan)), batch(program, loader))
    gradient = jax.tree.map(lambda mu: np.asarray(mu) * 10, adam(state.opt_state).mu)
    return jax.device_get(metrics), gradient, jax.device_get(state.params)


def batch(program: train.Program, loader: train.Loader) -> Batch:
    return loader.place(0, program.mesh, program.config.mesh.rules)


def adam(opt_state: Tree) -> Tree:
    return next(part for part in opt_state if hasattr(part, "mu"))


@functools.cache
def initial(scan: bool) -> Tree:
    """The state that every run of this file starts from."""
    state = jax.device_get(train.create_state(start(tiny(*BARE))[0]))
    return stack_layers_of(state) if scan else state


def stack_layers_of(state: train.TrainState) -> train.TrainState:
    return train.TrainState(state.step, stack_layers(state.params), stack_layers(state.opt_state))


@pytest.mark.parametrize("scan", [False, True], ids=["loop", "scan"])
@pytest.mark.parametrize("mesh", MESHES)
def test_every_mesh_gives_the_loss_and_the_gradient_of_one_device(mesh: str, scan: bool) -> None:
    metrics, gradient, params = one_step(*MESHES[mesh], f"model.scan={scan}")
    wanted_metrics, wanted_gradient, wanted_params = one_step()
    for name, (total, weight) in wanted_metrics.items():
        np.testing.assert_allclose(metrics[name][0], total, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(metrics[name][1], weight, err_msg=name)
    assert_near(gradient, stack_layers(wanted_gradient) if scan else wanted_gradient, 1e-5)
