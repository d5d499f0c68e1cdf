"""Training against noise: against the algorithms written out, and unaffected by meshes and microbatches."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import assert_near
from test_finetune import tiny

from bertjax import tasks
from bertjax.adversarial import AdversarialOptions, FreeLb, Problem, Sift, check_adversarial, gradient, passes
from bertjax.config import check
from bertjax.data.labelled.buckets import place_rows
from bertjax.finetune import open_sets
from bertjax.layers.embed import Noise
from bertjax.program import build, create_state
from bertjax.step import make_train_step
from bertjax.tasks.base import row_keys
from bertjax.types import Batch, Metrics, Tree

pytestmark = pytest.mark.usefixtures("quick_compiles")

SHAPE = ("model.layers=1", "model.width=16", "model.heads=2", "model.feedforward=24", "data.shapes=1")


class Tiny:
    """The first batch of a run, its parameters, and its loss as a function of noise."""

    def __init__(self, *settings: str) -> None:
        sets = open_sets(tiny(*SHAPE, "train.batch_size=4", *settings))
        self.program = build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
        where = self.program.mesh, "data"
        self.batch: Batch = place_rows(sets.buckets("classify", "train"), "classify", 0, *where)
        self.mask = np.asarray(self.batch.mask)
        self.params: Tree = jax.device_get(create_state(self.program).params)
        self.counts = tasks.normalisers(sets.config.tasks, self.batch)

    def forward(self, params: Tree, noise: Noise | None) -> Mapping[str, Any]:
        rngs = {"dropout": jax.random.key(5)}
        return self.program.apply(params, self.batch, train=True, rngs=rngs, noise=noise)

    def loss(self, outputs: Mapping[str, Any]) -> tuple[jax.Array, Metrics]:
        return tasks.total_loss(self.program.config.tasks, outputs, self.batch, self.counts)

    def problem(self) -> Problem:
        key = jax.random.key(1)
        return Problem(
            self.forward, self.loss, self.program.config.tasks, self.batch, self.counts, key, width=16
        )

    def gradient(self, options: AdversarialOptions | None) -> tuple[Tree, Metrics]:
        return jax.jit(lambda params: gradient(options, self.problem(), params))(self.params)

    def draws(self, draw: Callable[..., Any]) -> np.ndarray:
        keys = row_keys(jax.random.key(1), self.batch.example_id, self.batch.epoch)
        length = self.batch.tokens.shape[1]
        return np.stack([np.asarray(draw(key, (length, 16))) for key in keys])


@pytest.fixture(scope="module")
def run() -> Tiny:
    """With dropout, which all passes of a step share."""
    return Tiny("model.dropout=0.2", "model.attention_dropout=0.2")


def test_free_lb_by_hand(run: Tiny) -> None:
    options = FreeLb(steps=3, radius=0.2, rate=0.15)
    mask = run.mask[:, :, None]
    unit = run.draws(lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0))
    delta = options.radius * unit * mask / np.sqrt(16 * mask.sum(1, keepdims=True))
    both = jax.jit(
        jax.grad(lambda p, d: run.loss(run.forward(p, Noise(words=d))), argnums=(0, 1), has_aux=True)
    )
    total, losses, hit = None, [], 0
    for _ in range(options.steps):
        (grads, uphill), metrics = jax.device_get(both(run.params, delta.astype(np.float32)))
        total = grads if total is None else jax.tree.map(np.add, total, grads)
        losses.append(metrics["classify_loss"][0])
        for row in range(len(delta)):
            delta[row] += options.rate * uphill[row] / np.linalg.norm(uphill[row])
            size = np.linalg.norm(delta[row] * mask[row])
            hit += size > options.radius
            delta[row] *= min(1.0, options.radius / size)
        delta = delta * mask
    assert hit, "the test wants noises that are drawn back"
    assert losses[0] < losses[1] < losses[2], "noise climbs the loss"
    found, metrics = jax.device_get(run.gradient(options))
    assert_near(found, jax.tree.map(lambda x: x / 3, total), 1e-3)
    assert metrics["classify_loss"][0] == pytest.approx(np.mean(losses), rel=1e-5)
    assert metrics["classify_loss"][1] == 4.0


def test_sift_by_hand(run: Tiny) -> None:
    options = Sift(weight=2.0, steps=2, start=0.05, rate=0.03)
    mask, width = run.mask[:, :, None], len(run.program.config.tasks[0].labels)  # type: ignore[attr-defined]
    delta = (0.05 * run.draws(jax.random.normal) * mask).astype(np.float32)

    def logits(params: Tree, delta: Any) -> Any:
        return run.forward(params, None if delta is None else Noise(normalised=delta))["classify"]

    def apart(clean: Any, moved: Any) -> Any:
        p, q = jax.nn.log_softmax(clean), jax.nn.log_softmax(moved)
        forth = (jnp.exp(p) * (p - q)).sum(-1)
        back = (jnp.exp(q) * (q - p)).sum(-1)
        return ((forth + back) / 2).sum() / 4

    clean = jax.jit(lambda: logits(run.params, None))()
    assert clean.shape == (4, width)
    climb = jax.jit(jax.grad(lambda d: apart(clean, logits(run.params, d))))
    for _ in range(2):
        uphill = np.asarray(climb(delta))
        delta = (delta + 0.03 * uphill / np.abs(uphill).max((1, 2), keepdims=True)) * mask

    def loss(params: Tree) -> Any:
        plain = run.loss(run.forward(params, None))[0]
        return plain + 2.0 * apart(logits(params, None), logits(params, delta))

    wanted = jax.device_get(jax.jit(jax.grad(loss))(run.params))
    found, metrics = jax.device_get(run.gradient(options))
    assert_near(found, wanted, 1e-3)
    value, weight = metrics["classify_noise_divergence"]
    assert value / weight == pytest.approx(float(apart(clean, jax.jit(logits)(run.params, delta))), rel=1e-3)


@pytest.mark.parametrize("options", [FreeLb(radius=0.0), Sift(weight=0.0)])
def test_nothing_is_plain_training(run: Tiny, options: AdversarialOptions) -> None:
    plain, found = run.gradient(None), run.gradient(options)
    assert_near(jax.device_get(found[0]), jax.device_get(plain[0]), 1e-5)
    for name, (value, weight) in plain[1].items():
        assert float(found[1][name][0] / found[1][name][1]) == pytest.approx(float(value / weight), rel=1e-5)


def test_padding_and_its_noise_are_nothing(run: Tiny) -> None:
    problem = run.problem()
    noise = np.asarray(problem.noise(jax.random.normal))
    assert not run.mask.all() and not noise[~run.mask].any()
    assert (np.abs(noise[run.mask]).max(-1) > 0).all()


EVERYWHERE = {"classify": "free_lb", "tag": "sift", "answer": "free_lb", "regress": "sift", "choose": "sift"}
QUICK = ("tag",)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in EVERYWHERE]
)
def test_a_mesh_and_microbatches_change_nothing(name: str) -> None:
    """One step, with R-Drop on top; and it is not the step without noise."""

    def step(*settings: str) -> tuple[Tree, Mapping[str, float]]:
        config = tiny(*SHAPE, "train.batch_size=8", f"tasks.{name}.r_drop=0.5", *settings, tasks=(name,))
        sets = open_sets(config)
        program = build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
        with program.active():
            batch = sets.loader("train").place(0, program.mesh, config.mesh.rules)
            state, metrics = make_train_step(program)(create_state(program), batch)
        return jax.device_get(state.params), {k: float(v[0] / v[1]) for k, v in metrics.items()}

    kind = f"train.adversarial={EVERYWHERE[name]}"
    params, metrics = step(kind)
    others, found = step(kind, "mesh.data=2", "mesh.fsdp=2", "mesh.rules=fsdp", "train.microbatches=2")
    assert_near(others, params, 5e-3)
    for key in (f"{name}_loss", "gradient_norm", f"{name}_divergence"):
        assert found[key] == pytest.approx(metrics[key], rel=1e-3, abs=1e-7), key
    if EVERYWHERE[name] == "sift":
        assert found[f"{name}_noise_divergence"] == pytest.approx(
            metrics[f"{name}_noise_divergence"], rel=1e-3
        )
        assert metrics[f"{name}_noise_divergence"] > 0


REFUSED = [
    (
        ("train.adversarial=free_lb", "train.adversarial.steps=0"),
        "train.adversarial.steps=0 must be at least 1",
    ),
    (
        ("train.adversarial=free_lb", "train.adversarial.radius=-1"),
        "train.adversarial.radius=-1.0 must be at",
    ),
    (("train.adversarial=sift", "model.embedding_norm=false"), "behind model.embedding_norm, which is off"),
]


@pytest.mark.parametrize("settings, message", REFUSED)
def test_what_makes_no_sense(settings: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check(tiny(*settings))
    assert "\n" not in str(error.value)


def test_a_task_without_scores_has_nothing_to_compare() -> None:
    config = tiny(tasks=("embed",))
    with pytest.raises(ValueError, match="sift compares scores, and the task embed gives none: use free_lb"):
        check_adversarial(Sift(), config.tasks, config.model)
    check(dataclasses.replace(config, train=dataclasses.replace(config.train, adversarial=FreeLb())))


def test_passes_are_counted() -> None:
    assert [passes(one) for one in (None, FreeLb(steps=4), Sift(steps=1))] == [1, 4, 3]
