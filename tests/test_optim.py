"""Optimizers and schedules: against plain numpy, against their formulas, and under scan and loop alike."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from cases import slow_but
from flax.core import meta
from runs import assert_equal, assert_near, start, tiny

from bertjax import optim, tasks
from bertjax.models.stacking import stack_layers
from bertjax.optim import OPTIMIZERS, Lamb, OptimConfig, learning_rate, make_optimizer
from bertjax.program import Program
from bertjax.sharding import Declared
from bertjax.tune import put
from bertjax.types import Tree

pytestmark = pytest.mark.usefixtures("quick_compiles")

STEPS = 20


@functools.cache
def declared(scan: bool = False) -> Tree:
    """The parameters of the small network with the names of their axes."""
    program, _ = start(tiny(f"model.scan={scan}"))

    def init(batch: Any) -> Tree:
        batch = tasks.corrupt(program.config.tasks, batch, program.vocabulary, seed=0)
        return program.network.init(jax.random.key(0), batch, train=False)["params"]

    return jax.eval_shape(init, program.batch)


def draw(seed: int, scale: float = 1.0) -> Tree:
    """Random numbers in the shape of the parameters, of a stack that is not scanned."""
    random = np.random.default_rng(seed)
    shapes = meta.unbox(declared())
    return jax.tree.map(lambda x: (scale * random.normal(size=x.shape)).astype(np.float32), shapes)


def config(**changes: Any) -> OptimConfig:
    return OptimConfig(**{"learning_rate": 0.01, "warmup_steps": 3, **changes})


def stepper(options: OptimConfig, scan: bool = False) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The compiled start, and the compiled step: (gradient, state, params) to (update, state, params)."""
    optimizer = make_optimizer(options, STEPS, declared(scan))

    def step(gradient: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree, Tree]:
        update, state = optimizer.update(gradient, state, params)
        return update, state, optax.apply_updates(params, update)

    return jax.jit(optimizer.init), jax.jit(step)


def updates(options: OptimConfig, gradients: list[Tree], params: Tree, scan: bool = False) -> list[Tree]:
    """The update of each step, the parameters moving along."""
    init, step = stepper(options, scan)
    if scan:
        gradients, params = [stacked(g) for g in gradients], stacked(params)
    state, found = init(params), []
    for gradient in gradients:
        update, state, params = step(gradient, state, params)
        found.append(jax.device_get(update))
    return found


def stacked(tree: Tree) -> Tree:
    return jax.device_get(stack_layers(tree))


def paths(tree: Tree) -> dict[str, np.ndarray]:
    leaves = jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, Declared))
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def is_small(path: str) -> bool:
    """Biases and the scales of norms."""
    return path.rsplit("/", 1)[1] in ("bias", "scale")


# ---------------------------------------------------------------------------------------------- numpy


def adam_in_numpy(options: OptimConfig, gradients: list[Tree], params: Tree) -> list[dict[str, np.ndarray]]:
    """Adam, decoupled decay and LAMB's trust ratio, one array and one layer at a time, in float64."""
    kind: Any = options.optimizer
    weights = {path: np.asarray(x, np.float64) for path, x in paths(params).items()}
    m = {path: np.zeros_like(x) for path, x in weights.items()}
    v = {path: np.zeros_like(x) for path, x in weights.items()}
    results = []
    for number, tree in enumerate(gradients):
        gradient = {path: np.asarray(x, np.float64) for path, x in paths(tree).items()}
        norm = math.sqrt(sum((g**2).sum() for g in gradient.values()))
        assert options.clip_norm is not None
        result = {}
        for path, g in gradient.items():
            g = g * min(1.0, options.clip_norm / norm)
            m[path] = kind.b1 * m[path] + (1 - kind.b1) * g
            v[path] = kind.b2 * v[path] + (1 - kind.b2) * g**2
            mean, square = m[path] / (1 - kind.b1 ** (number + 1)), v[path] / (1 - kind.b2 ** (number + 1))
            direction = mean / (np.sqrt(square) + kind.epsilon)
            if not is_small(path):
                direction = direction + options.weight_decay * weights[path]
                if isinstance(kind, Lamb):
                    direction *= np.linalg.norm(weights[path]) / np.linalg.norm(direction)
            rate = options.learning_rate * min((number + 1) / options.warmup_steps, 1.0)
            result[path] = -rate * direction
            weights[path] = weights[path] + result[path]
        results.append(result)
    return results


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_adamw_and_lamb_against_numpy(name: str) -> None:
    options = config(optimizer=OPTIMIZERS[name], weight_decay=0.1, clip_norm=20.0)
    gradients, params = [draw(1), draw(2, 0.01), draw(3)], draw(0)
    found = updates(options, gradients, params)
    wanted = adam_in_numpy(options, gradients, params)
    for ours, theirs in zip(found, wanted, strict=True):
        assert_near(paths(ours), theirs, 1e-4)  # in float32, 1 - 0.999 is known to four digits


# ---------------------------------------------------------------------------------------------- all


@functools.cache
def problem() -> tuple[Program, Callable[..., Any]]:
    """The loss of one batch and its gradient."""
    program, loader = start(tiny())
    batch = loader.place(0, program.mesh, program.config.mesh.rules)
    corrupted = tasks.corrupt(program.config.tasks, batch, program.vocabulary, seed=0)

    def loss(params: Tree) -> Any:
        outputs = program.network.apply({"params": params}, corrupted, train=False)
        counts = tasks.normalisers(program.config.tasks, corrupted)
        return tasks.total_loss(program.config.tasks, outputs, corrupted, counts)[0]

    return program, jax.jit(jax.value_and_grad(loss))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    _, loss_and_gradient = problem()
    rate = {"adamw": 0.01, "lamb": 0.05, "adafactor": 0.1, "lion": 0.004, "muon": 0.02}[name]
    options = config(optimizer=OPTIMIZERS[name], learning_rate=rate, schedule=optim.Constant())
    init, step = stepper(options)
    params = draw(0, 0.1)
    state, losses = init(params), []
    for _ in range(80):
        loss, gradient = loss_and_gradient(params)
        _, state, params = step(gradient, state, params)
        losses.append(float(loss))
    # The biases of the heads alone bring it to 0.88, the frequencies of tokens and labels; beyond, all must move.
    assert losses[-1] < 0.7 * losses[0], losses
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(jax.device_get(params)))


@pytest.mark.parametrize("name", slow_but(OPTIMIZERS, ("adafactor", "lamb", "muon")))  # which see matrices
def test_a_scanned_stack_moves_like_an_unrolled_one(name: str) -> None:
    options = config(optimizer=OPTIMIZERS[name])
    if name == "adafactor":  # so that it factors the matrices of this small network, too
        options = config(optimizer=optim.Adafactor(min_dim_size_to_factor=6))
    gradients, params = [draw(1), draw(2, 0.01), draw(3)], draw(0)
    # The layers differ in size, which what looks at a whole stacked array would not see.
    layers = params["encoder"]["stack"]["group_0"]
    layers["layers_1"] = jax.tree.map(lambda x: 10 * x, layers["layers_1"])
    loop, scan = updates(options, gradients, params), updates(options, gradients, params, scan=True)
    for ours, theirs in zip(scan, loop, strict=True):
        if name == "lion":
            assert_equal(ours, stacked(theirs))
        else:
            assert_near(ours, stacked(theirs), 1e-5)


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_decay_shrinks_all_but_biases_and_norms(name: str) -> None:
    """Where there is no gradient, the update is decay alone."""
    options = config(optimizer=OPTIMIZERS[name], weight_decay=0.1, warmup_steps=0, schedule=optim.Constant())
    params = draw(0)
    (update,) = updates(options, [jax.tree.map(np.zeros_like, params)], params)
    shrunk = 0
    for path, change in paths(update).items():
        weights = paths(params)[path]
        # LAMB scales decay, like everything else, to the norm of the weights.
        want = 0.0 * weights if is_small(path) else -0.01 * weights * (1.0 if name == "lamb" else 0.1)
        np.testing.assert_allclose(change, want, atol=1e-6, err_msg=path)
        shrunk += not is_small(path)
    assert shrunk == 2 * 6 + 3 + 3  # matrices of two layers; tables; pooler and heads


def test_clipping_bounds_the_norm_of_the_whole_gradient() -> None:
    norm = math.sqrt(sum((x**2).sum() for x in jax.tree.leaves(draw(1))))
    for clip, share in ((None, 1.0), (norm * 2, 1.0), (norm / 4, 0.25)):
        init, step = stepper(config(clip_norm=clip))
        state = step(draw(1), init(draw(0)), draw(0))[1]
        moment = next(part.mu for part in state if hasattr(part, "mu"))
        assert_near(moment, jax.tree.map(lambda g, share=share: 0.1 * share * g, draw(1)), 1e-5)


def test_lion_moves_by_the_rate_of_each_step() -> None:
    """Its update has one size, so it shows which rate the optimizer has used when."""
    options = config(optimizer=OPTIMIZERS["lion"], weight_decay=0.0)
    for number, update in enumerate(updates(options, [draw(i) for i in range(5)], draw(9))):
        sizes = np.abs(np.concatenate([x.ravel() for x in jax.tree.leaves(update)]))
        np.testing.assert_allclose(sizes, float(learning_rate(options, STEPS)(number)), rtol=1e-6)


def test_muon_makes_every_matrix_of_the_stack_orthogonal() -> None:
    options = config(optimizer=OPTIMIZERS["muon"], warmup_steps=0, weight_decay=0.0, clip_norm=None)
    (update,) = updates(options, [draw(1)], draw(0))
    matrices = {"query": (24, 24), "key": (24, 24), "value": (24, 24), "output": (24, 24), "up": (24, 40)}
    seen = 0
    for path, change in paths(update).items():
        if "stack" in path and path.endswith("kernel"):
            shape = matrices.get(path.split("/")[-2], (40, 24))
            values = np.linalg.svd(
                change.reshape(shape) / (0.01 * 0.2 * math.sqrt(max(shape))), compute_uv=False
            )
            # A gradient has some directions that five iterations do not bring up.
            assert values[-3] > 0.5 and values.max() < 1.4, (path, values)
            seen += 1
        else:  # AdamW's first step: the sign of the gradient
            want = -0.01 * np.sign(paths(draw(1))[path])
            np.testing.assert_allclose(change, want, atol=1e-4, err_msg=path)
    assert seen == 12


# ---------------------------------------------------------------------------------------------- schedules

WARMUP, TOTAL, PEAK = 10, 110, 2.0


def half_cosine(step: int) -> float:
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / (TOTAL - WARMUP)))


@pytest.mark.parametrize(
    ("schedule", "formula"),
    [
        (optim.Linear(), lambda step: (TOTAL - step) / (TOTAL - WARMUP)),
        (optim.Linear(final=0.2), lambda step: 0.2 + 0.8 * (TOTAL - step) / (TOTAL - WARMUP)),
        (optim.Cosine(), half_cosine),
        (optim.Cosine(final=0.1), lambda step: 0.1 + 0.9 * half_cosine(step)),
        (optim.Wsd(decay=0.2), lambda step: 1.0 if step <= 88 else 1 - math.sqrt((step - 88) / 22)),
        (optim.InverseSqrt(), lambda step: math.sqrt(WARMUP / step)),
        (optim.Constant(), lambda step: 1.0),
    ],
    ids=lambda value: type(value).__name__.lower() if isinstance(value, optim.ScheduleOptions) else "",
)
def test_schedules_follow_their_formulas(schedule: Any, formula: Callable[[int], float]) -> None:
    rate = learning_rate(config(schedule=schedule, learning_rate=PEAK, warmup_steps=WARMUP), TOTAL)
    for step in (0, 1, 5, 9):  # the first update is not lost, the tenth is made at the peak
        np.testing.assert_allclose(rate(step), PEAK * (step + 1) / WARMUP, rtol=1e-6)
    for step in (10, 11, 60, 88, 95, 109, 110):
        np.testing.assert_allclose(rate(step), PEAK * formula(step), rtol=1e-5, atol=1e-6)
    assert float(rate(109)) > 0


@pytest.mark.parametrize("schedule", optim.SCHEDULES.values(), ids=optim.SCHEDULES)
def test_schedules_without_warmup_and_without_an_end(schedule: Any) -> None:
    rate = learning_rate(config(schedule=schedule, learning_rate=PEAK, warmup_steps=0), TOTAL)
    np.testing.assert_allclose(rate(0), PEAK, rtol=1e-6)
    endless = learning_rate(config(schedule=schedule, learning_rate=PEAK, warmup_steps=500), TOTAL)
    rates = [float(endless(step)) for step in range(TOTAL + 5)]
    assert all(0 <= rate < PEAK for rate in rates) and rates[50] > rates[10]


def test_every_choice_has_a_test_of_its_own() -> None:
    assert set(OPTIMIZERS) == {"adamw", "lamb", "adafactor", "lion", "muon"}
    assert set(optim.SCHEDULES) == {"linear", "cosine", "wsd", "inverse_sqrt", "constant"}
    assert jnp.asarray(learning_rate(config(), TOTAL)(jnp.int32(3))).dtype == jnp.float32


# ---------------------------------------------------------------------------------------------- several tasks

HEADS = ("heads_one", "heads_two")
SIZES = {
    "encoder/stack/kernel": (5, 3),
    "encoder/scale": (3,),
    "heads_one/kernel": (3, 2),
    "heads_two/kernel": (3, 4),
}


def branches(seed: int) -> Tree:
    """Random numbers in the shape of an encoder and two heads."""
    random, tree = np.random.default_rng(seed), {}
    for path, size in SIZES.items():
        put(tree, path, random.normal(size=size).astype(np.float32))
    return tree


def named(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: Declared(x, ("width",) * x.ndim), tree)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_head_that_is_left_out_stays_as_it_is(kind: str) -> None:
    """Each head moves as if it had an optimizer of its own, which sees only the steps that serve it."""
    options = config(optimizer=OPTIMIZERS[kind], clip_norm=None, warmup_steps=0, schedule=optim.Constant())
    together = make_optimizer(options, STEPS, named(branches(0)), HEADS)
    served = [("heads_one",), ("heads_two",), ("heads_two",), HEADS, ("heads_one",)]
    params = branches(0)
    state = together.init(params)
    for number, names in enumerate(served, 1):
        before, known = params, state
        idle = frozenset(HEADS) - set(names)
        update, state = together.update(branches(number), state, params, idle=idle)
        params = optax.apply_updates(params, update)
        for name in idle:
            assert_equal(params[name], before[name])
            assert_equal(*(jax.tree.leaves(_of(one, name)) for one in (state, known)))
        for name in ("encoder", *names):
            assert not np.array_equal(jax.tree.leaves(params[name])[0], jax.tree.leaves(before[name])[0])

    for head in HEADS:
        branch = {head: branches(0)[head]}
        alone = make_optimizer(options, STEPS, named(branch))
        own = alone.init(branch)
        for number, names in enumerate(served, 1):
            if head in names:
                update, own = alone.update({head: branches(number)[head]}, own, branch)
                branch = optax.apply_updates(branch, update)
        assert_near(params[head], branch[head], 1e-6)


def _of(state: Tree, head: str) -> Tree:
    """What an optimizer keeps of a head alone."""
    (found,) = (part[head] for part in state if isinstance(part, dict))
    return found


@pytest.mark.parity
def test_heads_without_a_gradient_are_those_of_pytorch() -> None:
    import torch

    options = config(clip_norm=0.5, warmup_steps=0, schedule=optim.Constant(), weight_decay=0.1)
    start = branches(0)
    ours = make_optimizer(options, STEPS, named(start), HEADS)
    params, state = start, ours.init(start)
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(start)}
    # The scale of a norm does not decay.
    theirs = {name: torch.nn.Parameter(torch.tensor(leaf)) for name, leaf in flat.items()}
    groups = [
        {"params": [one for name, one in theirs.items() if ("scale" in name) == plain], "weight_decay": decay}
        for plain, decay in ((True, 0.0), (False, 0.1))
    ]
    adam = torch.optim.AdamW(groups, lr=options.learning_rate, eps=1e-6)
    for number in range(7):
        idle = HEADS[number % 3 == 0]
        gradient = branches(number)
        gradient[idle] = jax.tree.map(np.zeros_like, gradient[idle])
        update, state = ours.update(gradient, state, params, idle=frozenset({idle}))
        params = optax.apply_updates(params, update)
        adam.zero_grad(set_to_none=True)
        for (path, leaf), one in zip(
            jax.tree_util.tree_leaves_with_path(gradient), theirs.values(), strict=True
        ):
            one.grad = None if idle in jax.tree_util.keystr(path) else torch.tensor(leaf)
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        adam.step()
    found = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    assert_near(found, [one.detach().numpy() for one in theirs.values()], 1e-5)
