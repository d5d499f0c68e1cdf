"""The command line: modes, settings, and one line for whatever a user gets wrong."""

import importlib
import json
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys
from collections.abc import Callable

import pytest
from cases import slow_but
from runs import ending, terminate, tiny

import experiments
from bertjax import __main__ as tools
from bertjax import config as config_lib
from bertjax import experiment
from bertjax.data.open import open_vocabulary
from bertjax.finetune import open_sets
from bertjax.program import build
from bertjax.settings import describe
from bertjax.tasks import labelled

pytestmark = pytest.mark.usefixtures("quick_compiles")

Call = Callable[..., tuple[int, str, str]]
ALL = sorted(
    module.name
    for module in pkgutil.walk_packages(experiments.__path__, "experiments.")
    # Those on one base differ in a part that has tests of its own: tests/experiments looks at each without a run.
    if not module.ispkg and not module.name.startswith("experiments.attention.")
)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs the tiny experiment with some flags: exit code, standard output, standard error."""

    def run(*arguments: str, base: config_lib.Config | None = None) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
        code = 0
        try:
            experiment.main(tiny() if base is None else base)
        except SystemExit as end:
            code = int(end.code or 0)
        return code, *capsys.readouterr()

    return run


def test_a_run_leaves_its_result_and_is_not_run_again(
    call: Call, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory: list[object] = []  # on a CPU it is kept from the start, with room for what is compiled
    monkeypatch.setattr("bertjax.heap.keep", lambda: memory.append("kept"))
    monkeypatch.setattr("bertjax.heap.reserve", lambda programs: memory.append(len([*programs])))
    where = f"--workdir={tmp_path}"
    code, out, err = call(where)
    assert code == 0
    assert memory == ["kept", 1]
    result = json.loads(out.splitlines()[-1])
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["step"] == 12
    assert {"heldout_loss", "heldout_mlm_accuracy", "heldout_nsp_accuracy"} <= result["metrics"].keys()
    for part in (
        "devices ",
        "model ",
        "attention   full by reference (no kernel for cpu)",
        "batch ",
        "data ",
        "output ",
        "start       from scratch",
        "compiled in",
    ):
        assert part in err
    assert (tmp_path / "tensorboard").is_dir()
    assert config_lib.read_workdir(str(tmp_path))[0] == tiny()

    code, out, _ = call(where)
    assert code == 0
    assert "finished before, at step 12" in out
    assert str(tmp_path / "checkpoints") in out

    code, out, _ = call(where, "--mode=evaluate", "--set", "mesh.data=2")
    assert code == 0
    again = json.loads(out.splitlines()[-1])
    assert again["heldout_loss"] == pytest.approx(result["metrics"]["heldout_loss"], rel=1e-5)

    code, out, _ = call(where, "--mode=evaluate", "--set", "train.eval_batches=1")
    assert code == 0
    assert json.loads(out.splitlines()[-1])["heldout_loss"] != again["heldout_loss"]
    code, out, err = call(where, "--mode=evaluate", "--set", "model.layers=1")
    assert (code, out) == (2, "")
    assert "was trained otherwise: model.layers: 2 there, 1 here; leave that setting out" in err

    code, out, err = call(where, "--set", "model.layers=1", "--set", "train.seed=3")
    assert (code, out) == (2, "")
    assert "holds another run: model.layers: 2 there, 1 here; train.seed: 0 there, 3 here" in err


def test_show_and_help_name_every_setting(call: Call) -> None:
    code, out, _ = call("--mode=show", "--set", "model.layers=3", "--set", "optim.optimizer=lamb")
    assert code == 0
    assert "model.layers=3" in out.splitlines()
    assert "optim.optimizer=lamb" in out.splitlines()
    code, out, _ = call("--help")
    assert code == 0
    for mode in experiment.MODES:
        assert f"  {mode} " in out
    for path, _, doc in describe(tiny(), config_lib.CHOICES):
        assert f"  {path}=" in out
        assert doc, f"{path} is not documented"


def test_plan_compiles_and_runs_nothing(call: Call, tmp_path: pathlib.Path) -> None:
    code, out, _ = call(f"--workdir={tmp_path}", "--mode=plan", "--set", "mesh.data=2")
    assert code == 0
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert plan["devices"] == 2
    assert f"{plan['parameters']:,}" in out
    assert plan["bytes_per_device"]["parameters"] == 4 * plan["parameters"]
    assert plan["bytes_per_device"]["optimizer"] >= 8 * plan["parameters"]
    assert not (tmp_path / "checkpoints").exists()


WRONG = {
    "unknown setting": (["--set", "model.layer=2"], "unknown setting 'model.layer': did you mean 'layers'?"),
    "wrong type": (["--set", "model.layers=two"], "model.layers='two' is not of type int"),
    "unknown preset": (["--set", "model=bse"], "unknown model 'bse': did you mean 'base'?"),
    "mesh larger than the machine": (["--set", "mesh.data=16"], "needs 16 devices and 8 are here"),
    "mesh axis without a rule": (["--set", "mesh.fsdp=2"], "set mesh.rules=fsdp or mesh.fsdp=1"),
    "batch over mesh": (
        ["--set", "mesh.data=8", "--set", "train.batch_size=12"],
        "does not divide into train.microbatches=1 over the 8 replicas of the mesh (data*fsdp): "
        "set train.batch_size=8 or 16",
    ),
    "heads over tensor": (
        ["--set", "mesh.tensor=8", "--set", "mesh.rules=fsdp_tensor", "--set", "mesh.data=1"],
        "heads of size 4 does not divide over mesh.tensor=8",
    ),
    "no corpus": (["--set", "data.corpus=/nowhere"], "/nowhere"),
    "pairs for nsp": (["--set", "data.format=padded"], "needs pairs with negatives=random"),
    "rows too long": (["--set", "data.length=64"], "set model.max_length=64 (now 16)"),
    "unknown flag": (["--sett", "a=b"], "--help lists all flags"),
    "stray word": (["train"], "unexpected argument 'train'"),
    "half a cluster": (["--coordinator=localhost:1"], "--coordinator needs --processes"),
    "no coordinator": (["--process=1"], "--processes and --process need --coordinator=HOST:PORT"),
    "no such process": (
        ["--coordinator=localhost:1", "--processes=2", "--process=2"],
        "--process=2 of --processes=2: the first is 0, the last 1",
    ),
    "no address": (["--coordinator=8476", "--processes=2", "--process=0"], "write it as HOST:PORT"),
    "unknown mode": (["--mode=trian"], "--mode=trian: value should be one of"),
    "flag of another type": (["--processes=two"], "--processes=two"),
    "unknown rules": (["--set", "mesh.rules=fdsp"], "unknown mesh.rules 'fdsp': did you mean 'fsdp'?"),
    "off is none": (["--set", "train.eval_every=0"], "must be at least 1, or none for never"),
    "no setting": (["--set", "model.layers"], "--set takes path=value, not 'model.layers'"),
    "length over mesh": (
        [
            *("--set", "mesh.sequence=4", "--set", "mesh.rules=fsdp_tensor_sequence"),
            *("--set", "mesh.data=2"),
        ],
        "length of size 14 does not divide over mesh.sequence=4",
    ),
    "nothing to evaluate": (["--mode=evaluate"], "holds no run"),
}


@pytest.mark.parametrize("flags, message", WRONG.values(), ids=WRONG.keys())
def test_wrong_input_is_one_line(call: Call, tmp_path: pathlib.Path, flags: list[str], message: str) -> None:
    workdir = tmp_path / "run"
    code, out, err = call(f"--workdir={workdir}", *flags)
    assert (code, out) == (2, "")
    assert err.startswith("error: ") and len(err.splitlines()) == 1, err
    assert message in err
    assert not workdir.exists() or not any(workdir.iterdir())


def test_a_vocabulary_larger_than_the_models_is_one_line(call: Call, tmp_path: pathlib.Path) -> None:
    words = tmp_path / "text.txt"
    words.write_text("\n\n".join(f"sentence number {i} says w{i}. and ends here." for i in range(60)))
    where = [f"--input={words}", f"--out={tmp_path / 'tokenizer'}"]
    assert tools.main(["tokenizer", *where, "--vocab=90", "--min_frequency=1"]) == 0
    corpus = tmp_path / "corpus"
    rest = [f"--input={words}", f"--tokenizer={tmp_path / 'tokenizer'}", f"--out={corpus}", "--heldout=0.3"]
    assert tools.main(["prepare", *rest]) == 0
    code, _, err = call(f"--workdir={tmp_path / 'run'}", "--set", f"data.corpus={corpus}")
    assert code == 2
    assert "more than model.vocab=53: set model.vocab=" in err


def test_a_workdir_that_cannot_be_one_is_one_line(call: Call, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for code, out, err in (
        call(f"--workdir={file}"),
        call(f"--workdir={file / 'below'}"),
        call("--workdir=/proc/run"),  # where not even root can write
        call(),
    ):
        assert (code, out) == (2, "") and len(err.splitlines()) == 1, err
        assert re.match(
            r"error: (--workdir=.* cannot be a folder: .* is a file|.*/proc/run|--workdir is missing)", err
        ), err
    assert file.read_bytes() == b""


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {"nodel": 1}, "fingerprint": {}}'])
def test_a_config_that_nobody_wrote_is_one_line(call: Call, tmp_path: pathlib.Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    for mode in ("train", "evaluate"):
        code, out, err = call(f"--workdir={tmp_path}", f"--mode={mode}")
        assert (code, out) == (2, "") and len(err.splitlines()) == 1
        assert "config.json cannot be read" in err
    assert (tmp_path / "config.json").read_text() == content


def test_debug_shows_where_an_error_came_from(call: Call, tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match="needs 16 devices"):
        call(f"--workdir={tmp_path}", "--debug", "--set", "mesh.data=16")


def test_a_run_that_is_told_to_stop_exits_with_75_and_goes_on(call: Call, tmp_path: pathlib.Path) -> None:
    where = (f"--workdir={tmp_path}", "--set", "data.threads=0")
    with ending(5, terminate):
        code, out, err = call(*where)
    assert (code, out) == (75, "")
    assert err.splitlines()[-1] == "stopped at step 6 of 12: the same command goes on from there"
    code, out, err = call(*where)
    assert code == 0 and "resumes at step 6" in err
    assert json.loads(out.splitlines()[-1])["step"] == 12


# Orbax leaves futures behind when a write fails, which complain when they are collected, as in test_checkpoint.py.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("swept")
def test_a_full_disk_is_one_line_and_the_run_goes_on_when_there_is_room(
    call: Call, tmp_path: pathlib.Path
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        filler = disk / "filler"
        # Not even a config; no checkpoint; one checkpoint, but not the next.
        for left in (0, 40_000, 300_000):
            filler.unlink(missing_ok=True)
            filler.write_bytes(bytes(shutil.disk_usage(disk).free - left))
            code, out, err = call(f"--workdir={disk / 'run'}")
            assert (code, out) == (2, ""), err
            assert len([line for line in err.splitlines() if "space left" in line]) == 1, err
            assert err.splitlines()[-1].startswith("error: ") and "Traceback" not in err
            assert not list(disk.rglob("*.orbax-checkpoint-tmp*"))
        filler.unlink()
        code, out, err = call(f"--workdir={disk / 'run'}", "--set", "train.keep=1")
        assert code == 0, err
        assert json.loads(out.splitlines()[-1])["step"] == 12
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_what_an_experiment_needs_is_prepared_once_and_only_for_a_good_config(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    seen = []

    def prepare(config: config_lib.Config, workdir: str) -> config_lib.Config:
        seen.append(workdir)
        return config

    for flags in ((), ("--smoke",), ("--set", "train.steps=0"), ("--mode=plan",)):
        monkeypatch.setattr(sys, "argv", ["experiment", f"--workdir={tmp_path / str(len(flags))}", *flags])
        with pytest.raises(SystemExit):
            experiment.main(tiny("train.steps=2"), prepare=prepare, finish=lambda *_: {"mine": 1.0})
        out, _ = capsys.readouterr()
        if not flags:
            assert json.loads(out.splitlines()[-1])["metrics"] == {"mine": 1.0}
    assert seen == [str(tmp_path / "0"), str(tmp_path / "1")]  # a run and a plan


def test_an_experiment_starts_as_its_docstring_says(tmp_path: pathlib.Path) -> None:
    """In a process of its own, from the command line."""
    command = [sys.executable, "-m", "experiments.quickstart", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "python -m experiments.quickstart" in said and "--mode=MODE" in said
    assert "  model.layers=" in said


def test_a_run_that_diverges_exits_with_3(call: Call, tmp_path: pathlib.Path) -> None:
    wild = ["--set", "optim.learning_rate=1e38", "--set", "optim.clip_norm=none"]
    code, out, err = call(f"--workdir={tmp_path}", *wild)
    assert (code, out) == (3, "")
    assert "lower optim.learning_rate=1e+38" in err.splitlines()[-1]
    assert not (tmp_path / "result.json").exists()


# Their bases are other experiments, and each row is looked at without a run.
TABLES = {name: importlib.import_module(name).rows() for name in ALL if ".ablations." in name}


def source_of(name: str) -> str:
    return pathlib.Path(importlib.import_module(name).__file__ or "").read_text()


# Suites, and what runs share, have no config of their own: tests/experiments runs those.
SINGLE = [name for name in ALL if name not in TABLES and "experiment.main(config()" in source_of(name)]


# One of each way to run; the others differ in settings, which every change reads but few changes break, or have
# tests of their own: the two networks of ELECTRA in tests/tasks/test_rtd.py.
QUICK = ("quickstart", "finetune.tweets")


@pytest.mark.parametrize("name", slow_but(SINGLE, [f"experiments.{name}" for name in QUICK]))
def test_every_experiment_runs_small(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, call: Call
) -> None:
    module = importlib.import_module(name)
    assert f"python -m {name}" in module.__doc__, "the docstring says how to run it"
    code, out, err = call(f"--workdir={tmp_path}", "--smoke", base=module.config())
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["step"] > 0


@pytest.mark.parametrize("name, row", [(name, row) for name, rows in TABLES.items() for row in rows])
def test_every_row_of_a_table_is_a_run(name: str, row: str) -> None:
    """As it is, and made small, down to the shapes of its step; no two rows are alike."""
    rows, about = TABLES[name], importlib.import_module(name).__doc__ or ""
    assert f"python -m {name} --row=" in about and about.split("--row=")[1].split()[0] in rows
    config_lib.check(rows[row].config)
    small = experiment.smoke(rows[row].config)
    if labelled(small.tasks):
        sets = open_sets(small)
        build(sets.config, sets.tokenizer.vocabulary, lengths=sets.lengths)
    else:
        build(small, open_vocabulary(small.data.corpus, small.model.vocab))
    assert [other for other in rows if rows[other].config == rows[row].config] == [row]
    assert importlib.import_module(name).config() in [other.config for other in rows.values()]


def test_a_table_runs_the_row_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: pathlib.Path
) -> None:
    rows = {
        "first": experiment.Row(tiny("train.steps=2"), {"MNLI-m": 84.4, "SQuAD": 88.5}),
        "second": experiment.Row(tiny("train.steps=3")),
    }

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["experiment", *arguments])
        try:
            experiment.main(rows)
        except SystemExit as end:
            return int(end.code or 0), *capsys.readouterr()
        return 0, *capsys.readouterr()

    code, out, _ = call("--help")
    assert (
        "--row=ROW" in out and re.search(r"first +MNLI-m 84.4, SQuAD 88.5\n", out) and "train.steps=2" in out
    )
    code, out, err = call(f"--workdir={tmp_path}")
    assert (code, out) == (2, "") and err.startswith("error: --row is missing: choose from first, second")
    code, out, err = call(f"--workdir={tmp_path}", "--row=third")
    assert (code, out) == (2, "") and "first|second" in err and len(err.splitlines()) == 1
    code, out, err = call(f"--workdir={tmp_path}", "--row=second", "--set", "train.log_every=1")
    assert code == 0 and json.loads(out.splitlines()[-1])["step"] == 3
    assert err.startswith("published   second: no number published\n")
    code, out, _ = call(f"--workdir={tmp_path}", "--mode=evaluate")
    assert code == 0 and json.loads(out)["step"] == 3


def test_tools_are_listed_and_a_wrong_one_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert tools.main([]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in tools.TOOLS)
    assert tools.main(["prepar"]) == 2
    assert capsys.readouterr().err == "error: unknown tool 'prepar': did you mean 'prepare'?\n"
    for name in tools.TOOLS:
        importlib.import_module(f"bertjax.tools.{tools.MODULES.get(name, name)}")
