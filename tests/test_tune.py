"""What moves, how far, and from where: against plain updates, scanned and unrolled alike."""

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta
from helpers import declared_parameters, small

from bertjax.layers.config import EncoderConfig
from bertjax.models.stacking import unstack_layers
from bertjax.sharding import Declared
from bertjax.tune import (
    LOW_RANK,
    TuneConfig,
    check_tune,
    depths,
    extend,
    forget,
    hold,
    merged,
    merged_leaves,
    moves,
    name_of,
    product,
    restrict,
    trained_number,
)
from bertjax.types import Tree

LAYERS = 3
HEAD = {"output": {"kernel": jnp.ones((24, 2)), "bias": jnp.zeros(2)}}


def model(scan: bool) -> EncoderConfig:
    return small(layers=LAYERS, scan=scan)


def parameters(scan: bool) -> Tree:
    return {
        "encoder": jax.tree.map(lambda x: jnp.ones(x.shape), meta.unbox(declared_parameters(model(scan)))),
        "heads_x": HEAD,
    }


def flat(tree: Tree) -> dict[str, Any]:
    tree = unstack_layers(jax.tree.map(jnp.asarray, tree))
    return {name_of(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def moved(config: TuneConfig, scan: bool, steps: int = 1, optimizer: Any = None) -> dict[str, np.ndarray]:
    """By how much each parameter has moved under gradients of one."""
    params = parameters(scan)
    chain = restrict(optimizer or optax.sgd(1.0), config, params, model(scan))
    state, now = chain.init(params), params
    for _ in range(steps):
        updates, state = chain.update(jax.tree.map(jnp.ones_like, params), state, now)
        now = optax.apply_updates(now, updates)
    return flat(jax.tree.map(lambda a, b: b - a, now, params))


def layer_of(name: str) -> int:
    """By hand: 0 the embeddings, 1 to 3 the layers, 4 what follows."""
    if name.startswith(("encoder/embedder", "encoder/position")):
        return 0
    return int(name.split("layers_")[1][0]) + 1 if "layers_" in name else LAYERS + 1


@pytest.mark.parametrize("scan", [False, True])
def test_every_layer_has_its_rate(scan: bool) -> None:
    for name, distance in moved(TuneConfig(layer_decay=0.5), scan).items():
        np.testing.assert_allclose(distance, 0.5 ** (LAYERS + 1 - layer_of(name)), rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("frozen", [0, 2, 3])
def test_frozen_layers_stay(scan: bool, frozen: int) -> None:
    config = TuneConfig(frozen_layers=frozen)
    distances = moved(config, scan, steps=2, optimizer=optax.adamw(0.1, weight_decay=0.1))
    for name, distance in distances.items():
        assert (distance != 0).any() == (layer_of(name) > frozen), name
    number = trained_number(parameters(scan), config, model(scan))
    assert number == sum(d.size for name, d in distances.items() if layer_of(name) > frozen)


@pytest.mark.parametrize("trained", ["heads", "biases"])
def test_only_heads_or_biases(trained: Any) -> None:
    config = TuneConfig(trained=trained)
    for name, distance in moved(config, True).items():
        moves_ = not name.startswith("encoder/") or (trained == "biases" and name.endswith("/bias"))
        assert (distance != 0).all() == moves_, name
    params = parameters(True)
    state = restrict(optax.adam(0.1), config, params, model(True)).init(params)
    moments = sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim)
    assert moments == 2 * trained_number(params, config, model(True)), "what is frozen has no moments"


def test_a_frozen_gradient_does_not_count_in_the_norm() -> None:
    config = TuneConfig(trained="heads")
    distances = moved(config, False, optimizer=optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
    total = sum(float((d**2).sum()) for d in distances.values())
    assert total == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize(
    "options", [{"trained": "biases"}, {"trained": "heads", "norms": True}, {"frozen_layers": 2}, {}]
)
def test_what_never_moves_has_no_gradient(options: dict[str, Any]) -> None:
    config, params = TuneConfig(**options), parameters(False)
    total = lambda p: sum(x.sum() for x in jax.tree.leaves(hold(p, config, model(False))))  # noqa: E731
    some = flat(moves(params, config, model(False)))
    for name, gradient in flat(jax.grad(total)(params)).items():
        assert (gradient == 1).all() if some[name].any() else not gradient.any(), name
    if "norms" in options:
        moving = {name for name in some if name.startswith("encoder/") and some[name].all()}
        assert moving == {name for name in some if "norm/" in name} and len(moving) == 2 * (1 + 2 * LAYERS)


@pytest.mark.parametrize("scan", [False, True])
def test_layers_unfreeze_from_the_top(scan: bool) -> None:
    for steps in (2, 4, 7, 9):
        for name, distance in moved(TuneConfig(unfreeze_every=2), scan, steps).items():
            first = 2 * (LAYERS + 1 - layer_of(name))  # the step at which it begins to move
            np.testing.assert_allclose(distance, max(steps - first, 0), err_msg=name)


@pytest.mark.parametrize("scan", [False, True])
def test_top_layers_forget(scan: bool) -> None:
    known, fresh = parameters(scan), jax.tree.map(jnp.zeros_like, parameters(scan))
    for name, value in flat(forget(fresh, known, TuneConfig(fresh_layers=2), model(scan))).items():
        new = name.startswith("encoder/stack/") and layer_of(name) > LAYERS - 2
        wanted = 0.0 if new else flat(known)[name]
        np.testing.assert_array_equal(value, np.broadcast_to(wanted, value.shape), name)
    assert forget(fresh, known, TuneConfig(), model(scan)) is known


def test_depths_of_a_pattern_of_layers() -> None:
    from bertjax.attention import ATTENTIONS

    config = small(layers=6, attention=ATTENTIONS["local_global"].options, scan=True)
    found = depths({"encoder": meta.unbox(declared_parameters(config))}, config)
    stacked = {name_of(p): d for p, d in jax.tree_util.tree_leaves_with_path(found)}
    seen = sorted({int(n) for name, d in stacked.items() if "/mlp/up/kernel" in name for n in np.ravel(d)})
    assert seen == [1, 2, 3, 4, 5, 6]


# ---------------------------------------------------------------------------------------------- low rank


def low_rank(scan: bool, kernels: Any = "all") -> tuple[TuneConfig, Tree]:
    """Parameters with factors that are not zero."""
    config = TuneConfig(trained="low_rank", rank=5, alpha=10.0, kernels=kernels)
    tree = extend({"encoder": declared_parameters(model(scan)), "heads_x": HEAD}, config, jax.random.key(0))
    random = np.random.default_rng(0)
    return config, jax.tree.map(lambda x: random.normal(size=x.shape).astype(np.float32), meta.unbox(tree))


@pytest.mark.parametrize("scan", [False, True])
def test_kernels_are_what_they_were_and_a_product(scan: bool) -> None:
    config, params = low_rank(scan)
    assert {leaf.ndim for leaf in jax.tree.leaves(params[LOW_RANK])} == {2 + scan, 3 + scan}
    plain, whole = flat(params), flat(merged(params, config))
    assert set(whole) == {name for name in plain if not name.startswith(LOW_RANK)}
    letters = {
        "query/kernel": "dr,rhk->dhk",
        "key/kernel": "dr,rhk->dhk",
        "value/kernel": "dr,rhk->dhk",
        "attention/output/kernel": "hkr,rd->hkd",
        "mlp/up/kernel": "dr,rf->df",
        "mlp/down/kernel": "fr,rd->fd",
    }
    seen = 0
    for name, value in whole.items():
        wanted = plain[name]
        rule = next((rule for end, rule in letters.items() if name.endswith(end)), None)
        if rule is not None:
            factors = (plain[f"{LOW_RANK}/{name}/{part}"] for part in ("down", "up"))
            wanted = wanted + 2.0 * np.einsum(rule, *factors)
            seen += 1
        np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-4, err_msg=name)
    assert seen == 6 * LAYERS
    for name, value in merged_leaves(plain, config).items():
        np.testing.assert_allclose(value, whole[name], rtol=1e-4, atol=1e-4, err_msg=name)


def test_nothing_is_added_at_first_and_only_factors_move() -> None:
    config = TuneConfig(trained="low_rank", kernels="query_value", rank=2)
    declared = {"encoder": declared_parameters(model(True)), "heads_x": HEAD}
    zeros = jax.tree.map(
        lambda box: (
            dataclasses.replace(box, value=jnp.ones(box.value.shape)) if isinstance(box, Declared) else box
        ),
        declared,
        is_leaf=lambda box: isinstance(box, Declared),
    )
    params = meta.unbox(extend(zeros, config, jax.random.key(0)))
    same = jax.tree.map(np.array_equal, merged(params, config), meta.unbox(zeros))
    assert jax.tree.all(same)
    names = {name.rsplit("/", 2)[0].split("/")[-1] for name in flat(params[LOW_RANK])}
    assert names == {"query", "value"}
    for name, some in flat(moves(params, config, model(True))).items():
        assert some.all() == (not name.startswith("encoder/")), name
    number = trained_number(params, config, model(True))
    assert number == 2 * LAYERS * 2 * (24 + 24) + 24 * 2 + 2


def test_a_product_of_any_shape() -> None:
    random = np.random.default_rng(1)
    for first, inputs, outputs in [((), (4,), (3, 2)), ((5,), (3, 2), (4,)), ((5,), (4,), (6,))]:
        down = random.normal(size=(*first, *inputs, 7))
        up = random.normal(size=(*first, 7, *outputs))
        found = product(down, up, (*first, *inputs, *outputs))
        flat_ = (
            [np.tensordot(a, b, 1) for a, b in zip(down, up, strict=True)]
            if first
            else np.tensordot(down, up, 1)
        )
        np.testing.assert_allclose(found, np.asarray(flat_))


# ---------------------------------------------------------------------------------------------- checks

BAD = [
    ({"layer_decay": 0.0}, "tune.layer_decay=0.0"),
    ({"fresh_layers": 4}, "tune.fresh_layers=4 of model.layers=3"),
    ({"frozen_layers": -1}, "tune.frozen_layers=-1"),
    ({"unfreeze_every": 0}, "tune.unfreeze_every=0"),
    ({"trained": "heads", "frozen_layers": 1}, "tune.trained=heads says what moves"),
    ({"trained": "low_rank", "fresh_layers": 1}, "tune.fresh_layers=1 would stay random"),
    ({"trained": "adapters"}, "tune.trained=adapters and model.adapter=none: set model.adapter=houlsby"),
    ({"norms": True}, "tune.norms=true adds to what tune.trained=heads"),
]


@pytest.mark.parametrize("options, message", BAD)
def test_what_no_model_can_do(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_tune(TuneConfig(**options), model(False))


def test_attention_without_such_kernels() -> None:
    from bertjax.attention import ATTENTIONS

    config = small(attention=ATTENTIONS["fourier"].options)
    with pytest.raises(ValueError, match="tune.kernels=query_value: this attention has no such kernels"):
        extend({"encoder": declared_parameters(config)}, TuneConfig(trained="low_rank"), jax.random.key(0))


@pytest.mark.usefixtures("quick_compiles")
def test_a_tuned_run_is_loaded_with_plain_kernels(tmp_path: pathlib.Path) -> None:
    """Products of low rank learn, and the loaded model predicts what the run did."""
    from test_finetune import heldout, tiny

    from bertjax import bundle, train
    from bertjax.tasks.classify import Classify

    settings = (
        "tune.trained=low_rank",
        "tune.kernels=all",
        "tune.rank=4",
        "optim.learning_rate=0.02",
        "data.shapes=1",
    )
    train.train(tiny(*settings, epochs=6, eval_every=None), str(tmp_path))
    assert heldout(tmp_path)[-1]["heldout_accuracy"] > 0.45  # a quarter by chance
    loaded = bundle.load(str(tmp_path))
    assert set(loaded.params) == {"encoder", "heads_classify"}
    split = Classify().read("heldout")
    (task,) = loaded.config.tasks
    assert isinstance(task, Classify)
    logits = loaded.outputs(*loaded.tokenize(split.columns["text"]))["classify"]
    labels = [task.labels.index(label) for label in split.columns["label"]]
    right = np.mean(np.asarray(logits).argmax(1) == labels)
    assert right == pytest.approx(heldout(tmp_path)[-1]["heldout_accuracy"])
