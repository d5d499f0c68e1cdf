"""Runs over labelled records: every task learns, the best checkpoint counts, and an interruption leaves no trace."""

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from cases import slow_but
from finetuning import MODEL, tiny
from runs import assert_equal, assert_near, kill, records, terminate

from bertjax import bundle, evaluate, finetune, train
from bertjax import step as step_lib
from bertjax.checkpoint import Checkpoints
from bertjax.config import (
    CHOICES,
    Config,
    TrainConfig,
    adopt,
    check,
    from_dict,
    read_workdir,
    to_dict,
)
from bertjax.data.labelled import made_up
from bertjax.data.labelled.buckets import LabelledLoader
from bertjax.data.labelled.records import Records
from bertjax.finetune import open_sets
from bertjax.history import History
from bertjax.layers.config import EncoderConfig
from bertjax.program import build, create_state
from bertjax.settings import override
from bertjax.sharding import MeshConfig
from bertjax.tasks import TASKS
from bertjax.tasks.classify import Classify
from bertjax.types import Batch

pytestmark = pytest.mark.usefixtures("quick_compiles")


def result(workdir: pathlib.Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((workdir / "result.json").read_text())
    return read


def heldout(workdir: pathlib.Path) -> list[dict[str, Any]]:
    return [line for line in records(workdir) if "heldout_score" in line]


# ---------------------------------------------------------------------------------------------- learning


LEARNED = {"classify": (4, 0.8), "regress": (5, 0.7), "tag": (4, 0.6), "answer": (3, 0.9), "embed": (4, 0.8)}


@pytest.mark.parametrize("name", slow_but(LEARNED, ("classify", "tag", "answer")))
def test_a_tiny_model_learns(name: str, tmp_path: pathlib.Path) -> None:
    epochs, wanted = LEARNED[name]
    config = tiny("data.shapes=1", tasks=(name,), epochs=epochs, eval_every=None)
    assert train.train(config, str(tmp_path))
    assert heldout(tmp_path)[-1]["heldout_score"] > wanted
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["record"] for line in lines] == list(range(1, made_up.SIZES["heldout"] + 1))
    assert not any(key.startswith("_") for line in lines for key in line)


@pytest.mark.slow
def test_a_tiny_model_learns_to_choose(tmp_path: pathlib.Path) -> None:
    model = ("model.layers=2", "model.width=48", "data.shapes=1", "optim.learning_rate=2e-3")
    config = tiny(*model, tasks=("choose",), epochs=12, eval_every=None)
    train.train(config, str(tmp_path))
    assert heldout(tmp_path)[-1]["heldout_accuracy"] > 0.6  # a third by chance


def test_several_tasks_share_an_encoder(tmp_path: pathlib.Path) -> None:
    shares = ("data.shapes=1", "tasks.tag.share=30", "tasks.classify.share=60")
    config = tiny(*shares, tasks=("classify", "tag"), epochs=3)
    train.train(config, str(tmp_path))
    (*_, last) = heldout(tmp_path)
    assert last["heldout_classify_accuracy"] > 0.6 and last["heldout_tag_accuracy"] > 0.7
    both = last["heldout_classify_accuracy"] + last["heldout_tag_f1"]
    assert last["heldout_score"] == pytest.approx(both / 2)
    assert {path.name for path in tmp_path.glob("*.jsonl")} == {
        "metrics.jsonl",
        "predictions_classify.jsonl",
        "predictions_tag.jsonl",
    }
    logged = [line for line in records(tmp_path) if "loss" in line]
    assert any("classify_loss" in line for line in logged) and any("tag_loss" in line for line in logged)


# ---------------------------------------------------------------------------------------------- one run

DROPOUT = ("model.dropout=0.1", "train.best=heldout_accuracy", "train.keep=1")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """25 steps with dropout, evaluated every 10."""
    workdir = tmp_path_factory.mktemp("whole")
    assert train.train(tiny(*DROPOUT), str(workdir))
    return workdir


def final(workdir: pathlib.Path, step: int) -> Any:
    sets = open_sets(tiny(*DROPOUT))
    program = build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    return jax.device_get(Checkpoints(workdir).restore(step, program.state))


@pytest.mark.parametrize(
    "at, how", slow_but([(7, kill), (12, kill), (13, terminate), (24, kill)], [(12, kill)])
)
def test_an_interruption_leaves_no_trace(
    whole: pathlib.Path, tmp_path: pathlib.Path, at: int, how: Any
) -> None:
    place = LabelledLoader.place

    def place_or_end(loader: LabelledLoader, step: int, *where: Any) -> Batch:
        if step == at and loader.examples.digest:  # of training, not of an evaluation
            how()
        return place(loader, step, *where)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LabelledLoader, "place", place_or_end)
        with pytest.raises(BaseException, match=None if how is kill else "stopped at step 14 of 25"):
            train.train(tiny(*DROPOUT), str(tmp_path))
    assert train.train(tiny(*DROPOUT), str(tmp_path))
    assert heldout(tmp_path) == heldout(whole)
    assert_equal(final(tmp_path, 25), final(whole, 25))
    assert (tmp_path / "predictions.jsonl").read_text() == (whole / "predictions.jsonl").read_text()
    found, wanted = result(tmp_path), result(whole)
    assert found["metrics"] == wanted["metrics"] and found["step"] == wanted["step"]


def test_a_finished_run_is_not_run_again(whole: pathlib.Path) -> None:
    before = (whole / "result.json").read_text()
    assert not train.train(tiny(*DROPOUT), str(whole))
    assert (whole / "result.json").read_text() == before


def test_the_config_is_completed_by_the_records(whole: pathlib.Path) -> None:
    config, fingerprint = read_workdir(str(whole))
    (task,) = config.tasks
    assert isinstance(task, Classify) and task.labels == tuple(f"topic{i}" for i in range(made_up.TOPICS))
    assert config.train.steps == 25 and from_dict(to_dict(config)) == config
    assert "path" not in fingerprint["tasks"][0]["records"]
    with pytest.raises(ValueError, match="holds another run: optim.learning_rate"):
        train.train(tiny(*DROPOUT, "optim.learning_rate=1"), str(whole))


def test_a_mesh_and_microbatches_learn_the_same(tmp_path: pathlib.Path) -> None:
    plain = ("model.dropout=0.0", "train.epochs=0.4")
    train.train(tiny(*plain), str(tmp_path / "one"))
    others = ("mesh.data=2", "mesh.fsdp=2", "mesh.rules=fsdp", "train.microbatches=2")
    train.train(tiny(*plain, *others), str(tmp_path / "many"))
    first, second = (Checkpoints(tmp_path / name) for name in ("one", "many"))
    assert first.latest() == second.latest() == 10
    assert_near(jax.device_get(second.load_params(10)), jax.device_get(first.load_params(10)), 5e-3)


def test_microbatches_keep_the_rows_of_an_example_together() -> None:
    x = np.arange(24)
    parts = np.asarray(step_lib._split(jax.numpy.asarray(x), 2, 8))
    assert parts.tolist() == [
        [0, 1, 2, 6, 7, 8, 12, 13, 14, 18, 19, 20],
        [3, 4, 5, 9, 10, 11, 15, 16, 17, 21, 22, 23],
    ]
    assert np.asarray(step_lib._split(jax.numpy.asarray(x[:8]), 2, 8)).tolist() == [
        [0, 2, 4, 6],
        [1, 3, 5, 7],
    ]


# ---------------------------------------------------------------------------------------------- the best one


def test_the_best_checkpoint_is_kept_and_used(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rate that destroys what was learned: the best evaluation is not the last, and its predictions are kept, too."""
    predict, made = finetune.predict, []

    def counted(*given: Any) -> Any:
        made.append(given)
        return predict(*given)

    monkeypatch.setattr(finetune, "predict", counted)
    settings = (
        "optim.learning_rate=0.3",
        "optim.schedule=constant",
        "train.best=heldout_loss",
        "train.keep=1",
    )
    train.train(tiny(*settings, epochs=5, eval_every=25), str(tmp_path))
    losses = {line["step"]: line["heldout_loss"] for line in heldout(tmp_path)}
    assert len(made) == len(losses) == 5  # none twice
    best = min(losses, key=lambda step: (losses[step], step))
    found = result(tmp_path)
    assert found["step"] == best and found["metrics"]["heldout_loss"] == losses[best]
    assert best < 125, "the test wants a run whose last checkpoint is not its best"
    assert Checkpoints(tmp_path)._steps() == [best, 125]
    assert bundle.load(str(tmp_path)).step == best
    again = evaluate.run(str(tmp_path), MeshConfig(data=1))
    assert again["loss"] == pytest.approx(losses[best], rel=1e-5)
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["step"] == best
    lines = (tmp_path / "predictions.jsonl").read_text().splitlines()
    labels = Classify().read("heldout").columns["label"]
    right = np.mean([json.loads(line)["label"] == label for line, label in zip(lines, labels, strict=True)])
    assert right == pytest.approx(found["metrics"]["heldout_accuracy"])


def test_a_run_ends_when_nothing_gets_better(tmp_path: pathlib.Path) -> None:
    settings = ("optim.learning_rate=0", "train.best=heldout_loss", "train.patience=2")
    config = tiny(*settings, epochs=4, eval_every=5)
    assert train.train(config, str(tmp_path))
    assert [line["step"] for line in heldout(tmp_path)] == [5, 10, 15]
    assert result(tmp_path)["step"] == 5
    assert not train.train(config, str(tmp_path))  # finished, though not at its last step
    (tmp_path / "result.json").unlink()
    assert train.train(config, str(tmp_path))
    assert result(tmp_path)["step"] == 5 and len(heldout(tmp_path)) == 3


def test_history_judges_as_asked(tmp_path: pathlib.Path) -> None:
    lines = [(5, 0.5, 0.9), (10, 0.4, None), (15, 0.4, 0.95), (20, 0.6, 0.1)]
    text = "".join(json.dumps({"step": s, "heldout_loss": a, "heldout_f1": b}) + "\n" for s, a, b in lines)
    (tmp_path / "metrics.jsonl").write_text('{"step": 5, "loss": 1.0}\n' + text + '{"step": 20, "hel')

    def best(name: str | None, until: int, patience: int | None = None) -> tuple[int | None, bool]:
        found = History(str(tmp_path), TrainConfig(best=name, patience=patience), until)
        return found.best, found.exhausted

    assert best("heldout_loss", 20) == (10, False) and best("heldout_f1", 20) == (15, False)
    assert best("heldout_f1", 10) == (5, False) and best("heldout_f1", 10, 1) == (5, True)
    assert best("heldout_loss", 20, 2) == (10, True) and best("heldout_loss", 15, 2) == (10, False)
    assert best(None, 20) == (None, False) and best("heldout_loss", 4) == (None, False)
    assert History(str(tmp_path), TrainConfig(), 20).chosen[0] == 20
    with pytest.raises(ValueError, match="train.best=heldout_f2 is no held-out metric.*did you mean"):
        History(str(tmp_path), TrainConfig(best="heldout_f2"), 0).add(5, {"heldout_f1": 1.0})


# ---------------------------------------------------------------------------------------------- from another run


def from_run(
    source: pathlib.Path, *settings: str, task: Classify | None = None, epochs: float = 0.1
) -> Config:
    """Fine-tuning that keeps what it finds."""
    config = tiny()
    model = dataclasses.replace(EncoderConfig(), init=str(source))
    config = dataclasses.replace(config, model=model, tasks=config.tasks if task is None else (task,))
    config = override(adopt(config), ["optim.learning_rate=0", "model.dropout=0.0", *settings], CHOICES)
    return dataclasses.replace(config, train=dataclasses.replace(config.train, epochs=epochs))


def test_a_run_starts_from_another(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """With its encoder, its tokenizer and, for the same classes, its head."""
    config = from_run(whole)
    assert config.model.width == MODEL.width and config.data.corpus == str(whole)
    train.train(config, str(tmp_path))
    loss = result(whole)["metrics"]["heldout_loss"]
    assert heldout(tmp_path)[-1]["heldout_loss"] == pytest.approx(loss, rel=1e-4)


def relabelled(folder: pathlib.Path, names: dict[str, str]) -> Classify:
    """The made-up records with other names of classes."""
    for which, file in (("train", "train.tsv"), ("heldout", "dev.tsv")):
        split = made_up.make_up("classify", which)
        pairs = zip(split.columns["text"], split.columns["label"], strict=True)
        (folder / file).write_text("text\tlabel\n" + "".join(f"{a}\t{names[b]}\n" for a, b in pairs))
    return Classify(records=Records(path=str(folder)))


def test_a_head_is_taken_with_the_order_of_its_classes(whole: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Classes that another run has in another order: the same head must not say other things."""
    first = {f"topic{i}": name for i, name in enumerate("dcba")}
    task = relabelled(tmp_path, first)
    one = dataclasses.replace(task, labels=("d", "c", "b", "a"))
    train.train(dataclasses.replace(tiny(epochs=2), tasks=(one,)), str(tmp_path / "one"))
    train.train(from_run(tmp_path / "one", task=task), str(tmp_path / "two"))
    (found,) = read_workdir(str(tmp_path / "two"))[0].tasks
    assert isinstance(found, Classify) and found.labels == ("d", "c", "b", "a")
    wanted = heldout(tmp_path / "one")[-1]["heldout_accuracy"]
    assert wanted > 0.5 and heldout(tmp_path / "two")[-1]["heldout_accuracy"] == wanted
    with pytest.raises(
        ValueError, match="a head 'classify' for topic0.*and the data has a, b, c, d: give the task"
    ):
        train.train(from_run(whole, task=task), str(tmp_path / "three"))
    called = dataclasses.replace(task, called="mine")
    assert open_sets(from_run(whole, task=called)).config.tasks[0].name == "mine"


def test_records_of_a_folder(tmp_path: pathlib.Path) -> None:
    split = made_up.make_up("classify", "train")
    rows = list(zip(split.columns["text"], split.columns["label"], strict=True))
    for name, some in (("train", rows[:80]), ("dev", rows[80:120])):
        (tmp_path / f"{name}.tsv").write_text("text\tlabel\n" + "".join(f"{a}\t{b}\n" for a, b in some))
    (tmp_path / "test.tsv").write_text("text\n" + "".join(f"{a}\n" for a, _ in rows[120:127]))
    task = Classify(records=Records(path=str(tmp_path), test="test"))
    train.train(dataclasses.replace(tiny(), tasks=(task,)), str(tmp_path / "run"))
    assert len((tmp_path / "run" / "predictions.jsonl").read_text().splitlines()) == 40
    lines = (tmp_path / "run" / "predictions_test.jsonl").read_text().splitlines()
    assert len(lines) == 7 and set(json.loads(lines[0])) == {
        "record",
        "label",
        "probability",
        "probabilities",
    }
    assert read_workdir(str(tmp_path / "run"))[0].train.steps == 5


REFUSED = [
    (("train.patience=2",), (), "train.patience waits for a better train.best"),
    (("train.epochs=0",), (), "train.epochs=0.0 must be above 0"),
    (("train.phases=4:10:8",), (), "train.phases are for pretraining"),
    ((), ("classify", "classify"), "names classify twice"),
]


@pytest.mark.parametrize("settings, tasks, message", REFUSED)
def test_runs_that_make_no_sense(settings: tuple[str, ...], tasks: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        check(tiny(*settings, tasks=tasks or ("classify",)))
    assert "\n" not in str(error.value)


def test_epochs_and_pretraining_do_not_mix() -> None:
    with pytest.raises(ValueError, match="train.epochs counts passes over labelled records"):
        check(Config(train=TrainConfig(epochs=1)))
    mixed = dataclasses.replace(tiny(), tasks=(TASKS["mlm"], TASKS["classify"]))
    with pytest.raises(
        ValueError, match="tasks=mlm,classify: classify learns from labelled records and mlm from a"
    ):
        check(mixed)


def test_only_what_a_batch_is_of_moves() -> None:
    """A batch of one task leaves the heads of others as they are, whatever momentum they have."""
    config = tiny("data.shapes=1", "data.temperature=1000", tasks=("classify", "regress"))
    sets = open_sets(config)
    program = build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    loader = sets.loader("train")
    names = [loader.which(number)[0] for number in range(12)]
    last = next(number for number in range(1, 12) if len(set(names[: number + 1])) == 2)
    step = step_lib.make_train_step(program)
    with program.active():
        state = create_state(program)
        for number in range(last + 1):
            before = jax.device_get(state.params)
            batch = loader.place(number, program.mesh, config.mesh.rules)
            after, metrics = step(state, batch)
            state = after
    name = names[last]
    assert set(batch.targets) == {name} and program.idle(batch) == {f"heads_{names[0]}"}
    other = "regress" if name == "classify" else "classify"
    same = {key: jax.tree.all(jax.tree.map(np.array_equal, before[key], after.params[key])) for key in before}
    kernel = {
        key: np.array_equal(before[key]["output"]["bias"], after.params[key]["output"]["bias"])
        for key in before
        if key != "encoder"
    }
    assert (
        same[f"heads_{other}"]
        and not same[f"heads_{name}"]
        and kernel == {f"heads_{name}": False, f"heads_{other}": True}
    )
    assert f"{name}_loss" in metrics and f"{other}_loss" not in metrics
