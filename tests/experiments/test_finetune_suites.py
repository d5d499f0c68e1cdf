"""Fine-tuning experiments: all of them run on made-up records, GLUE in its published layout from end to end."""

import json
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from bertjax import experiment, suite
from bertjax.config import check
from bertjax.data.labelled import made_up
from bertjax.suite import Entry
from experiments.finetune import glue, packages
from experiments.finetune.recipe import recipe

SUITES = ("glue", "squad", "ner", "multiple_choice", "sts", "xnli")
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
    small = ["layers=1", "width=32", "heads=4", "vocab=168", "vocab_multiple=8", "max_length=40"]
    arguments = [f"--set=model.{one}" for one in small]
    arguments += ["--set=data.length=40", "--set=data.shapes=1", "--set=train.epochs=1", "--set=mesh.data=1"]
    arguments += [f"--data={data}", f"--workdir={target}", "--seeds=2", "--only=cola,rte,stsb"]
    assert run(glue, *arguments, finish=glue.finish) == 0
    lines = (target / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["cola", "rte", "stsb"]
    assert "best 60.57, mean 59.04, sd 1.06" in lines[2]
    found = [json.loads((target / "rte" / str(s) / "result.json").read_text()) for s in (0, 1)]
    best = max(one["metrics"]["heldout_accuracy"] for one in found)
    assert f"{100 * best:.2f}" == lines[3].split("|")[4].strip()
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


def test_what_a_suite_refuses(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(glue, "--only=colla", f"--workdir={tmp_path}") == 2
    assert "unknown task 'colla': did you mean 'cola'" in capsys.readouterr().err
    assert run(glue, "--set=train.sepoch=1", f"--workdir={tmp_path}") == 2
    assert "unknown setting 'train.sepoch'" in capsys.readouterr().err
    assert run(glue, "rte", f"--workdir={tmp_path}") == 2
    assert not list(tmp_path.iterdir())


def test_the_table_tells_spread_and_cost(tmp_path: Path) -> None:
    entry = Entry(recipe(glue.task_of("rte", None)), "accuracy", {"best": 66.06})
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
