"""The step: what it means depends neither on the mesh nor on the stack's layout nor on how a batch is split."""

import functools
import re
from typing import Any

import jax
import numpy as np
import pytest
from cases import slow_but
from jax.sharding import PartitionSpec as P
from runs import assert_near, put, start, tiny

from bertjax import parts, tasks
from bertjax.config import open_rows
from bertjax.data.loader import Loader
from bertjax.models.stacking import stack_layers
from bertjax.program import Program, build, create_state
from bertjax.step import make_eval_step, make_train_step
from bertjax.types import Batch, Metrics, TrainState, Tree

pytestmark = pytest.mark.usefixtures("quick_compiles")

MESHES: dict[str, tuple[str, ...]] = {
    "data 8": ("mesh.data=8", "mesh.rules=data"),
    "fsdp 8": ("mesh.fsdp=8", "mesh.rules=fsdp"),
    "data 2, fsdp 4": ("mesh.data=2", "mesh.fsdp=4", "mesh.rules=fsdp"),
    "data 2, fsdp 2, tensor 2": ("mesh.data=2", "mesh.fsdp=2", "mesh.tensor=2", "mesh.rules=fsdp_tensor"),
    "fsdp 2, tensor 2, sequence 2": (
        "mesh.fsdp=2",
        "mesh.tensor=2",
        "mesh.sequence=2",
        "mesh.rules=fsdp_tensor_sequence",
    ),
}
# Without clipping, decay and warm-up the first moment of AdamW after one step is a tenth of the gradient.
BARE = ("optim.clip_norm=none", "optim.weight_decay=0", "optim.warmup_steps=0", "optim.optimizer.b1=0.9")
UP = "encoder/stack/group_0/layers_0/block_0/mlp/up/kernel"
QUERY = "encoder/stack/group_0/layers_0/block_0/attention/query/kernel"
TOKENS = "encoder/embedder/tokens"


@functools.cache
def compiled(*settings: str) -> tuple[Program, Any]:
    """The train step, compiled for its mesh."""
    program, _ = start(tiny(*BARE, *settings))
    with program.active():
        return program, make_train_step(program).lower(program.state, program.batch).compile()


@functools.cache
def first_state(scan: bool = False) -> TrainState:
    """What every run of this file starts from, whatever its settings."""
    if scan:
        state = first_state()
        return TrainState(state.step, stack_layers(state.params), stack_layers(state.opt_state))
    return jax.device_get(create_state(start(tiny(*BARE))[0]))


def first_batch(program: Program) -> Batch:
    return start(program.config)[1].place(0, program.mesh, program.config.mesh.rules)


def uneven(batch: Batch) -> Batch:
    """The same rows, cut to very different numbers of tokens, one of them to none."""
    lengths = np.array([14, 0, 3, 14, 3, 4, 14, 5, 3, 3, 14, 13, 4, 3, 12, 14])[:, None]
    mask = np.asarray(batch.mask) & (np.arange(14)[None, :] < lengths)
    return batch.replace(mask=jax.device_put(mask, batch.mask.sharding))


def run(program: Program, step: Any, batch: Batch) -> tuple[Metrics, Tree]:
    """Metrics and gradient of the first step."""
    with program.active():
        state, metrics = step(put(program, first_state(program.config.model.scan)), batch)
    moment = next(part.mu for part in state.opt_state if hasattr(part, "mu"))
    return jax.device_get(metrics), jax.tree.map(lambda mu: np.asarray(mu) * 10, moment)


@functools.cache
def one_step(*settings: str, cut: bool = False) -> tuple[Metrics, Tree]:
    program, step = compiled(*settings)
    batch = first_batch(program)
    return run(program, step, uneven(batch) if cut else batch)


def assert_same_step(found: tuple[Metrics, Tree], wanted: tuple[Metrics, Tree]) -> None:
    for name, (total, weight) in wanted[0].items():
        np.testing.assert_allclose(found[0][name][0], total, rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(found[0][name][1], weight, rtol=1e-6, err_msg=name)
    assert_near(found[1], wanted[1], 1e-5)


# ---------------------------------------------------------------------------------------------- meshes


@pytest.mark.parametrize("scan", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["loop", "scan"])
@pytest.mark.parametrize("mesh", slow_but(MESHES, ("data 8", "fsdp 8", "fsdp 2, tensor 2, sequence 2")))
def test_every_mesh_gives_the_loss_and_the_gradient_of_one_device(mesh: str, scan: bool) -> None:
    metrics, gradient = one_step()
    wanted = metrics, stack_layers(gradient) if scan else gradient
    assert_same_step(one_step(*MESHES[mesh], f"model.scan={scan}"), wanted)


@pytest.mark.parametrize(
    ("mesh", "tokens", "up", "query"),
    [
        ("data 8", P(None, None), P(None, None), P(None, None, None)),
        ("fsdp 8", P(None, "fsdp"), P("fsdp", None), P("fsdp", None, None)),
        ("data 2, fsdp 4", P(None, "fsdp"), P("fsdp", None), P("fsdp", None, None)),
        ("data 2, fsdp 2, tensor 2", P("tensor", "fsdp"), P("fsdp", "tensor"), P("fsdp", "tensor", None)),
        ("fsdp 2, tensor 2, sequence 2", P("tensor", "fsdp"), P("fsdp", "tensor"), P("fsdp", "tensor", None)),
    ],
)
def test_parameters_and_moments_lie_where_the_rules_say(mesh: str, tokens: P, up: P, query: P) -> None:
    program, step = compiled(*MESHES[mesh], "model.scan=False")
    (state_in, batch_in), _ = step.input_shardings
    state_out, _ = step.output_shardings
    for state in (state_in, state_out):
        moments = next(part for part in state.opt_state if hasattr(part, "mu"))
        for tree in (state.params, moments.mu, moments.nu):
            found = {jax.tree_util.keystr(path, simple=True, separator="/"): s for path, s in leaves(tree)}
            for path, spec in ((TOKENS, tokens), (UP, up), (QUERY, query)):
                want = jax.sharding.NamedSharding(program.mesh, spec)
                assert found[path].is_equivalent_to(want, len(spec)), (path, found[path])
    rows = tuple(axis for axis in ("data", "fsdp") if program.mesh.shape[axis] > 1)
    length = "sequence" if program.mesh.shape["sequence"] > 1 else None
    want = jax.sharding.NamedSharding(program.mesh, P(rows, length))
    assert batch_in.tokens.is_equivalent_to(want, 2), batch_in.tokens


def leaves(tree: Tree) -> Any:
    return jax.tree_util.tree_leaves_with_path(tree, is_leaf=lambda x: isinstance(x, jax.sharding.Sharding))


def arrays(step: Any) -> set[tuple[int, ...]]:
    """The shapes of all float arrays that one device holds at any time in a compiled program."""
    return {tuple(map(int, shape.split(","))) for shape in re.findall(r"f32\[([\d,]+)\]", step.as_text())}


@pytest.mark.parametrize(
    ("mesh", "there"),
    [  # residual stream, queries, keys, feed-forward, logits, as one device holds them
        ("data 8", [(2, 14, 24), (2, 14, 4, 6), (2, 14, 40), (2, 5, 56)]),
        ("data 2, fsdp 4", [(2, 14, 24), (2, 14, 4, 6), (2, 14, 40), (2, 5, 56)]),
        ("data 2, fsdp 2, tensor 2", [(4, 14, 24), (4, 14, 2, 6), (4, 14, 20), (4, 5, 28)]),
        ("fsdp 2, tensor 2, sequence 2", [(8, 7, 24), (8, 7, 2, 6), (8, 14, 2, 6), (8, 7, 20), (8, 5, 28)]),
    ],
)
def test_activations_are_split_in_the_compiled_step(mesh: str, there: list[tuple[int, ...]]) -> None:
    program, step = compiled(*MESHES[mesh], "model.scan=False")
    found, share = arrays(step), 16 // (program.mesh.shape["data"] * program.mesh.shape["fsdp"])
    for shape in there:
        assert shape in found, f"no {shape} in the compiled step"
    too_wide = {shape for shape in found if len(shape) > 2 and shape[0] > share and shape[1] in (7, 14)}
    assert not too_wide, "a device holds rows of others"
    if program.mesh.shape["tensor"] > 1:
        assert not {shape for shape in found if shape[1:] == (5, 56)}, "a device holds all logits"


def test_the_state_is_created_where_it_will_live(monkeypatch: pytest.MonkeyPatch) -> None:
    program, _ = start(tiny(*MESHES["data 2, fsdp 2, tensor 2"]))
    texts, jit = [], jax.jit

    def spy(*arguments: Any, **options: Any) -> Any:
        jitted = jit(*arguments, **options)

        def call(seed: int) -> Any:
            texts.append(jitted.lower(seed).compile())
            return jitted(seed)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(jax, "jit", spy)
        state = create_state(program)
    for (path, leaf), like in zip(leaves(state), jax.tree.leaves(program.state), strict=True):
        name = jax.tree_util.keystr(path)
        assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim), name
        held = leaf.addressable_shards[0].data.shape
        assert held == like.sharding.shard_shape(leaf.shape), name
    (creation,) = texts
    found = arrays(creation)
    assert (28, 12) in found and (12, 20) in found
    assert not {(56, 24), (24, 40), (56, 12), (28, 24)} & found, (
        "a device makes more than its part of a table"
    )


# ---------------------------------------------------------------------------------------------- the batch


def test_the_loss_is_the_mean_over_all_predicted_tokens_and_rows() -> None:
    """Against a plain reading of the definition: no normalisers, no weights, no metrics."""
    program, _ = compiled()
    config, vocabulary = program.config, program.vocabulary
    batch = tasks.corrupt(config.tasks, uneven(first_batch(program)), vocabulary, seed=0)
    target, label = batch.targets["mlm"], batch.targets["pair"]["label"]
    chosen = np.argwhere(np.asarray(target["weights"]) > 0)
    real = np.flatnonzero(np.asarray(batch.mask[:, 0]))
    assert len(real) == 15 and len(set(np.bincount(chosen[:, 0], minlength=16))) > 3

    def plain(params: Tree) -> jax.Array:
        outputs = program.network.apply({"params": params}, batch, train=False)
        words, pairs = jax.nn.log_softmax(outputs["mlm"]), jax.nn.log_softmax(outputs["nsp"])
        of_words = [words[row, slot, target["labels"][row, slot]] for row, slot in chosen]
        of_pairs = [pairs[row, label[row]] for row in real]
        return -sum(of_words) / len(of_words) - sum(of_pairs) / len(of_pairs)

    metrics, gradient = one_step(cut=True)
    with program.active():
        loss, wanted = jax.value_and_grad(plain)(put(program, first_state()).params)
    found = sum(metrics[f"{name}_loss"][0] / metrics[f"{name}_loss"][1] for name in ("mlm", "nsp"))
    np.testing.assert_allclose(found, loss, rtol=1e-5)
    assert_near(gradient, wanted, 1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        ("train.microbatches=2", "mesh.data=8"),
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                ("train.microbatches=2",),
                ("train.microbatches=4",),
                ("train.microbatches=2", "mesh.fsdp=2", "mesh.rules=fsdp"),
            )
        ),
    ],
    ids=", ".join,
)
def test_microbatches_add_up_to_the_batch(settings: tuple[str, ...]) -> None:
    assert_same_step(one_step(*settings, cut=True), one_step(cut=True))


def test_microbatches_leave_rows_on_their_devices() -> None:
    _, step = compiled("train.microbatches=2", "mesh.data=8")
    moves = re.findall(r".* (?:all-to-all|collective-permute|all-gather)\(.*", step.as_text())
    # Choosing what to hide is another matter: XLA does not split a top_k over rows.
    assert not [line for line in moves if "top_k" not in line]


def test_dropout_follows_from_seed_and_step_alone() -> None:
    wet = ("model.dropout=0.3", "model.attention_dropout=0.3")
    losses = {}
    for name, more in {"one": (), "eight": ("mesh.data=8",)}.items():
        program, step = compiled(*wet, *more)
        for number in (0, 0, 1):
            state = put(program, first_state())
            state = TrainState(
                jax.device_put(np.int32(number), state.step.sharding), state.params, state.opt_state
            )
            with program.active():
                _, metrics = step(state, first_batch(program))
            losses.setdefault((name, number), []).append(float(metrics["mlm_loss"][0]))
    assert losses["one", 0][0] == losses["one", 0][1]
    assert abs(losses["one", 0][0] - losses["one", 1][0]) > 1e-3
    np.testing.assert_allclose(losses["eight", 0], losses["one", 0], rtol=1e-5)
    dry = one_step()[0]["mlm_loss"][0]
    assert abs(losses["one", 0][0] - dry) > 1e-3


# ---------------------------------------------------------------------------------------------- the rest


def test_a_step_in_bfloat16_is_near_one_in_float32() -> None:
    metrics, gradient = one_step("model.dtype=bfloat16")
    wanted_metrics, wanted = one_step()
    for name in ("mlm_loss", "nsp_loss"):
        np.testing.assert_allclose(metrics[name][0], wanted_metrics[name][0], rtol=2e-2)
        assert metrics[name][0] != wanted_metrics[name][0]
    assert {leaf.dtype for leaf in jax.tree.leaves(gradient)} == {np.dtype(np.float32)}
    cosine = [
        np.vdot(x, y) / (np.linalg.norm(x) * np.linalg.norm(y))
        for x, y in zip(jax.tree.leaves(gradient), jax.tree.leaves(wanted), strict=True)
        if np.linalg.norm(y) > 1e-4  # the bias of all keys moves no output: its gradient is rounding
    ]
    assert min(cosine) > 0.98 and len(cosine) > 30


def test_a_step_counts_its_work() -> None:
    metrics = one_step(cut=True)[0]
    mask = np.asarray(uneven(first_batch(compiled()[0])).mask)
    lengths = mask.sum(1)
    assert metrics["tokens"] == (lengths.sum(), 1)
    assert metrics["attended"] == ((lengths**2).sum(), lengths.sum())
    assert metrics["predicted"] == (metrics["mlm_loss"][1], lengths.sum())
    assert metrics["nsp_loss"][1] == 15


def test_an_evaluation_does_not_depend_on_how_the_rows_are_split() -> None:
    found = []
    for settings in (
        ("train.batch_size=16", "train.eval_batches=4"),
        (
            "train.batch_size=32",
            "train.eval_batches=2",
            "mesh.data=8",
            "train.seed=7",
            "train.microbatches=2",
        ),
    ):
        config = tiny(*BARE, *settings)
        program = build(config, start(config)[0].vocabulary)
        heldout = Loader(open_rows(config, "heldout"), config.train.batch_size, seed=0, shuffle=False)
        with program.active():
            params = put(program, first_state()).params
            found.append(parts.evaluate(program, make_eval_step(program), params, heldout))
    assert (
        found[0].keys() == found[1].keys() == {"loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy"}
    )
    for name, value in found[0].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("mesh.data=8", "train.batch_size=12"), "set train.batch_size=8 or 16"),
        (("mesh.data=8", "train.batch_size=3"), "set train.batch_size=8$"),
        (("train.microbatches=3",), "train.batch_size=16 does not divide .* set train.batch_size=15 or 18"),
        (("mesh.data=8", "train.microbatches=4"), "over the 8 replicas .* set train.batch_size=32"),
        (("model.vocab=40",), "vocabulary of 53, more than model.vocab=40: set model.vocab=53"),
        (("mesh.data=9",), "needs 9 devices and 8 are here: set mesh.data=-1"),
        (("mesh.tensor=2",), "mesh.tensor=2 is of no use to mesh.rules=data, .* set mesh.rules=fsdp_tensor "),
        (
            ("mesh.data=-1", "mesh.fsdp=3", "mesh.rules=fsdp"),
            "does not divide the 8 devices here: it could be",
        ),
        (
            ("mesh.fsdp=2", "mesh.rules=fsdp", "model.width=25", "model.heads=5"),
            "width of size 25 does not divide",
        ),
        (("data.length=17",), "rows of 17 tokens are longer than the table of learned positions"),
    ],
)
def test_what_does_not_fit_is_one_line(settings: tuple[str, ...], message: str) -> None:
    vocabulary = start(tiny())[0].vocabulary
    with pytest.raises(ValueError, match=message) as caught:
        build(tiny(*settings), vocabulary)
    assert "\n" not in str(caught.value)
