"""Fine-tuning experiments: all of them run on made-up records, GLUE in its published layout from end to end."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import published_sets
import pytest

from bertjax import experiment, suite
from bertjax.config import check
from bertjax.data.labelled import made_up
from bertjax.data.labelled.records import read_split
from bertjax.suite import Entry
from experiments.finetune import chinese, glue, multitask, packages, superglue, xnli
from experiments.finetune.recipe import recipe

SUITES = ("glue", "superglue", "chinese", "squad", "ner", "multiple_choice", "sts", "xnli", "multitask")
SINGLE = ("news", "tweets", "tweet_entities")


def run(module: Any, *arguments: str, finish: Any = None, workdir: str = "") -> int:
    """The exit code of a suite's command line."""
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sys, "argv", [module.__name__, *arguments])
        suite.main(module.entries, workdir=workdir, finish=finish)
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize("name", SUITES)
@pytest.mark.parametrize("data", [None, "some/folder"])
def test_every_config_is_sound(name: str, data: str | None) -> None:
    module = import_module(f"experiments.finetune.{name}")
    entries = module.entries(data)
    for entry in entries.values():
        check(entry.config)
        check(experiment.smoke(entry.config))
        assert entry.config.train.best == "heldout_score"
    assert "Command: python -m experiments.finetune." in str(module.__doc__)


@pytest.mark.parametrize("name", SINGLE)
def test_real_text_is_read_from_packages(name: str) -> None:
    module = import_module(f"experiments.finetune.{name}")
    check(module.config())
    check(experiment.smoke(module.config()))
    with pytest.raises(ValueError, match="needs the package no-such: pip install"):
        packages.folder_of("no-such", "no_such")


def small(data: Path, target: Path, *more: str) -> list[str]:
    """The flags of a suite of runs that compile in a second or two."""
    model = ["layers=1", "width=32", "heads=4", "vocab=168", "vocab_multiple=8", "max_length=40"]
    flags = [f"--set=model.{one}" for one in model]
    settings = ("data.length=40", "data.shapes=1", "train.epochs=1", "train.batch_size=16", "mesh.data=1")
    flags += [f"--set={one}" for one in settings]
    return [*flags, f"--data={data}", f"--workdir={target}", *more]


def table(target: Path) -> list[list[str]]:
    """The cells of the table of a suite."""
    lines = (target / "table.md").read_text().splitlines()[2:]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def glue_folder(path: Path) -> Path:
    """CoLA, RTE and STS-B as GLUE publishes them, with made-up words."""
    split, pairs = made_up.make_up("classify", "train"), made_up.make_up("regress", "train")
    flags = [int(label in ("topic0", "topic1")) for label in split.columns["label"]]
    texts = split.columns["text"]

    def write(name: str, head: str, rows: Sequence[str]) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(head + "".join(f"{row}\n" for row in rows))

    cola = [f"gj04\t{flag}\t\t{text}" for flag, text in zip(flags, texts, strict=True)]
    write("CoLA/train.tsv", "", cola[:64])
    write("CoLA/dev.tsv", "", cola[64:96])
    write("CoLA/test.tsv", "index\tsentence\n", [f"{i}\t{text}" for i, text in enumerate(texts[96:106])])
    names = ("not_entailment", "entailment")
    rte = [f"{i}\t{t}\t{t}\t{names[f]}" for i, (t, f) in enumerate(zip(texts, flags, strict=True))]
    head = "index\tsentence1\tsentence2"
    write("RTE/train.tsv", f"{head}\tlabel\n", rte[:64])
    write("RTE/dev.tsv", f"{head}\tlabel\n", rte[64:96])
    write("RTE/test.tsv", f"{head}\n", [row.rpartition("\t")[0] for row in rte[96:106]])
    columns = (pairs.columns[name] for name in ("text", "pair", "label"))
    sts = [f"{i}\t{a}\t{b}\t{y}" for i, (a, b, y) in enumerate(zip(*columns, strict=True))]
    write("STS-B/train.tsv", f"{head}\tscore\n", sts[:64])
    write("STS-B/dev.tsv", f"{head}\tscore\n", sts[64:96])
    write("STS-B/test.tsv", f"{head}\n", [row.rpartition("\t")[0] for row in sts[96:106]])
    return path


@pytest.mark.usefixtures("quick_compiles")
def test_glue_from_its_files_to_a_submission(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, target = glue_folder(tmp_path / "glue"), tmp_path / "runs"
    assert run(glue, *small(data, target, "--seeds=2", "--only=rte"), finish=glue.finish) == 0
    found = [json.loads((target / "rte" / str(s) / "result.json").read_text()) for s in (0, 1)]
    best = max(one["metrics"]["heldout_accuracy"] for one in found)
    assert [(line[0], line[3]) for line in table(target)] == [("rte", f"{100 * best:.2f}")]
    # With others beside it: the run that is there is not made again.
    arguments = small(data, target, "--only=cola,rte,stsb")
    made = (target / "rte" / "0" / "result.json").stat().st_mtime_ns
    assert run(glue, *arguments, finish=glue.finish) == 0
    assert (target / "rte" / "0" / "result.json").stat().st_mtime_ns == made
    lines = table(target)
    assert [line[0] for line in lines] == ["cola", "rte", "stsb"]
    assert lines[0][2] == "best 60.57, mean 59.04, sd 1.06"
    for name, legal in (("CoLA", {"0", "1"}), ("RTE", {"entailment", "not_entailment"})):
        rows = (target / "submission" / f"{name}.tsv").read_text().splitlines()
        assert rows[0] == "index\tprediction" and len(rows) == 11
        assert {row.split("\t")[1] for row in rows[1:]} <= legal
        assert [int(row.split("\t")[0]) for row in rows[1:]] == list(range(10))
    scores = (target / "submission" / "STS-B.tsv").read_text().splitlines()[1:]
    assert all(0 <= float(row.split("\t")[1]) <= 5 for row in scores)
    before = (target / "table.md").read_text()
    assert run(glue, *arguments) == 0 and (target / "table.md").read_text() == before
    assert run(glue, *arguments, "--only=cola,mrpc") == 1  # whose files are not there
    assert "mrpc" in (target / "table.md").read_text() and "failed: " in (target / "table.md").read_text()
    capsys.readouterr()


def predicted(*names: str) -> list[dict[str, Any]]:
    return [{"label": name} for name in names]


def test_the_files_for_glue_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "X.tsv"
    glue.write_submission(
        path, "rte", ("entailment", "not_entailment"), predicted("not_entailment", "entailment")
    )
    assert path.read_bytes() == b"index\tprediction\n0\tnot_entailment\n1\tentailment\n"
    glue.write_submission(path, "sst2", ("negative", "positive"), predicted("positive", "negative"))
    assert path.read_bytes() == b"index\tprediction\n0\t1\n1\t0\n"
    glue.write_submission(path, "stsb", (), [{"value": value} for value in (5.2, -1.0, 3.14159)])
    assert path.read_bytes() == b"index\tprediction\n0\t5.000\n1\t0.000\n2\t3.142\n"


SUBMITTED: dict[str, tuple[tuple[str, ...], list[dict[str, Any]], bytes]] = {
    "boolq": (
        ("false", "true"),
        predicted("true", "false"),
        b'{"idx": 0, "label": "true"}\n{"idx": 1, "label": "false"}\n',
    ),
    "wic": (
        ("False", "True"),
        predicted("True", "False"),
        b'{"idx": 0, "label": "true"}\n{"idx": 1, "label": "false"}\n',
    ),
    "wsc": (
        ("false", "true"),
        predicted("true", "false"),
        b'{"idx": 0, "label": "True"}\n{"idx": 1, "label": "False"}\n',
    ),
    "cb": (
        (),
        predicted("neutral", "entailment"),
        b'{"idx": 0, "label": "neutral"}\n{"idx": 1, "label": "entailment"}\n',
    ),
    "copa": ((), [{"choice": 1}, {"choice": 0}], b'{"idx": 0, "label": 1}\n{"idx": 1, "label": 0}\n'),
    "multirc": (
        ("0", "1"),
        predicted("1", "0", "0", "1", "1"),
        b'{"idx": 0, "passage": {"questions": [{"idx": 0, "answers": [{"idx": 0, "label": 1}, {"idx": 1, "label": 0}]}'
        b', {"idx": 1, "answers": [{"idx": 2, "label": 0}, {"idx": 3, "label": 1}, {"idx": 4, "label": 1}]}]}}\n',
    ),
    "record": (
        ("false", "true"),
        [{"probabilities": {"false": 1 - p, "true": p}} for p in (0.1, 0.3, 0.2)],
        b'{"idx": 100, "label": "NAME"}\n',
    ),
}


@pytest.mark.parametrize("name", SUBMITTED)
def test_the_files_for_superglue_byte_by_byte(name: str, tmp_path: Path) -> None:
    labels, predictions, wanted = SUBMITTED[name]
    task = superglue.SETS[name].task_of(str(published_sets.superglue(tmp_path)))
    if labels:
        task = dataclasses.replace(task, labels=labels)  # type: ignore[call-arg]
    split = task.read("test").select(range(len(predictions)))
    superglue.write_submission(tmp_path / "X.jsonl", name, task, split, predictions)
    if name == "record":
        wanted = wanted.replace(b"NAME", split.columns["option"][1].encode())
    assert (tmp_path / "X.jsonl").read_bytes() == wanted


@pytest.mark.usefixtures("quick_compiles")
def test_superglue_from_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RTE with both diagnostic sets; the others with --slow."""
    data, target = published_sets.superglue(tmp_path / "data"), tmp_path / "runs"
    assert run(superglue, *small(data, target, "--only=rte"), finish=superglue.finish) == 0
    lines = table(target)
    assert [line[:2] for line in lines] == [
        ["rte", "accuracy"],
        ["AX-b", "matthews"],
        ["AX-g", "parity"],
        ["AX-g", "accuracy"],
    ]
    assert lines[1][2] == "BERT-large 23" and all(line[3] for line in lines) and not lines[1][6]
    for name in ("RTE", "AX-b", "AX-g"):
        rows = [json.loads(row) for row in (target / "submission" / f"{name}.jsonl").read_text().splitlines()]
        assert [row["idx"] for row in rows] == list(range(published_sets.TEST))
        assert {row["label"] for row in rows} <= {"entailment", "not_entailment"}
    capsys.readouterr()


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
def test_all_of_superglue_from_its_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, target = published_sets.superglue(tmp_path / "data"), tmp_path / "runs"
    assert run(superglue, *small(data, target), finish=superglue.finish) == 0
    assert {line[0] for line in table(target)} == {*superglue.SETS, *superglue.DIAGNOSTIC}
    files = {path.stem for path in (target / "submission").iterdir()}
    assert files == {one.files.path for one in superglue.SETS.values()} | set(superglue.DIAGNOSTIC)
    capsys.readouterr()


@pytest.mark.usefixtures("quick_compiles")
def test_tasks_of_glue_learned_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(multitask, "GROUPS", {"few": ("cola", "stsb")})
    data, target = glue_folder(tmp_path / "glue"), tmp_path / "runs"
    arguments = small(data, target, "--set=data.temperature=2")
    assert run(multitask, *arguments, finish=multitask.finish) == 0
    lines = table(target)
    assert [line[:2] for line in lines] == [
        ["few", "score"],
        ["few: cola", "matthews"],
        ["few: stsb", "pearson"],
    ]
    assert lines[2][2] == "best 89.04"
    assert float(lines[0][3]) == pytest.approx((float(lines[1][3]) + float(lines[2][3])) / 2, abs=0.01)
    files = sorted(path.name for path in (target / "submission" / "few").iterdir())
    assert files == ["CoLA.tsv", "STS-B.tsv"]
    capsys.readouterr()


@pytest.mark.usefixtures("quick_compiles")
def test_one_language_is_learned_and_all_are_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xnli, "LANGUAGES", ("en", "sw", "zh"))
    data, target = published_sets.xnli(tmp_path / "data"), tmp_path / "runs"
    assert run(xnli, *small(data, target, "--only=zero_shot"), finish=xnli.finish) == 0
    lines = table(target)
    assert [line[0] for line in lines] == ["zero_shot", "zero_shot en", "zero_shot sw", "zero_shot zh"]
    assert [line[2] for line in lines] == ["test 81.4", "test 81.4", "-", "test 63.8"]
    capsys.readouterr()


OTHERS = {
    "sts": ("sts", ["bi_encoder", *(f"bi_encoder on sts{y}" for y in (12, 16)), "cross_encoder"]),
    "chinese": ("chinese", ["chnsenticorp", "lcqmc", "afqmc", "tnews"]),
    "race": ("multiple_choice", ["race"]),
    "swag": ("multiple_choice", ["swag"]),
}


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize("layout", OTHERS)
def test_other_sets_from_their_files(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, wanted = OTHERS[layout]
    module = import_module(f"experiments.finetune.{name}")
    below = {"race": "RACE", "swag": "swag"}.get(layout, ".")
    getattr(published_sets, layout)(tmp_path / "data" / below)
    only = [f"--only={layout}"] if name == "multiple_choice" else []
    finish = getattr(module, "finish", None)
    assert run(module, *small(tmp_path / "data", tmp_path / "runs", *only), finish=finish) == 0
    assert [line[0] for line in table(tmp_path / "runs")][: len(wanted)] == wanted
    capsys.readouterr()


SMALL = ("superglue record", "chinese lcqmc", "multiple_choice race", "sts bi_encoder", "multitask inference")


@pytest.mark.slow
@pytest.mark.usefixtures("quick_compiles")
@pytest.mark.parametrize("what", SMALL)
def test_a_suite_runs_small_on_made_up_records(
    what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, only = what.split()
    module = import_module(f"experiments.finetune.{name}")
    finish = getattr(module, "finish", None)  # which a small run does not ask
    assert run(module, "--smoke", f"--only={only}", f"--workdir={tmp_path}", finish=finish) == 0
    (line,) = table(tmp_path)
    assert line[0] == only and float(line[3]) >= -100
    capsys.readouterr()


def test_the_diagnostic_set_has_two_names(tmp_path: Path) -> None:
    for name, file in (("diagnostic", "diagnostic"), ("AX", "AX")):
        folder = tmp_path / name.lower()
        published_sets.write(folder / name / f"{file}.tsv", ["index\tsentence1\tsentence2", "0\ta b\tb a"])
        split = read_split(glue.diagnostic(folder), "test")
        assert split.columns["sentence2"] == ["b a"]


@pytest.mark.parametrize("which", ["train", "heldout", "test"])
def test_chinese_questions_with_and_without_names(which: str, tmp_path: Path) -> None:
    published_sets.chinese(tmp_path)
    found = chinese.entries(str(tmp_path))["lcqmc"].config.tasks[0].read(which)
    assert list(found.columns) == ["text_a", "text_b", "label"] and set(found.columns["label"]) == {"0", "1"}


def test_what_a_suite_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(glue, "--only=colla", f"--workdir={tmp_path}") == 2
    assert "unknown task 'colla': did you mean 'cola'" in capsys.readouterr().err
    assert run(glue, "--set=train.sepoch=1", f"--workdir={tmp_path}") == 2
    assert "unknown setting 'train.sepoch'" in capsys.readouterr().err
    assert run(glue, "rte", f"--workdir={tmp_path}") == 2
    assert not list(tmp_path.iterdir())


def test_the_table_tells_spread_and_cost(tmp_path: Path) -> None:
    entry = Entry(recipe(glue.SETS["rte"].task_of(None)), "accuracy", {"best": 66.06})
    folders = []
    for seed, accuracy in enumerate((0.5, 0.75, 0.625)):
        folder = tmp_path / str(seed)
        folder.mkdir()
        result = {"metrics": {"heldout_accuracy": accuracy}, "seconds": 1800, "devices": "4 x chip"}
        (folder / "result.json").write_text(json.dumps(result))
        folders.append(folder)
    assert suite.line("rte", entry, folders) == [
        "rte",
        "accuracy",
        "best 66.06",
        "75.00",
        "62.50",
        "12.50",
        "30.0",
        "6.000",
    ]
    assert suite.best_first(entry, folders)[0] == folders[1]
