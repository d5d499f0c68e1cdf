"""What a plan says is what runs: parameters, bytes, operations."""

import math
from typing import Any

import jax
import numpy as np
import pytest
from runs import start, tiny

from bertjax import tasks
from bertjax.models.cost import flops_per_token
from bertjax.plan import plan
from bertjax.program import create_state
from bertjax.types import Tree

pytestmark = pytest.mark.usefixtures("quick_compiles")


@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "mesh.rules=fsdp_tensor", "model.scan=True"),
        ("mesh.fsdp=8", "mesh.rules=fsdp", "optim.optimizer=lion"),
    ],
    ids=["one device", "data 2, fsdp 2, tensor 2, scan", "fsdp 8, lion"],
)
def test_a_plan_counts_what_a_run_allocates(settings: tuple[str, ...]) -> None:
    config = tiny(*settings)
    program, _ = start(config)
    planned = plan(config, program.vocabulary)
    state = create_state(program)
    assert planned["parameters"] == sum(leaf.size for leaf in jax.tree.leaves(state.params))
    size = planned["bytes_per_device"]
    for name, tree in (("parameters", state.params), ("optimizer", state.opt_state)):
        assert size[name] == max(held(tree).values()), name
    assert size["arguments"] >= size["parameters"] + size["optimizer"]
    assert size["total"] >= size["arguments"] + size["temporary"]
    assert 0 < size["activations"] <= size["temporary"]
    assert (
        planned["fits"] and planned["compiled"] and "estimate" not in planned
    )  # nothing is known of this machine
    assert planned["devices"] == program.mesh.size and planned["rules"] == config.mesh.rules
    assert planned["tokens_per_step"] == 16 * 14


def held(tree: Tree) -> dict[Any, int]:
    """Bytes that each device really holds."""
    total: dict[Any, int] = {}
    for leaf in jax.tree.leaves(tree):
        for shard in leaf.addressable_shards:
            total[shard.device] = total.get(shard.device, 0) + shard.data.nbytes
    return total


def products(jaxpr: Any) -> int:
    """Operations of all matrix products in a traced program, those in its inner programs too."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            depth = math.prod(equation.invars[0].aval.shape[i] for i in contracted)
            total += 2 * math.prod(equation.outvars[0].aval.shape) * depth
        for value in jax.tree.leaves(
            list(equation.params.values()), is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += products(inner)
    return total


def test_the_cost_formula_counts_the_matrix_products_of_a_step() -> None:
    """Of the traced gradient; what the formula leaves out on purpose is counted by hand."""
    program, loader = start(tiny())
    batch = loader.place(0, program.mesh, program.config.mesh.rules)
    batch = tasks.corrupt(program.config.tasks, batch, program.vocabulary, seed=0)

    def loss(params: Tree) -> Any:
        outputs = program.network.apply({"params": params}, batch, train=False)
        counts = tasks.normalisers(program.config.tasks, batch)
        return tasks.total_loss(program.config.tasks, outputs, batch, counts)[0]

    params = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), program.state.params)
    counted = products(jax.make_jaxpr(jax.grad(loss))(params).jaxpr)
    B, L, D, S = 16, 14, 24, 5
    formula = flops_per_token(program.config.model, attended=float(L), predicted=S / L) * B * L
    pooler_and_classes = 3 * 2 * B * (D * D + D * 2)
    kinds_of_segment = 2 * 2 * B * L * 2 * D  # as a product with one-hot rows, and its gradient
    assert counted == pytest.approx(formula + pooler_and_classes + kinds_of_segment, rel=1e-6)


def test_the_cost_formula_by_hand() -> None:
    """Layers 2, D24 H4 K6 F40 V56; a token attends to 9 others and a fifth of them is predicted."""
    layer = 4 * 24 * 24 + 2 * 24 * 40
    mixing = 2 * 9 * 4 * 6
    head = 0.2 * (24 * 56 + 24 * 24)
    by_hand = 3 * 2 * (2 * layer + 2 * mixing + head)
    assert flops_per_token(tiny().model, attended=9.0, predicted=0.2) == pytest.approx(by_hand)
