"""Side by side with another framework: the same batch, honest ratios, and rows that say when they are void."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bertjax import tasks
from bertjax.__main__ import main
from bertjax.bench import goals, speed
from bertjax.bench.ceiling import products, skeleton
from bertjax.bench.contest import Result, Side, Times
from bertjax.bench.row import IGNORED, Row, for_peer
from bertjax.bench.speed import markdown, plot
from bertjax.bench.theirs import distance
from bertjax.models.cost import count_products
from bertjax.types import Batch
from tests.helpers import small

MODEL = small(max_length=24, dropout=0.1, attention_dropout=0.1)
SIZES = (
    "--model.layers=1",
    "--model.width=24",
    "--model.heads=3",
    "--model.vocab=53",
    "--model.max_length=24",
)
SHAPE = ("--batch=4", "--length=16", "--rounds=2", "--seconds=0.001")


def row(**changes: object) -> Row:
    return dataclasses.replace(Row("train", MODEL, batch=9, length=24), **changes)  # type: ignore[arg-type]


def corrupted(row: Row) -> Batch:
    return jax.device_get(tasks.corrupt(row.config.tasks, row.inputs, row.vocabulary, seed=0))


@pytest.mark.parametrize("rows", ["real", "natural"])
def test_the_peer_is_given_the_same_words_to_find(rows: str) -> None:
    one = row(rows=rows)
    clean, batch = one.inputs, corrupted(one)
    found = for_peer(batch, one.vocabulary, one.length)
    mask = found.get("attention_mask", np.ones_like(found["labels"])).astype(bool)
    # Document after document, both sides read the same tokens; hidden ones are known only by their labels.
    np.testing.assert_array_equal(found["input_ids"][mask], batch.tokens[batch.mask])
    hidden = found["labels"][mask] != IGNORED
    assert hidden.sum() == batch.targets["mlm"]["weights"].sum() > 0
    original = np.where(hidden, found["labels"][mask], found["input_ids"][mask])
    np.testing.assert_array_equal(original, clean.tokens[clean.mask])
    np.testing.assert_array_equal(found["token_type_ids"][mask], batch.types[batch.mask])
    assert len(mask) == one.batch and (found["labels"][~mask] == IGNORED).all()
    starts = found["input_ids"][:, 0]
    assert np.isin(starts, [one.vocabulary.cls, *range(5)]).all() or hidden.any()


def test_real_rows_are_full_and_natural_ones_are_packed() -> None:
    full, packed = row().inputs, row(rows="natural", batch=200).inputs
    assert full.mask.all() and full.segments is None and "pair" in full.targets
    assert len(packed.tokens) < 0.75 * 200 and packed.mask.mean() > 0.9
    assert (packed.positions[packed.mask] < 24).all() and (packed.segments[packed.mask] > 0).all()


def test_the_skeleton_has_all_products_of_the_step_and_runs() -> None:
    def step(x: jax.Array, w: jax.Array) -> jax.Array:
        def layer(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            return jax.jit(lambda x: x @ w)(x), None

        return jax.lax.scan(layer, x, None, length=3)[0].sum() + (x @ w).sum()

    program = jax.make_jaxpr(jax.grad(step, 1))(jnp.ones((7, 5)), jnp.ones((5, 5))).jaxpr
    flops = 0.0
    for product, times in products(program):
        shapes = [tuple(v.aval.shape) for v in product.invars]
        (summed, _), _ = product.params["dimension_numbers"]
        made = np.prod(product.outvars[0].aval.shape) * np.prod([shapes[0][i] for i in summed])
        flops += 2 * times * float(made)
    assert flops == count_products(program) > 0
    assert np.isfinite(skeleton(program)())


def side(rounds: tuple[float, ...], gradient: float = 1e-5) -> Side:
    facts = {
        "tokens": 1000,
        "flops": 4e9,
        "matmul_flops": 2e9,
        "platform": "cpu",
        "device": "a chip",
        "cores": 2,
    }
    return Side(Times(rounds), 2**30, {"loss": 1e-6, "gradient": gradient}, facts)


def result(gradient: float = 1e-5) -> Result:
    theirs = dataclasses.replace(side((3.0, 4.0, 9.0), gradient), matmul=Times((0.4, 0.4, 0.1)))
    ceilings = {"matmul": Times((0.1, 0.2, 0.3)), "skeleton": Times((0.5, 0.5, 0.6))}
    return Result(
        row(goal=1.7, aim=2.2),
        side((1.0, 2.0, 1.0)),
        {"transformers": theirs},
        ceilings,
    )


def test_ratios_are_taken_round_by_round() -> None:
    found = result()
    assert found.ratios("transformers").rounds == (3.0, 2.0, 9.0)
    assert found.ratios("transformers").median == 3.0 and found.void is None
    assert found.tokens_per_second == 1000 and found.flops_per_second == 4e9
    assert found.utilization == pytest.approx(0.4) and found.of_skeleton == 0.5
    text = markdown([found])
    assert "3.00 (2.00 to 9.00)" in text and "1.7 (2.2)" in text and "a chip, 2 cores" in text


def test_a_row_says_what_products_alone_could_reach() -> None:
    found = result()
    # Our useful operations are two large products, of 0.1, 0.2 and 0.3 seconds.
    assert found.most("transformers").rounds == pytest.approx((15.0, 10.0, 15.0))
    assert found.matmul_speed("transformers") == 0.5  # of 0.25, 0.5 and 3
    half = dict(found.peers["transformers"].facts, matmul_flops=1e9)
    smaller = dataclasses.replace(found.peers["transformers"], facts=half)
    still = side((1.0, 1.0, 1.0))
    found = dataclasses.replace(found, peers={"transformers": smaller, "without-dropout": still})
    assert found.matmul_speed("transformers") == 0.25 and found.matmul_speed("without-dropout") is None
    said = "\n".join(speed.sentences(found))
    assert "ratio 3.00 (2.00 to 9.00), most 15.00, their matmul 0.25 of ours" in said
    assert said.count("most") == 2 and said.count("their matmul") == 1
    head, _, line, *_ = markdown([found]).splitlines()
    assert line.split(" | ")[head.split(" | ").index("most")] == "15.00"
    written = json.loads(json.dumps(found.as_json()))
    assert Result.from_json(found.row, written) == found and written["most"]["transformers"] == 15.0


@pytest.mark.parametrize("gradient", [2e-3, float("nan")])
def test_a_row_that_computes_something_else_is_void(gradient: float) -> None:
    found = result(gradient)
    assert found.void is not None and "transformers: gradient" in found.void
    assert "void" in markdown([found]) and "3.00" not in markdown([found])


def test_the_distance_is_relative_and_of_all_arrays_together() -> None:
    wanted = {"a": np.array([3.0, 0.0]), "b": np.array([[4.0]])}
    assert distance(
        {"a": np.array([3.0, 0.5]), "b": np.array([[4.0]]), "c": np.ones(3)}, wanted
    ) == pytest.approx(0.1)


def test_ours_alone_is_measured_and_written(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", "train", *SIZES, *SHAPE, "--peer=without-dropout", f"--out={tmp_path}"]) == 0
    (found,) = json.loads((tmp_path / "train.json").read_text())["rows"]
    assert found["ratios"]["without-dropout"]["median"] > 0 and found["void"] is None
    assert found["ours"]["facts"]["tokens"] == 4 * 16 and len(found["ours"]["times"]["rounds"]) == 2
    assert found["tokens_per_second"] > 0 and found["of_skeleton"] > 0 and found["ours"]["memory"] > 2**20
    assert "step, 1 x 24, 4 x 16, float32" in (tmp_path / "train.md").read_text()
    assert "real tokens/s" in capsys.readouterr().out


@pytest.mark.parity
@pytest.mark.parametrize(("job", "rows"), [("train", "real"), ("train", "natural"), ("infer", "natural")])
def test_beside_transformers_both_compute_the_same(job: str, rows: str, tmp_path: pathlib.Path) -> None:
    assert main(["bench", job, *SIZES, *SHAPE, f"--rows={rows}", f"--out={tmp_path}"]) == 0
    (found,) = json.loads((tmp_path / f"{job}.json").read_text())["rows"]
    assert found["void"] is None and found["ratios"]["transformers"]["median"] > 0
    assert found["most"]["transformers"] > 0 and found["matmul_speed"]["transformers"] > 0
    assert len(found["peers"]["transformers"]["matmul"]["rounds"]) == 2
    assert 0 < max(found["ours"]["errors"].values()) < 1e-4


def test_a_row_without_dropout_differs_in_nothing_else() -> None:
    one = row()
    assert (one.model.dropout, one.model.attention_dropout) == (0.1, 0.1)
    assert (one.still.model.dropout, one.still.model.attention_dropout) == (0.0, 0.0)
    assert dataclasses.replace(one.still, model=one.model) == one


def test_a_suite_goes_on_row_by_row(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[int] = []

    def run(row: Row, **_: object) -> Result:
        measured.append(row.batch)
        return dataclasses.replace(result(), row=row)

    monkeypatch.setattr(speed, "run", run)
    suite = [row(batch=number, goal=1.0) for number in (3, 5, 7)]

    def measure(rows: list[Row], rounds: int = 3, suite: list[Row] = suite) -> list[Result]:
        return speed.measure_rows(
            rows, rounds=rounds, seconds=1.0, out=str(tmp_path), name="goals", suite=suite
        )

    once = measure(suite[1:2])
    assert once == [dataclasses.replace(result(), row=suite[1])]
    assert measure(suite[1:]) == [*once, dataclasses.replace(result(), row=suite[2])]
    assert measured == [5, 7], "what is known was measured again"
    whole = measure(suite)
    assert measured == [5, 7, 3] and [one.row for one in whole] == suite
    written = (tmp_path / "goals.md").read_text()
    assert [written.index(one.name) for one in suite] == sorted(written.index(one.name) for one in suite)
    capsys.readouterr()
    measure(suite[:1], rounds=2)
    assert measured == [5, 7, 3, 3] and "holds for other rounds" in capsys.readouterr().out
    measure(suite[:1], rounds=2, suite=[])
    assert measured[4:] == [3], "a single row is measured whenever it is asked for"


def test_suites_are_rows_that_work_and_are_chosen_by_words(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[list[Row]] = []
    monkeypatch.setattr(goals, "measure_rows", lambda rows, **_: measured.append(rows))
    assert main(["bench", "goals", "--only=mini,small", "--peer=none"]) == 0
    assert [one.model.width for one in measured[0]] == [256, 512]
    for one in (one for suite in goals.SUITES.values() for one in suite):
        assert one.config.train.batch_size > 0 and one.goal is None or one.aim is None or one.aim >= one.goal
    plot([result()], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--batch=0"], "batch=0 must be at least 1"),
        (["infer", "--length=1024"], "length=1024 is more than model.max_length=512"),
        (["train", "--peer=keras"], "unknown peer 'keras'"),
        (["goals", "--only=giant"], "only=giant is in the name of no row"),
        (["train", "--seconds=0"], "seconds=0.0 must be above 0"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *arguments]) == 2
    err = capsys.readouterr().err
    assert message in err and len(err.splitlines()) == 1
