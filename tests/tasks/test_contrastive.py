"""Contrast between views: rows, losses against numpy, the whole mesh as negatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax.config import Config, DataConfig, TrainConfig, check
from bertjax.data.packing import BestFit
from bertjax.data.pairs import SentencePair
from bertjax.data.singles import Padded
from bertjax.sharding import MeshConfig
from bertjax.tasks.contrastive import Contrastive, EmbeddingHead
from bertjax.tasks.masking import WholeWord
from bertjax.tasks.mlm import Mlm
from bertjax.types import EncoderOutput
from tests.helpers import small
from tests.tasks.learning import learn
from tests.tasks.rows import VOCABULARY, corrupt, make_rows

pytestmark = pytest.mark.usefixtures("quick_compiles")

TABLE = np.zeros((1, 8), np.float32)
PAIRS = SentencePair(negatives="none")


def test_every_row_stands_twice():
    text = make_rows(6, format=Padded(), length=32).with_targets("words", starts=np.ones((6, 32), bool))
    out = corrupt(Contrastive(), text)
    for name in ("tokens", "mask", "types", "positions", "example_id", "epoch"):
        value = getattr(out, name)
        assert (value[0::2] == getattr(text, name)).all() and (value[1::2] == getattr(text, name)).all()
    assert out.targets["words"]["starts"].shape == (12, 32)


def test_the_parts_of_a_pair_stand_in_rows_of_their_own():
    text = make_rows(100, format=PAIRS, length=64)
    mask = text.mask.copy()
    mask[3] = False
    text = text.replace(mask=mask).with_targets("words", starts=text.tokens % 2 == 0)
    out = corrupt(Contrastive(views="pair"), text)
    for row in range(100):
        if row == 3:
            assert not out.mask[6:8].any()
            continue
        real, starts = text.tokens[row][text.mask[row]], text.targets["words"]["starts"][row]
        cut = int(np.flatnonzero(real == VOCABULARY.sep)[0]) + 1
        parts = real[:cut], np.concatenate([real[:1], real[cut:]])
        assert len(parts[1]) > 3
        for view, part in zip((2 * row, 2 * row + 1), parts, strict=True):
            assert (out.tokens[view][out.mask[view]] == part).all()
            assert (out.positions[view][out.mask[view]] == np.arange(len(part))).all()
            assert out.mask[view].sum() == len(part) and out.mask[view][: len(part)].all()
        assert (
            out.targets["words"]["starts"][2 * row + 1][1 : len(parts[1])] == (parts[1][1:] % 2 == 0)
        ).all()
        assert (out.targets["words"]["starts"][2 * row][:cut] == starts[:cut]).all()
    assert not out.types.any() and (out.tokens[~out.mask] == VOCABULARY.pad).all()
    assert (out.example_id == np.repeat(text.example_id, 2)).all()


def test_a_pair_without_a_second_part_is_left_out():
    text = make_rows(4, format=PAIRS, length=64)
    types = text.types.copy()
    types[1] = 0
    batch = corrupt(Contrastive(views="pair"), text.replace(types=types))
    assert batch.mask[2].any() and not batch.mask[3].any()
    assert float(Contrastive().normaliser(jax.tree.map(jnp.asarray, batch))) == 3


def test_the_loss_against_numpy():
    random = np.random.default_rng(0)
    rows = random.normal(size=(10, 6))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    text = make_rows(5, format=Padded(), length=16)
    mask = np.repeat(text.mask, 2, axis=0)
    mask[4:6] = False  # the third text is an empty row
    batch = jax.tree.map(jnp.asarray, corrupt(Contrastive(), text).replace(mask=mask))
    found = jax.device_get(
        Contrastive(temperature=0.5).loss({"contrastive": jnp.asarray(rows, jnp.float32)}, batch)
    )
    keep = [0, 1, 3, 4]
    scores = (rows[0::2] @ rows[1::2].T / 0.5)[np.ix_(keep, keep)]
    cost = np.log(np.exp(scores).sum(1)) - np.diag(scores)
    np.testing.assert_allclose(found["loss"], (cost.sum(), 4), rtol=1e-5)
    np.testing.assert_allclose(found["accuracy"], ((scores.argmax(1) == np.arange(4)).sum(), 4))
    distance = np.square(rows[0::2] - rows[1::2]).sum(1)[keep].sum()
    np.testing.assert_allclose(found["distance"], (distance, 4), rtol=1e-5)


@pytest.mark.parametrize("pool", ["pooled", "first", "mean"])
def test_embeddings_have_length_one_and_ignore_padding(pool):
    random = np.random.default_rng(0)
    batch = make_rows(3, format=Padded(), length=32, first=40)
    mask = np.arange(32)[None] < np.array([[5], [32], [0]])
    hidden, pooled = (random.normal(size=shape).astype(np.float32) for shape in ((3, 32, 8), (3, 8)))
    head = EmbeddingHead(pool)
    run = lambda hidden: head.apply({}, EncoderOutput(hidden, pooled), batch.replace(mask=mask), TABLE)  # noqa: E731
    found = np.asarray(run(hidden))
    wanted = {
        "pooled": pooled,
        "first": hidden[:, 0],
        "mean": np.stack([hidden[0, :5].mean(0), hidden[1].mean(0)]),
    }
    wanted = wanted[pool][:2] / np.linalg.norm(wanted[pool][:2], axis=1, keepdims=True)
    np.testing.assert_allclose(found[:2], wanted, rtol=1e-4, atol=1e-6)
    if pool == "mean":
        assert not found[2].any()
        assert np.isfinite(jax.grad(lambda h: run(h).sum())(jnp.zeros_like(hidden))).all()


def test_other_tasks_see_both_views():
    text = make_rows(8, format=PAIRS, length=64)
    for order in ((Mlm(masking=WholeWord()), Contrastive(views="pair")), (Contrastive(views="pair"), Mlm())):
        out = corrupt(order, text)
        target = out.targets["mlm"]
        assert target["positions"].shape[0] == 16
        rows = np.arange(16)[:, None]
        assert (out.mask[rows, target["positions"]] | (target["weights"] == 0)).all()
        assert (target["weights"].sum(1) >= 1).all()


def config(*chosen, format, microbatches=1, **model):
    return Config(
        model=small(**{"dropout": 0.1, **model}),
        data=DataConfig(format=format),
        tasks=chosen,
        train=TrainConfig(batch_size=8, microbatches=microbatches),
    )


@pytest.mark.parametrize(
    "wrong, message",
    [
        (config(Contrastive(), format=BestFit()), "set data.format=padded"),
        (config(Contrastive(), format=Padded(), dropout=0.0), "set model.dropout=0.1"),
        (config(Contrastive(views="pair"), format=Padded()), "data.format.negatives=none"),
        (config(Contrastive(views="pair"), format=SentencePair()), "data.format.negatives=none"),
        (config(Contrastive(), format=Padded(), microbatches=2), "set train.microbatches=1"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message) as error:
        check(wrong)
    assert "\n" not in str(error.value)


def test_what_makes_sense_is_not():
    check(config(Contrastive(), Mlm(), format=Padded()))
    check(config(Contrastive(views="pair"), format=PAIRS, dropout=0.0))
    with pytest.raises(ValueError, match="tasks.contrastive.temperature=0.0"):
        Contrastive(temperature=0.0)


def test_two_readings_of_a_row_differ_by_dropout():
    history = learn((Contrastive(pool="mean"),), Padded(), steps=15, rows=16, batches=1, dropout=0.1)
    assert history["contrastive_distance"].min() > 1e-4
    assert history["contrastive_loss"][-3:].mean() < 0.3 * history["contrastive_loss"][0]


def test_the_negatives_are_the_batches_of_all_devices():
    # With small weights all embeddings point one way at first: the best two cosines of a row are one rounding apart
    # (6e-8), so that the nearest is chance. With these they differ by 1e-4.
    settings = {"steps": 8, "rows": 16, "width": 32, "heads": 4, "init_std": 0.2, "batches": 1}
    one = learn((Contrastive(views="pair"),), PAIRS, **settings)
    all_devices = learn((Contrastive(views="pair"),), PAIRS, mesh=MeshConfig(data=8), **settings)
    for name in ("contrastive_loss", "gradient_norm"):
        np.testing.assert_allclose(all_devices[name], one[name], rtol=1e-5)
    np.testing.assert_array_equal(all_devices["contrastive_accuracy"], one["contrastive_accuracy"])
    assert one["contrastive_accuracy"][-1] > 0.5
    assert one["contrastive_loss"][0] > 0.7 * np.log(16)  # of sixteen, not of the two of a device


def test_pairs_are_learned():
    history = learn((Contrastive(views="pair"),), PAIRS, steps=40, batches=2)
    assert history["contrastive_loss"][-3:].mean() < 0.5 * history["contrastive_loss"][0]
