"""ELECTRA and its forms: samples, labels and losses against plain numpy, and where gradients go."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import tasks
from bertjax.config import Config, check
from bertjax.data.pairs import SegmentPair
from bertjax.models.presets import PRESETS
from bertjax.sharding import MeshConfig
from bertjax.tasks.generator import Generator, sample
from bertjax.tasks.mlm import Mlm
from bertjax.tasks.restore import Restore
from bertjax.tasks.rtd import Rtd
from tests.cases import slow_but
from tests.helpers import small
from tests.tasks.learning import learn
from tests.tasks.rows import PAIRS, VOCAB, chosen_positions, corrupt, forward, make_rows, random_parameters

pytestmark = pytest.mark.usefixtures("quick_compiles")

MODEL = small(heads=4, vocab=VOCAB, max_length=64)
ALL = (Generator(rate=0.5, size=0.5), Rtd(), Restore(over="all"))
TEXT = make_rows(256, length=64)
HIDDEN = corrupt(ALL, TEXT)


@pytest.fixture(scope="module")
def network():
    return tasks.make_network(ALL, MODEL)


@pytest.fixture(scope="module")
def params(network):
    return random_parameters(network, HIDDEN)


@pytest.fixture(scope="module")
def outputs(network, params):
    return forward(network, params, HIDDEN)


def test_labels_say_where_a_sample_differs_from_the_text(outputs):
    read, replaced = outputs["restore"]["input"], outputs["generator"]["replaced"]
    chosen = chosen_positions(HIDDEN, "generator")
    assert (replaced == (read != TEXT.tokens)).all()
    assert (read == TEXT.tokens)[~chosen].all()
    hits = chosen & ~replaced
    assert hits.sum() > 10 and replaced.sum() > 1000  # samples that are the text count as text
    assert read[chosen].max() < VOCAB


def test_samples_follow_the_distribution_of_the_generator(outputs):
    logits, target = outputs["generator"]["logits"], HIDDEN.targets["generator"]
    chosen = target["weights"] > 0
    chance = np.exp(logits - logits.max(-1, keepdims=True))
    chance /= chance.sum(-1, keepdims=True)
    drawn = np.take_along_axis(chance, outputs["generator"]["sampled"][..., None], 2)[..., 0][chosen]
    # The mean chance of what is drawn is the mean sum of squares: 5000 draws of numbers below one.
    assert drawn.mean() == pytest.approx(np.square(chance).sum(-1)[chosen].mean(), abs=0.01)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 3.0])
def test_temperature_divides_the_logits(temperature):
    logits = np.array([0.0, 1.0, 2.0, -1.0], np.float32)
    keys = jax.random.key_data(jax.random.split(jax.random.key(0), 4))
    drawn = np.asarray(sample(jnp.broadcast_to(logits, (4, 5000, 4)), keys, temperature))
    wanted = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    counts = np.bincount(drawn.ravel(), minlength=4)
    assert (
        np.square(counts - 20000 * wanted) / (20000 * wanted)
    ).sum() < 20  # chi square, 3 degrees of freedom
    assert (drawn[0] != drawn[1]).any()


def test_a_sample_depends_on_the_row_not_on_its_place(network, params, outputs):
    order = np.random.default_rng(0).permutation(256)
    moved = forward(network, params, jax.tree.map(lambda x: x[order], HIDDEN))
    assert (moved["generator"]["sampled"] == outputs["generator"]["sampled"][order]).all()
    later = corrupt(ALL, TEXT.replace(epoch=TEXT.epoch + 1))
    assert (later.targets["generator"]["keys"] != HIDDEN.targets["generator"]["keys"]).any(1).all()


def sigmoid(x):
    return 1 / (1 + np.exp(-np.float64(x)))


@pytest.mark.parametrize("over", ["all", "hidden"])
def test_detection_against_numpy(outputs, over):
    task, batch = Rtd(over=over), jax.tree.map(jnp.asarray, HIDDEN)
    counted = TEXT.mask if over == "all" else chosen_positions(HIDDEN, "generator")
    chance, replaced = sigmoid(outputs["rtd"])[counted], outputs["generator"]["replaced"][counted]
    found = jax.device_get(task.loss(jax.tree.map(jnp.asarray, outputs), batch))
    number, said = counted.sum(), chance > 0.5
    assert float(task.normaliser(batch)) == number
    cost = -np.log(np.where(replaced, chance, 1 - chance)).sum()
    np.testing.assert_allclose(found["loss"], (cost, number), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], ((said == replaced).sum(), number))
    np.testing.assert_allclose(found["recall"], ((said & replaced).sum(), replaced.sum()))
    np.testing.assert_allclose(found["precision"], ((said & replaced).sum(), said.sum()))


def test_restoring_with_copies_against_numpy(outputs):
    task, batch = Restore(over="all"), jax.tree.map(jnp.asarray, HIDDEN)
    output, text = outputs["restore"], TEXT.tokens
    logits = np.float64(output["logits"])
    share = np.exp(logits - logits.max(-1, keepdims=True))
    share = (1 - sigmoid(output["copy"]))[..., None] * share / share.sum(-1, keepdims=True)
    rows, places = np.indices(text.shape)
    share[rows, places, output["input"]] += sigmoid(output["copy"])
    np.testing.assert_allclose(share.sum(-1), 1)
    found = jax.device_get(task.loss(jax.tree.map(jnp.asarray, outputs), batch))
    counted = TEXT.mask
    np.testing.assert_allclose(
        found["loss"], (-np.log(share[rows, places, text])[counted].sum(), counted.sum()), rtol=1e-4
    )
    right = (share.argmax(-1) == text)[counted].sum()
    np.testing.assert_allclose(found["accuracy"], (right, counted.sum()))


def test_restoring_what_was_hidden_is_masked_language_modelling_of_samples():
    task = Restore(over="hidden")
    network = tasks.make_network((ALL[0], task), MODEL)
    outputs = forward(network, random_parameters(network, HIDDEN), HIDDEN)
    target = HIDDEN.targets["generator"]
    used = target["weights"] > 0
    logits = np.float64(outputs["restore"])[used]
    cost = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(logits)), target["labels"][used]]
    found = jax.device_get(task.loss(jax.tree.map(jnp.asarray, outputs), jax.tree.map(jnp.asarray, HIDDEN)))
    np.testing.assert_allclose(found["loss"], (cost.sum(), used.sum()), rtol=1e-5)
    assert float(task.normaliser(jax.tree.map(jnp.asarray, HIDDEN))) == used.sum()


def gradient(chosen, batch, embeddings="shared"):
    """Gradients of every parameter under the loss of the chosen tasks alone."""
    generator = dataclasses.replace(ALL[0], embeddings=embeddings)
    network = tasks.make_network((generator, *ALL[1:]), MODEL)
    values = random_parameters(network, batch)

    @jax.jit
    def run(values, batch):
        def loss(values):
            outputs = network.apply(values, batch, train=False)
            return tasks.total_loss(chosen, outputs, batch, tasks.normalisers(chosen, batch))[0]

        return jax.grad(loss)(values)

    return jax.device_get(run(values, batch))["params"]


def moved(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        if np.abs(leaf).max() > 0
    }


def test_no_gradient_passes_through_a_sample():
    assert not any(name.startswith("rewriters") for name in moved(gradient((Rtd(), Restore()), HIDDEN)))
    by_generator = moved(gradient((Generator(),), HIDDEN))
    assert {name.split("/")[0] for name in by_generator} == {"rewriters_generator", "encoder"}
    assert {name for name in by_generator if name.startswith("encoder/")} == {
        f"encoder/embedder/{name}" for name in ("tokens", "types", "norm/scale", "norm/bias")
    } | {"encoder/position/embedding"}


def test_own_embeddings_are_its_own():
    by_generator = moved(gradient((Generator(),), HIDDEN, embeddings="own"))
    assert {name.split("/")[0] for name in by_generator} == {"rewriters_generator"}
    assert "rewriters_generator/encoder/embedder/tokens" in by_generator
    assert not any("projection" in name for name in by_generator)


def test_a_batch_of_empty_rows_gives_no_nan():
    empty = corrupt(ALL, TEXT.replace(mask=np.zeros_like(TEXT.mask)))
    gradients = gradient(ALL, empty)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_the_size_is_a_share_of_the_heads():
    base = Generator(size=1 / 3).config(PRESETS["base"])
    assert (base.heads, base.width, base.hidden, base.layers, base.key_size) == (4, 256, 1024, 12, 64)
    large = Generator(layers=6).config(PRESETS["large"])
    assert (large.heads, large.width, large.hidden, large.layers) == (4, 256, 1024, 6)
    assert Generator(size=0.01).config(PRESETS["base"]).heads == 1
    assert base.table_width == 768 and Generator(embeddings="own").config(PRESETS["base"]).table_width == 192


def test_operations_count_the_generator():
    model = PRESETS["base"]
    alone = tasks.flops_per_token((Mlm(),), model, attended=128.0)
    both = tasks.flops_per_token((Generator(size=0.5), Rtd()), model, attended=128.0)
    same = tasks.flops_per_token((Generator(size=1.0), Rtd()), model, attended=128.0)
    assert alone < both < same
    encoder = tasks.flops_per_token((Rtd(),), model, attended=128.0)
    # A second encoder, the projection that it reads the shared tables through, and the logits of 15 % of the tokens.
    assert same - encoder == pytest.approx(alone + 6 * model.width**2)
    everything = tasks.flops_per_token((Generator(size=1.0), Restore()), model, attended=128.0)
    hidden = tasks.flops_per_token((Generator(size=1.0), Restore(over="hidden")), model, attended=128.0)
    logits = 6 * model.width * (model.rows + model.width)
    assert everything - same == pytest.approx(logits) and hidden - same == pytest.approx(0.15 * logits)


def config(*chosen):
    return dataclasses.replace(Config(), tasks=chosen)


@pytest.mark.parametrize("task", [Rtd(), Restore()])
def test_there_must_be_a_generator(task):
    with pytest.raises(ValueError, match=f"set tasks=generator,{task.name}") as error:
        check(config(Mlm(), task))
    assert "\n" not in str(error.value)


def test_only_one_task_hides_tokens():
    with pytest.raises(ValueError, match="mlm and generator would each hide tokens") as error:
        check(config(Mlm(), Generator(), Rtd()))
    assert "\n" not in str(error.value)
    check(config(Generator(), Rtd()))


def test_a_task_is_named_once():
    with pytest.raises(ValueError, match="names rtd twice"):
        check(config(Generator(), Rtd(), Rtd(over="hidden")))


@pytest.mark.parametrize("wrong", [{"size": 0.0}, {"temperature": 0.0}, {"layers": 0}])
def test_sizes_that_are_none_are_refused(wrong):
    with pytest.raises(ValueError, match=f"tasks.generator.{next(iter(wrong))}="):
        Generator(**wrong)


@pytest.mark.parametrize(
    "chosen, falls",
    slow_but(
        [
            ((Generator(size=1.0), Rtd()), ("generator", "rtd")),
            ((Generator(size=1.0), Restore()), ("restore",)),
        ],
        [((Generator(size=1.0), Rtd()), ("generator", "rtd"))],
    ),
)
def test_the_losses_fall(chosen, falls):
    history = learn(chosen, PAIRS, steps=40, batches=1)
    for name in falls:
        loss = history[f"{name}_loss"]
        assert loss[-3:].mean() < 0.7 * loss[0]
    if "rtd" in falls:  # better than to call all tokens text
        share = history["generator_replaced"][-3:].mean() * 0.15
        assert (
            history["rtd_loss"][-3:].mean() < -share * np.log(share) - (1 - share) * np.log(1 - share) - 0.05
        )
    weights = {task.name: task.weight for task in chosen}
    total = sum(weights[name] * history[f"{name}_loss"] for name in weights)
    np.testing.assert_allclose(history["loss"], total, rtol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"microbatches": 4}, marks=pytest.mark.slow),
        {"mesh": MeshConfig(1, 2, 2, 2, rules="fsdp_tensor_sequence")},
    ],
    ids=["microbatches", "mesh"],
)
def test_parts_and_devices_change_nothing(settings):
    chosen = (Generator(size=0.5), Rtd())
    one = learn(chosen, SegmentPair(negatives="none"), steps=2, heads=4, width=32)
    other = learn(chosen, SegmentPair(negatives="none"), steps=2, heads=4, width=32, **settings)
    for name in ("generator_loss", "rtd_loss", "gradient_norm"):
        np.testing.assert_allclose(other[name], one[name], rtol=2e-4)
